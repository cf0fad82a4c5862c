"""Stacks of 1-Lipschitz layers: constants against slopes and pairs, rounding, substitution, refusals, certificates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from srs_ray.cli import app
from srs_ray.errors import WeightsError
from srs_ray.lipschitz.judge import LipschitzJudge
from srs_ray.lipschitz.settings import LipschitzCertificate
from srs_ray.models.layers.config import LAYERED
from srs_ray.models.layers.family import LayeredFamily
from srs_ray.models.layers.network import random_layers
from srs_ray.models.opened import Opened
from srs_ray.models.trial import try_out
from srs_ray.models.weights import Weights, write_weights

TINY = [name for name in LAYERED if "tiny" in name]
CPU = torch.device("cpu")


def opened(arch: str, weights: Weights | None = None, dtype: torch.dtype = torch.float64) -> Opened:
    return LayeredFamily().open(arch, random_layers(arch) if weights is None else weights, CPU, dtype)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(model: Opened, x: torch.Tensor) -> torch.Tensor:
    """The stack as plain layers."""
    net = model.network
    h = ((x - net.mean) / net.std).flatten(1)
    for W, b, T in zip(net.W, net.b, net.T, strict=True):
        h = h - 2 * ((h @ W.T + b).relu() / T) @ W
    return h @ net.G.T + net.c


@pytest.mark.parametrize("arch", TINY)
def test_the_equilibrium_is_the_stack_of_plain_layers(arch: str) -> None:
    model, x = opened(arch), images(3)
    assert torch.allclose(model(x), plain(model, x), rtol=1e-12, atol=1e-12)
    logits, error = model.network.proved_logits(torch.zeros(3, model.state_size, dtype=torch.float64), x)
    assert torch.allclose(logits, plain(model, x), rtol=1e-12, atol=1e-12)
    assert 0 < float(error.max()) < 1e-8


@pytest.mark.parametrize("arch", TINY)
def test_each_layer_moves_no_two_points_apart_and_the_metric_dominates(arch: str) -> None:
    net = opened(arch).network
    for W, T in zip(net.W, net.T, strict=True):
        assert float(torch.linalg.eigvalsh(torch.diag(T) - W @ W.T)[0]) >= -1e-12


@pytest.mark.parametrize("arch", TINY)
def test_no_slope_and_no_pair_of_images_beats_the_constants(arch: str) -> None:
    model = opened(arch)
    limit, x = model.network.lipschitz(), images(5, 1)
    for i in range(5):
        slopes = torch.autograd.functional.jacobian(lambda one: plain(model, one[None])[0], x[i]).flatten(1)
        rates = (slopes[:, None] - slopes[None]).norm(dim=2)
        assert (rates <= limit).all()
        assert float(rates.max()) > 0.02 * float(limit.max()), "slopes far below say nothing of the constants"
    other = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    change = plain(model, x) - plain(model, other)
    rate = (change[:, :, None] - change[:, None]).abs() / (x - other).flatten(1).norm(dim=1)[:, None, None]
    assert (rate <= limit).all()


@pytest.mark.parametrize("arch", TINY)
def test_the_rounding_allowance_covers_that_of_a_coarser_type(arch: str) -> None:
    """float32 against float64, whose unit roundoff is 2^29 times smaller."""
    x = images(6, 3).float()
    model = opened(arch)
    exact = plain(model, x.double())
    _, error = model.network.proved_logits(torch.zeros(6, model.state_size, dtype=torch.float64), x.double())
    off = plain(opened(arch, dtype=torch.float32), x).double() - exact
    pairs = (off[:, :, None] - off[:, None]).abs()
    assert float(pairs.max()) > 0
    assert (pairs <= 2.0**29 * error).all()


@pytest.mark.parametrize("arch", TINY)
def test_a_stack_opens_for_samplers_and_is_certified_without_noise(arch: str, tmp_path: Path) -> None:
    write_weights(random_layers(arch), tmp_path / "w.safetensors")
    weights = LayeredFamily().read(arch, str(tmp_path / "w.safetensors"))
    try_out(opened(arch, weights, torch.float32))
    model = opened(arch, weights)
    row = LipschitzJudge(model, LipschitzCertificate(kind="lipschitz")).certify(images(1)[0].float(), 0, 3)
    assert row.predicted == int(plain(model, images(1).float().double()).argmax())
    assert row.radius > 0
    assert row.allowance < 1e-8


def test_a_constant_that_is_a_little_below_the_norm_is_refused_and_power_iteration_gives_such() -> None:
    """t from a few rounds of power iteration, as released programs keep it."""
    tensors = dict(random_layers("cpl-tiny-digits").tensors)
    W = tensors["layers.1.weight"].double()
    vector = torch.randn(W.shape[1], generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for _ in range(3):
        vector = W.T @ (W @ vector)
        vector = vector / vector.norm()
    tensors["layers.1.t"] = (W @ vector).square().sum()
    with pytest.raises(WeightsError, match=r"refused: layers.1.t is .* the square of the norm of layers.1.weight"):
        opened("cpl-tiny-digits", Weights(tensors, {}))
    nudged = dict(random_layers("cpl-tiny-digits").tensors)
    nudged["layers.0.weight"] = 1.01 * nudged["layers.0.weight"]
    with pytest.raises(WeightsError, match=r"refused: layers.0.t is"):
        opened("cpl-tiny-digits", Weights(nudged, {}))


@pytest.mark.parametrize(
    ("arch", "name", "value", "said"),
    [
        ("sll-tiny-digits", "layers.2.q", -torch.ones(48), "layers.2.q has entries that are not above 0"),
        ("sll-tiny-digits", "layers.0.weight", torch.zeros(48, 64), "layers.0.weight has a row of zeros"),
        ("aol-tiny-digits", "layers.0.weight", torch.full((48, 64), torch.nan), "layers.0.weight: holds values"),
        ("aol-tiny-digits", "layers.0.weight", torch.ones(48, 100), "layers.0.weight: found shape"),
        ("cpl-tiny-digits", "layers.0.t", torch.tensor(-1.0), "layers.0.t is -1"),
    ],
)
def test_broken_weights_are_refused_by_name(arch: str, name: str, value: torch.Tensor, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        opened(arch, Weights({**random_layers(arch).tensors, name: value}, {}))


@pytest.mark.parametrize("arch", TINY)
def test_the_commands_draw_and_verify_a_stack(arch: str, tmp_path: Path) -> None:
    drawn = CliRunner().invoke(app, ["weights", "init", arch, str(tmp_path / "w.safetensors")])
    assert drawn.exit_code == 0
    said = yaml.safe_load(CliRunner().invoke(app, ["weights", "verify", str(tmp_path / "w.safetensors")]).output)
    assert said["architecture"] == arch
    assert len(said["pair_constants"]) == 10
    assert all(condition["margin"] > 0 for condition in said["conditions"].values())
    assert len(said["conditions"]) == (0 if arch.startswith("aol") else 3)
