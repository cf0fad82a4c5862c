"""A start from training images: what it is, what few steps from it are worth, and which images may not make it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import yaml

from srs_ray import cli
from srs_ray.data import open_dataset
from srs_ray.data.rounding import RoundedPixels
from srs_ray.errors import DataError
from srs_ray.models.mdeq.checkpoints import build_model, read_weights
from srs_ray.models.weights import STORED_START
from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.noise import NoisyPoint, noise_generator
from srs_ray.solvers.iteration import solve
from srs_ray.training.calibration import Calibration, FewSteps, calibrate

ARCH, SHIPPED, SIGMA = "mdeq-tiny-digits", "mdeq-tiny-digits-sigma25", 0.25


@pytest.fixture(scope="module")
def images():
    return RoundedPixels(open_dataset("digits", None, "train", (1, 16, 16)))


@pytest.fixture(scope="module")
def calibrated(images):
    return calibrate(ARCH, read_weights(SHIPPED), images, SIGMA, images=70, evaluated=200, seed=3)


@torch.inference_mode()
def test_the_start_is_the_mean_equilibrium_of_the_first_images_that_the_seed_draws(images, calibrated) -> None:
    network = build_model(ARCH, read_weights(SHIPPED))
    generator = noise_generator("auto", torch.device("cpu"))
    chosen = np.random.default_rng(3).permutation(len(images))[:70].tolist()
    copies = [
        NoisyPoint(images.image(index), SIGMA, 3, index, generator).samples(Domain.CALIBRATION, [0])[0]
        for index in chosen
    ]
    injection = network.inject(torch.stack(copies))
    solution = solve(lambda z: network.f(z, injection), network.zero_state(70), network.config.reference)
    weights, _ = calibrated
    assert torch.allclose(weights.tensors[STORED_START], solution.z_BD.mean(dim=0), atol=1e-3)
    assert weights.digest != read_weights(SHIPPED).digest
    again, _ = calibrate(ARCH, weights, images, SIGMA, images=70, evaluated=200, seed=3)
    assert again.digest == weights.digest, "a start that was there is not added to"


def test_few_steps_from_it_are_better_than_as_many_from_zero_and_many_are_the_full_solver(calibrated) -> None:
    weights, found = calibrated
    at = {(row.start, row.steps): row for row in found.few}
    assert at["stored", 1].disagreement < 0.5 * at["zero", 1].disagreement
    assert at["stored", 1].accuracy > at["zero", 1].accuracy
    assert at["stored", 5].disagreement < at["stored", 1].disagreement
    assert at["stored", 5].disagreement < 0.05
    assert 1.0 < found.full_evaluations < 30.0
    card = weights.card["start"]
    assert (card["sigma"], card["images"], card["evaluated"], card["seed"]) == (SIGMA, 70, 200, 3)
    assert card["few"][0] == {"start": "zero", "steps": 1, **_shares(at["zero", 1])}
    assert card["data"]["split"] == "train"


def _shares(row: FewSteps) -> dict[str, float]:
    return {"accuracy": row.accuracy, "disagreement": row.disagreement}


def test_the_fewest_steps_are_proposed_that_lose_no_more_than_asked() -> None:
    few = (FewSteps("zero", 1, 0.9, 0.0), FewSteps("stored", 1, 0.55, 0.1), FewSteps("stored", 2, 0.595, 0.01))
    found = Calibration(0.6, 5.0, few)
    assert [found.proposal(loss) for loss in (0.06, 0.01, 0.001)] == [1, 2, None]


def test_too_few_images_are_refused(images) -> None:
    with pytest.raises(DataError, match=r"asked for to compute the start and 1,000 others"):
        calibrate(ARCH, read_weights(SHIPPED), images, SIGMA, images=1000, evaluated=1000, seed=0)


@pytest.fixture
def srs_ray_command(monkeypatch, tmp_path, capsys):
    """Runs a command in an empty folder and gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["srs-ray", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        streams = capsys.readouterr()
        return ended.value.code or 0, streams.out, " ".join(streams.err.split())

    return run


CALIBRATE = ("weights", "calibrate", SHIPPED, "--sigma", "0.25", "--data", "digits", "--pixels", "rounded")


def test_the_command_proposes_a_base_classifier_and_certify_takes_it_but_not_for_its_own_images(
    srs_ray_command, digits_settings, tmp_path
) -> None:
    few = ("--images", "70", "--evaluated", "200", "--loss", "3", "--output", "started.safetensors")
    code, out, _ = srs_ray_command(*CALIBRATE, *few)
    assert code == 0, out
    proposed = yaml.safe_load(out.split("section sampling:")[1].splitlines()[1])
    assert proposed["reference"]["start"] == "stored"
    assert json.loads((tmp_path / "started.json").read_text())["start"]["evaluated"] == 200
    sampling = {"method": "standard", "n0": 20, "n": 100, **proposed}
    settings = {**digits_settings(), "sampling": sampling, "certificate": {}}
    settings["model"]["weights"] = "started.safetensors"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    code, out, err = srs_ray_command("certify", "job.yaml", "--no-ray")
    assert code == 0, err
    assert f"F = {proposed['reference']['steps']}N from the stored start" in " ".join(out.split())
    code, _, err = srs_ray_command("certify", "job.yaml", "--no-ray", "--set", "data.split=train", "--output", "other")
    assert code == 2
    assert "chosen by these very images" in err


def test_images_to_be_certified_and_images_off_the_grid_make_no_start(srs_ray_command, tmp_path) -> None:
    code, _, err = srs_ray_command(*CALIBRATE[:-2], "--images", "10", "--evaluated", "10", "--output", "no.safetensors")
    assert code == 2
    assert "255" in err, "the digits are enlarged: their pixels are no whole 255ths"
    code, _, err = srs_ray_command(*CALIBRATE, "--data", "imagenet", "--path", ".", "--output", "no.safetensors")
    assert code == 2
    assert "no.safetensors" not in [path.name for path in tmp_path.iterdir()]
