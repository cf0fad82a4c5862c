"""Monotone models: their form, published logits, solvers, refusals, and bounds against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from srs_ray.errors import WeightsError
from srs_ray.models.monotone.architectures import MONOTONE
from srs_ray.models.monotone.certified import CertifiedNetwork
from srs_ray.models.monotone.checkpoints import certified_network, read_monotone
from srs_ray.models.monotone.checkpoints import random_monotone as random_of
from srs_ray.models.monotone.family import MonotoneFamily
from srs_ray.models.trial import try_out
from srs_ray.models.weights import Weights, write_weights
from srs_ray.solvers.iteration import FixedPointIteration, SolverSetting, solve

TINY = [name for name in MONOTONE if "tiny" in name]
PARITY = Path(__file__).resolve().parents[4] / "shared" / "parity" / "monotone"
PUBLISHED = {
    "mondeq_mnist_fc40_m20": ("mondeq-mnist-fc40", {"m": 20.0}, 60),
    "lben_mnist_fc80_g1": ("lben-mnist-fc80", {"m": 1.0, "gamma": 1.0}, 60),
    "mondeq_mnist_conv128_m20": ("mondeq-mnist-conv128", {"m": 20.0}, 20),
}


def images(config, count: int = 4, seed: int = 0) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.rand(count, *config.input_shape, generator=drawn, dtype=torch.float64)


def solved(made: CertifiedNetwork, x: torch.Tensor, steps: int = 3000) -> torch.Tensor:
    v = made.inject(x)
    start = torch.zeros(len(x), *made.state_shape, dtype=torch.float64)
    return solve(lambda z: made.f(z, v), start, SolverSetting.named("naive", steps, 1e-14)).z_BD


def layer_matrix(made: CertifiedNetwork) -> torch.Tensor:
    """M, dense."""
    return made.network.M(torch.eye(made.network.config.state_size, dtype=torch.float64)).T


@pytest.mark.parametrize("arch", TINY)
def test_the_layer_is_as_monotone_as_is_proved(arch: str) -> None:
    made = certified_network(arch, random_of(arch, 1))
    M = layer_matrix(made)
    smallest = float(torch.linalg.eigvalsh((M + M.T) / 2)[0])
    assert smallest >= made.constants.mu - 1e-12
    assert made.constants.mu > 0


@pytest.mark.parametrize("arch", [name for name in TINY if name.startswith(("lben", "explicit"))])
def test_the_linear_matrix_inequality_of_gamma_holds(arch: str) -> None:
    made = certified_network(arch, random_of(arch, 2))
    network, config = made.network, made.network.config
    M = layer_matrix(made)
    zero = torch.zeros(1, *config.input_shape, dtype=torch.float64)
    pixels = torch.eye(config.pixels, dtype=torch.float64).reshape(-1, *config.input_shape)
    U = (network._inject(pixels, network.factors) - network._inject(zero, network.factors)).T
    eye = torch.eye(config.state_size, dtype=torch.float64)
    G = (network.readout(eye, network.factors) - network.readout(0 * eye[:1], network.factors)).T
    Q = network.factors["Lam"][:, None] * U
    slack = M + M.T - (G.T @ G + Q @ Q.T) / network.gamma
    assert float(torch.linalg.eigvalsh(slack)[0]) >= (2 * network.m if network.m else 0) - 1e-10


@pytest.mark.parametrize("arch", TINY)
def test_a_solve_ends_at_the_equilibrium_and_its_error_is_bounded(arch: str) -> None:
    made = certified_network(arch, random_of(arch, 3))
    network, x = made.network, images(made.network.config)
    state, v = solved(made, x), made.inject(x)
    z = network.point(state)
    again = network.point(z - 0.01 * (network.factors["Psi"] * network.M(z) - v))
    assert float((again - z).abs().max()) < 1e-11
    exact, error = made.proved_logits(state, x)
    assert float(error.max()) < 1e-7
    iteration = FixedPointIteration(
        lambda z: made.f(z, v), torch.zeros_like(state), SolverSetting.named("naive", 40, None)
    )
    for _ in range(40):
        iteration.advance()
        logits, error = made.proved_logits(iteration.z_BD, x)
        off = (logits - exact)[:, :, None] - (logits - exact)[:, None, :]
        assert (off.abs() <= error + 1e-7).all()


@pytest.mark.parametrize("arch", TINY)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e9])
def test_no_hostile_state_is_proved_nearer_than_it_is(arch: str, scale: float) -> None:
    made = certified_network(arch, random_of(arch, 4))
    x = images(made.network.config)
    exact_state = solved(made, x)
    exact, _ = made.proved_logits(exact_state, x)
    drawn = torch.Generator().manual_seed(5)
    for kind in range(6):
        noise = torch.randn(exact_state.shape, generator=drawn, dtype=torch.float64)
        near = exact_state + scale * noise * torch.rand(1, generator=drawn) ** (4 * kind)
        logits, error = made.proved_logits(scale * noise if kind == 0 else near, x)
        off = (logits - exact)[:, :, None] - (logits - exact)[:, None, :]
        assert (off.abs() <= error + 1e-7).all()


def test_a_state_that_an_optimiser_pulls_away_is_not_proved_nearer_than_it_is() -> None:
    """Gradient ascent on the ratio of the true error of a logit pair to the bound on it."""
    made = certified_network("lben-tiny-digits", random_of("lben-tiny-digits", 6))
    network, x = made.network, images(made.network.config, 1)
    exact_state = network.point(solved(made, x))
    exact = network.readout(exact_state, network.factors)
    weighted = made.constants.weighted_KK[0, 1]
    M = layer_matrix(made)
    S = torch.linalg.cholesky((M + M.T) / 2)
    moved = (exact_state + 0.1 * torch.rand(exact_state.shape, dtype=torch.float64)).requires_grad_()
    best = 0.0
    optimiser = torch.optim.Adam([moved], lr=0.01)
    for _ in range(150):
        z = moved.relu()
        p = network.factors["Lam"] * network.inject(x) - network.M(z)
        r = torch.where(z > 0, -p, -p.clamp(min=0.0))
        bound = weighted * torch.linalg.solve_triangular(S, r.T, upper=False).norm()
        off = (network.readout(z, network.factors) - exact)[0]
        ratio = (off[0] - off[1]).abs() / bound
        optimiser.zero_grad()
        (-ratio).backward()
        optimiser.step()
        logits, error = made.proved_logits(moved.detach(), x)
        best = max(best, float(ratio.detach()))
        assert float(((logits - exact)[0, 0] - (logits - exact)[0, 1]).abs()) <= float(error[0, 0, 1])
    assert best > 0.3, "the search came near the bound, or it says nothing of it"


@pytest.mark.parametrize("arch", TINY)
def test_no_pair_of_images_beats_the_constants(arch: str) -> None:
    """Random pairs far and near, and the exact local slope of each pair of logits."""
    made = certified_network(arch, random_of(arch, 7))
    config, limit = made.network.config, made.lipschitz()
    x = images(config, 6, 8)
    for scale in (1e-4, 1.0):
        other = x + scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        logits, _ = made.proved_logits(solved(made, x), x)
        logits2, _ = made.proved_logits(solved(made, other), other)
        change = logits - logits2
        rate = (change[:, :, None] - change[:, None, :]).abs() / (x - other).flatten(1).norm(dim=1)[:, None, None]
        assert (rate <= limit + 1e-4).all()
    slopes = local_slopes(made, x[:1])
    for c in range(config.classes):
        for j in range(c):
            assert float((slopes[c] - slopes[j]).norm()) <= float(limit[c, j])


def local_slopes(made: CertifiedNetwork, x: torch.Tensor) -> torch.Tensor:
    """(K, X): G (D^-1 ... ) the derivative of the equilibrium's logits by the implicit function theorem."""
    network, config = made.network, made.network.config
    on = (network.point(solved(made, x))[0] > 0).double()
    M = layer_matrix(made)
    zero = torch.zeros_like(x)
    pixels = torch.eye(config.pixels, dtype=torch.float64).reshape(-1, *config.input_shape)
    U = (network._inject(pixels, network.factors) - network._inject(zero, network.factors)).T
    U = U / network.std.flatten().repeat_interleave(config.pixels // len(config.std))
    inner = torch.diag(1 - on) + on[:, None] * M
    dz = torch.linalg.solve(inner, on[:, None] * (network.factors["Lam"][:, None] * U))
    eye = torch.eye(config.state_size, dtype=torch.float64)
    G = (network.readout(eye, network.factors) - network.readout(0 * eye[:1], network.factors)).T
    return G @ dz


@pytest.mark.parametrize("arch", TINY)
def test_the_rounding_allowance_covers_the_rounding(arch: str) -> None:
    """p and the logits in float64 against the same in extended precision (float32 against float64: u is 2^29 times)."""
    weights = random_of(arch, 10)
    made, rough = (
        certified_network(arch, weights),
        MonotoneFamily().open(arch, weights, torch.device("cpu"), torch.float32),
    )
    network, x = made.network, images(made.network.config, 3).float().double()
    z = network.point(solved(made, x)).float().double()
    exact = network.factors["Lam"] * network.inject(x) - network.M(z)
    low = rough.network
    found = low.factors["Lam"] * low.inject(x.float()) - low.M(z.float())
    allowed = 2.0**29 * 3 * network.longest_sum * 2.0**-53
    bound = allowed * (network.factors["Lam"] * network.absolute_inject(x) + network.absolute_M(z))
    off = (found.double() - exact).abs()
    assert (off <= bound + 1e-30).all()
    assert float(off.max()) > 0


@pytest.mark.parametrize("arch", TINY)
def test_a_model_opens_for_samplers_and_logits_are_of_one_image_each(arch: str, tmp_path: Path) -> None:
    write_weights(random_of(arch), tmp_path / "w.safetensors")
    weights = MonotoneFamily().read(arch, str(tmp_path / "w.safetensors"))
    model = MonotoneFamily().open(arch, weights, torch.device("cpu"), torch.float32)
    try_out(model)
    assert model(torch.rand(2, *model.input_shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arch", "changes", "said"),
    [
        ("mondeq-tiny-digits", {"m": torch.tensor(0.0)}, "m is 0, expected above 0"),
        ("mondeq-tiny-digits", {"m": torch.tensor(-1.0)}, "m is -1"),
        ("lben-tiny-digits", {"gamma": torch.tensor(-2.0)}, "gamma is -2"),
        ("mondeq-tiny-digits-conv", {"g": torch.tensor(-0.01)}, "g is -0.01, expected at least 0"),
        ("mondeq-tiny-digits-tiers", {"gn.0": torch.tensor(-0.01)}, "gn.0 is -0.01"),
        ("lben-tiny-digits-conv", {"u": torch.tensor(-0.01)}, "u is -0.01"),
        (
            "mondeq-tiny-digits",
            {"A.weight": torch.full((24, 24), float("nan"))},
            "A.weight: holds values that are not finite",
        ),
        ("mondeq-tiny-digits", {"U.weight": torch.ones(24, 100)}, r"whose images are 1x8x8.*\n.*U.weight: found shape"),
        ("mondeq-tiny-digits-conv", {"Wout.weight": torch.ones(10, 6 * 16)}, "Wout.weight: found shape"),
        ("lben-tiny-digits-conv", {"A.weight": torch.zeros(6, 6, 3, 3)}, "A.weight is 0 everywhere"),
    ],
)
def test_broken_weights_are_refused_by_name(arch: str, changes: dict, said: str) -> None:
    weights = Weights({**random_of(arch).tensors, **changes}, {})
    with pytest.raises(WeightsError, match=said):
        certified_network(arch, weights)


def test_a_constant_that_published_files_leave_out_is_asked_for() -> None:
    tensors = {
        name: tensor for name, tensor in random_of("lben-tiny-digits").tensors.items() if name not in ("m", "gamma")
    }
    with pytest.raises(WeightsError, match=r"no m and no gamma.*--m VALUE --gamma VALUE"):
        certified_network("lben-tiny-digits", Weights(tensors, {}))


def explicit_near_its_limit(nudge: float) -> Weights:
    """An explicit W of which the inequality of gamma holds with about 0.001 to spare, moved by `nudge`."""
    made = certified_network("lben-tiny-digits", random_of("lben-tiny-digits", 11, m=0.0005))
    network, tensors = made.network, random_of("lben-tiny-digits", 11, m=0.0005).tensors
    eye = torch.eye(24, dtype=torch.float64)
    W = eye - torch.diag(network.factors["Psi"]) @ layer_matrix(made)
    V = tensors["V.weight"].double()
    W = W + V.T @ V  # takes what V adds
    worst = torch.zeros(24, 24, dtype=torch.float64)
    worst[0, 0] = nudge
    return Weights(
        {
            "gamma": tensors["gamma"], "W.weight": W + worst, "U.weight": tensors["B.weight"],
            "U.bias": tensors["B.bias"], "G.weight": tensors["G.weight"], "G.bias": tensors["G.bias"],
            "psi": tensors["psi"],
        },
        {},
    )  # fmt: skip


def test_weights_that_just_hold_are_proved_and_nudged_ones_are_refused_for_what_fails() -> None:
    made = certified_network("explicit-tiny-digits", explicit_near_its_limit(0.0))
    lmi = made.constants.conditions[0]
    assert 0 < lmi.margin < 0.0011
    with pytest.raises(
        WeightsError, match=r"refused: the smallest eigenvalue of Lam\(I-W\) \+ .* is proved to be at least -0"
    ):
        certified_network("explicit-tiny-digits", explicit_near_its_limit(0.01))


def test_a_product_with_itself_where_one_with_the_transpose_is_meant_is_refused() -> None:
    """V V for V V', as in a released program: positive only where V is symmetric."""
    right = explicit_near_its_limit(0.0).tensors
    V = 2 * torch.rand(24, 24, generator=torch.Generator().manual_seed(12), dtype=torch.float64) - 1
    with pytest.raises(WeightsError, match="is proved to be at least -"):
        certified_network("explicit-tiny-digits", Weights({**right, "W.weight": right["W.weight"] - V @ V}, {}))
    certified_network("explicit-tiny-digits", Weights({**right, "W.weight": right["W.weight"] - V @ V.T}, {}))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_logits_come_out_within_their_proved_error(name: str) -> None:
    if not PARITY.is_dir():
        pytest.skip(f"no published tensors at {PARITY}")
    arch, constants, steps = PUBLISHED[name]
    made = certified_network(arch, read_monotone(PARITY / f"{name}.weights.npz", constants))
    count = 2 if "conv" in arch else 16
    x = torch.from_numpy(np.load(PARITY / "inputs.npz")["mnist_x"][:count, None]).double() / 255
    expected = torch.from_numpy(np.load(PARITY / f"{name}.expected.npz")["logits"][:count]).double()
    logits, error = made.proved_logits(solved(made, x, steps), x)
    assert float((logits - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
    assert float(error.max()) < 1e-6


@pytest.mark.slow
def test_the_published_lben_of_cifar10_comes_near_its_logits() -> None:
    if not PARITY.is_dir():
        pytest.skip(f"no published tensors at {PARITY}")
    weights = read_monotone(PARITY / "lben_cifar10_conv81_g1.weights.npz", {"m": 0.1, "gamma": 1.0})
    made = certified_network("lben-cifar10-conv81", weights)
    x = torch.from_numpy(np.load(PARITY / "inputs.npz")["cifar_x"][:1]).double() / 255
    expected = torch.from_numpy(np.load(PARITY / "lben_cifar10_conv81_g1.expected.npz")["logits"][:1]).double()
    v, start = made.inject(x), torch.zeros(1, *made.state_shape, dtype=torch.float64)
    state = solve(lambda z: made.f(z, v), start, SolverSetting.named("anderson", 250)).z_BD
    assert float((made.head(state) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
