from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srs_ray.models.mdeq.model import MDEQ, MDEQConfig
from srs_ray.solvers.settings import SolverSettings
from srs_ray.training.jacobian import jacobian_energy, spectral_radius

SMALL = MDEQConfig(
    name="small",
    input_shape=(1, 4, 4),
    mean=(0.3,),
    std=(0.3,),
    channels=(8, 16),
    head_channels=(4, 8),
    final_channels=8,
    classes=3,
    downsample_times=0,
    solver=SolverSettings(solver="anderson", steps=30, tolerance=1e-3),
)


@pytest.fixture(scope="module")
def small_model() -> MDEQ:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MDEQ(SMALL).double().eval()


def state_and_injection(model: MDEQ, batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z_BD = torch.randn(batch, model.config.state_size, generator=generator, dtype=torch.float64)
    injection_BCHW = torch.randn(batch, 8, 4, 4, generator=generator, dtype=torch.float64)
    return z_BD, injection_BCHW


def test_energy_is_an_unbiased_estimate_of_the_exact_frobenius_norm(small_model: MDEQ) -> None:
    z_BD, injection_BCHW = state_and_injection(small_model, 2)
    size = small_model.config.state_size
    exact, variance = [], []
    for z_D, injection_CHW in zip(z_BD, injection_BCHW, strict=True):
        z_1D = z_D[None].requires_grad_()
        fz_1D = small_model.f(z_1D, injection_CHW[None])
        rows = [torch.autograd.grad(value, z_1D, retain_graph=True)[0][0] for value in fz_1D[0]]
        jacobian = torch.stack(rows)
        gram = jacobian @ jacobian.T
        exact.append(gram.trace() / size)
        variance.append(2 * (gram.square().sum() - gram.diagonal().square().sum()) / size**2)  # of v'Gv, v signs

    probes = 400
    z_ND = z_BD.repeat(probes, 1).requires_grad_()
    fz_ND = small_model.f(z_ND, injection_BCHW.repeat(probes, 1, 1, 1))
    energy = jacobian_energy(fz_ND, z_ND, torch.Generator().manual_seed(2))

    expected = float(torch.stack(exact).mean())
    deviation = float((torch.stack(variance).sum() / 4 / probes).sqrt())
    assert deviation < 0.05 * expected
    assert abs(float(energy.detach()) - expected) < 4 * deviation


def test_energy_has_the_gradient_of_central_differences(small_model: MDEQ) -> None:
    z_BD, injection_BCHW = state_and_injection(small_model, 3)
    weight = small_model.fullstage.branches[0].blocks[0].conv2.weight

    def energy() -> Tensor:
        z = z_BD.clone().requires_grad_()
        return jacobian_energy(small_model.f(z, injection_BCHW), z, torch.Generator().manual_seed(3))

    (gradient,) = torch.autograd.grad(energy(), weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    step = 1e-6
    around = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        around.append(float(energy().detach()))
        with torch.no_grad():
            weight -= sign * step * direction
    difference = (around[0] - around[1]) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-5)


def test_the_spectral_radius_is_the_largest_eigenvalue_also_where_the_leading_ones_are_a_complex_pair() -> None:
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    rotation = torch.zeros(6, 6, dtype=torch.float64)
    rotation[:2, :2] = 0.9 * torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    real = torch.diag(torch.tensor([-0.7, 0.3, 0.2, 0.1, 0.0, 0.0], dtype=torch.float64))
    z_BD = torch.zeros(3, 6, dtype=torch.float64)
    for diagonal, expected in ((rotation, 0.9), (real, 0.7)):
        matrix = basis @ diagonal @ basis.T
        found_B = spectral_radius(lambda z, m=matrix: z @ m, z_BD, generator, steps=60)
        assert found_B == pytest.approx(torch.full((3,), expected), rel=0.02)


def test_the_spectral_radius_of_the_layer_is_that_of_its_whole_jacobian(small_model: MDEQ) -> None:
    z_BD, injection_BCHW = state_and_injection(small_model, 2)
    found_B = spectral_radius(
        lambda z: small_model.f(z, injection_BCHW), z_BD, torch.Generator().manual_seed(2), steps=400
    )
    for sample in range(2):
        one = slice(sample, sample + 1)
        jacobian = torch.autograd.functional.jacobian(
            lambda z, one=one: small_model.f(z.unsqueeze(0), injection_BCHW[one])[0], z_BD[sample]
        )
        exact = float(torch.linalg.eigvals(jacobian).abs().max())
        assert float(found_B[sample]) == pytest.approx(exact, rel=0.05)


def test_a_layer_that_does_not_look_at_its_state_has_radius_zero() -> None:
    z_BD = torch.ones(2, 4, dtype=torch.float64)
    found_B = spectral_radius(lambda z: 0.0 * z + 1.0, z_BD, torch.Generator().manual_seed(0))
    assert bool((found_B < 1e-12).all())
