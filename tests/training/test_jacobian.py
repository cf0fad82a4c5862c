from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srs_ray.models.mdeq import MDEQ, MDEQConfig
from srs_ray.models.solvers import SolverSetting
from srs_ray.training.jacobian import jacobian_energy

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
    reference=SolverSetting.named("anderson", 30, 1e-3),
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
