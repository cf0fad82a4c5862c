"""Weights of monotone models: converted, inspected, verified, drawn; and files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from srs_ray.cli import app
from srs_ray.errors import SrsRayError, WeightsError
from srs_ray.models.monotone.certified import CertifiedNetwork
from srs_ray.models.monotone.checkpoints import certified_network, checked, random_monotone, read_monotone
from srs_ray.models.monotone.config import MonotoneConfig
from srs_ray.models.monotone.networks import network_of
from srs_ray.models.weights import Weights, read_tensors
from srs_ray.solvers.settings import SolverSettings


def run(*words: object) -> Any:
    """The command's result; what it raises comes through."""
    result = CliRunner().invoke(app, [*map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """An LBEN as published: names of its program, no m, no gamma."""
    tensors = random_monotone("lben-tiny-digits").tensors
    arrays = {f"mon.linear_module.{name}": t.numpy() for name, t in tensors.items() if name not in ("m", "gamma")}
    np.savez(tmp_path / "published.npz", **arrays)
    return tmp_path / "published.npz"


def test_a_published_file_is_converted_with_its_constants_and_what_is_proved(published: Path, tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    assert "lben-tiny-digits, digest" in run("weights", "convert", published, target, "--m", 1, "--gamma", 2).output
    found = read_tensors(target)
    assert (float(found.tensors["m"]), float(found.tensors["gamma"])) == (1.0, 2.0)
    assert found.card["architecture"] == "lben-tiny-digits"
    assert found.card["proved"]["gamma_per_normalised_input"] == 2.0
    assert found.card["proved"]["conditions"]["m"]["margin"] == 1.0
    inspected = yaml.safe_load(run("weights", "inspect", target).output)
    assert inspected["fits"] == ["lben-tiny-digits"]
    said = yaml.safe_load(run("weights", "verify", target).output)
    assert said["digest"] == found.digest
    assert len(said["pair_constants"]) == 10
    assert 0 < said["smallest_pair_constant"] <= said["largest_pair_constant"]
    for condition in said["conditions"].values():
        assert condition["margin"] == condition["proved"] - condition["above"] > 0


def test_other_constants_are_other_weights(published: Path, tmp_path: Path) -> None:
    digests = set()
    for number, gamma in enumerate((1, 2)):
        run("weights", "convert", published, tmp_path / f"{number}.safetensors", "--m", 1, "--gamma", gamma)
        digests.add(read_tensors(tmp_path / f"{number}.safetensors").digest)
    assert len(digests) == 2


def test_constants_are_asked_for_and_do_not_contradict_a_file(published: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no m and no gamma"):
        run("weights", "convert", published, tmp_path / "w.safetensors")
    run("weights", "convert", published, tmp_path / "w.safetensors", "--m", 1, "--gamma", 2)
    with pytest.raises(WeightsError, match="holds m = 1 already, not 3"):
        run("weights", "convert", tmp_path / "w.safetensors", tmp_path / "v.safetensors", "--m", 3)
    with pytest.raises(WeightsError, match="gamma is -1, expected above 0"):
        run("weights", "convert", published, tmp_path / "v.safetensors", "--m", 1, "--gamma", -1)
    assert not (tmp_path / "v.safetensors").exists()


def test_what_fits_no_monotone_architecture_is_not_verified(tmp_path: Path) -> None:
    with pytest.raises(SrsRayError, match="fits no monotone architecture"):
        run("weights", "verify", "mdeq-tiny-digits-sigma25")
    with pytest.raises(SrsRayError, match="--m is a constant of a monotone model"):
        run("weights", "convert", "mdeq-tiny-digits-sigma25", tmp_path / "w.safetensors", "--m", 1)


def test_random_weights_are_drawn_by_the_name_of_a_monotone_architecture(tmp_path: Path) -> None:
    run("weights", "init", "mondeq-tiny-digits-tiers", tmp_path / "w.safetensors")
    assert run("weights", "verify", tmp_path / "w.safetensors").exit_code == 0


def test_an_archive_is_never_unpickled_and_a_broken_one_is_named(tmp_path: Path) -> None:
    class Mine:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    np.savez(tmp_path / "bad.npz", a=np.array([Mine()], dtype=object))
    with pytest.raises(WeightsError, match="not a readable archive of arrays"):
        read_tensors(tmp_path / "bad.npz")
    assert not (tmp_path / "made").exists()
    (tmp_path / "none.npz").write_bytes(b"no archive")
    with pytest.raises(WeightsError, match="not a readable archive of arrays"):
        read_tensors(tmp_path / "none.npz")


def test_a_metric_of_one_number_for_each_channel_is_one_for_each_place() -> None:
    tensors = dict(random_monotone("lben-tiny-digits-conv", 1).tensors)
    by_channel = torch.rand(1, 6, 1, 1, generator=torch.Generator().manual_seed(0))
    spread = by_channel.expand(1, 6, 10, 10).clone()
    few = certified_network("lben-tiny-digits-conv", Weights({**tensors, "psi": by_channel}, {}))
    full = certified_network("lben-tiny-digits-conv", Weights({**tensors, "psi": spread}, {}))
    z = torch.rand(2, *few.state_shape, dtype=torch.float64)
    assert torch.equal(few.network.M(z), full.network.M(z))
    with pytest.raises(WeightsError, match="psi: found shape"):
        checked("lben-tiny-digits-conv", Weights({**tensors, "psi": torch.rand(1, 5, 10, 10)}, {}))


def test_three_tiers_on_an_even_grid_are_monotone_and_step_to_one_equilibrium() -> None:
    solver = SolverSettings(solver="naive", steps=100, tolerance=1e-4)
    config = MonotoneConfig("three", "tiers", (2, 12, 12), (0.5, 0.4), (0.5, 0.2), (3, 4, 5), 3, solver)
    assert [shape[1] for shape in config.tiers] == [14, 8, 5]
    drawn = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=drawn) if shape else torch.tensor(1.5)
        for name, shape in config.shapes.items()
    }
    made = CertifiedNetwork(network_of(config, tensors, torch.float64))
    M = made.network.M(torch.eye(config.state_size, dtype=torch.float64)).T
    assert float(torch.linalg.eigvalsh((M + M.T) / 2)[0]) >= made.constants.mu - 1e-12
    x = torch.rand(2, 2, 12, 12, generator=drawn, dtype=torch.float64)
    v, z = made.inject(x), torch.zeros(2, config.state_size, dtype=torch.float64)
    for _ in range(400):
        z = made.f(z, v)
    _, error = made.proved_logits(z, x)
    assert float(error.max()) < 1e-6


def test_the_shipped_weights_are_what_their_card_says() -> None:
    weights = read_monotone("lben-tiny-digits-gamma2")
    proved = certified_network("lben-tiny-digits", weights).constants.card()
    stored = weights.card["proved"]
    assert stored["monotonicity"] == pytest.approx(proved["monotonicity"], rel=1e-9)
    assert stored["largest_pair_constant"] == pytest.approx(proved["largest_pair_constant"], rel=1e-6)
