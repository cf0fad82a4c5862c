"""The weights that ship with the package are what their cards say, and fit for serialized sampling."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import srs_ray
from srs_ray.data import open_dataset
from srs_ray.data.settings import DataSettings
from srs_ray.job_file import load_train_job
from srs_ray.models.mdeq.checkpoints import inference_model, load_model, read_weights
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.models.weights import shipped_weights
from srs_ray.solvers.iteration import SolverSetting
from srs_ray.training.chain_agreement import chain_agreement
from srs_ray.training.evaluation import evaluate
from srs_ray.training.images import Images
from srs_ray.training.settings import TrainingSettings, TrainJob

JOBS = Path(__file__).resolve().parents[2] / "jobs"
PRETRAINED = Path(srs_ray.__file__).parent / "models" / "pretrained"


@dataclass(frozen=True)
class Shipped:
    """Weights with the job that made them, and the least they must reach."""

    name: str
    job_file: str
    accuracy: float
    false_once: float  # the most: SRS-1, mean, of all samples as the card has it
    false_hits_once: float  # the most: SRS-1, mean, of the hits
    false_worst: float  # SRS-3, worst point
    every: int  # which of the evaluation points are looked at here
    draws: int
    agreement_points: int

    @property
    def job(self) -> TrainJob:
        return load_train_job(JOBS / self.job_file)

    @property
    def card(self) -> dict[str, Any]:
        return read_weights(self.name).card

    @property
    def model(self) -> MDEQ:
        return load_model(self.job.model.arch, self.name)


SHIPPED = [
    Shipped(
        "mdeq-tiny-digits-sigma25",
        "digits-train.yaml",
        0.93,
        0.03,
        0.08,
        0.05,
        every=1,
        draws=2,
        agreement_points=8,
    ),
    Shipped(
        "mdeq-small-cifar10-sigma50",
        "cifar10-train-further.yaml",
        0.59,
        0.02,
        0.04,
        0.03,
        every=50,
        draws=1,
        agreement_points=2,
    ),
]
each_shipped = pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: shipped.name)


@pytest.fixture
def images(shipped: Shipped, request: pytest.FixtureRequest) -> Images:
    """Every so many of the evaluation images that the card was made from."""
    section = shipped.job.evaluation
    if section.path is not None:
        shared = request.getfixturevalue("shared")
        section = section.model_copy(update={"path": str(shared / "data" / Path(section.path).name)})
    chosen = DataSettings(**section.model_dump(include={"kind", "path", "split"}), every=shipped.every)
    return Images(chosen, shipped.model.config, torch.device("cpu"))


STARTED = "mdeq-small-cifar10-sigma50-start"
MONOTONE = "lben-tiny-digits-gamma2"  # whose card is compared in tests/models/monotone/test_monotone_weights.py


def test_every_shipped_file_is_looked_at_here() -> None:
    assert sorted(shipped_weights()) == sorted([*(shipped.name for shipped in SHIPPED), STARTED, MONOTONE])


def test_the_weights_with_a_start_are_the_shipped_ones_and_few_steps_from_it_are_as_good_as_their_card_says(
    shared: Path,
) -> None:
    """On test images, where the card speaks of training images."""
    started, bare = read_weights(STARTED), read_weights(STARTED.removesuffix("-start"))
    assert started.card["start"]["data"]["content"] == bare.card["data"]["content"], "of the images that trained them"
    assert {name: value for name, value in started.card.items() if name != "start"} == bare.card
    assert started.tensors.keys() - bare.tensors.keys() == {"start"}
    assert all(torch.equal(tensor, started.tensors[name]) for name, tensor in bare.tensors.items())
    beside = json.loads((PRETRAINED / f"{STARTED}.json").read_text())
    assert beside.pop("digest") == started.digest
    assert beside == started.card
    dataset = open_dataset("parquet", shared / "data" / "cifar10-test.parquet", None, (3, 32, 32))
    of_card = {(row["start"], row["steps"]): row for row in started.card["start"]["few"]}
    assert of_card["stored", 1]["accuracy"] > started.card["start"]["full_accuracy"] - 0.015
    assert of_card["stored", 2]["disagreement"] < 0.02
    ready = opened_mdeq(inference_model(bare.card["architecture"], started))
    few = ready.with_reference(SolverSetting.named("naive", 1, start="stored"))
    zero = ready.with_reference(SolverSetting.named("naive", 1))
    full = ready.with_reference(SolverSetting.named("anderson", 30, 1e-3))
    x_NCHW = torch.stack([dataset.image(index) for index in range(200)])
    x_NCHW = x_NCHW + 0.5 * torch.randn(x_NCHW.shape, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        classes = [model(x_NCHW).argmax(dim=1) for model in (full, few, zero)]
    assert (classes[0] != classes[1]).float().mean() < 0.15
    assert (classes[0] != classes[2]).float().mean() > 0.4


@each_shipped
def test_the_card_says_how_they_were_made_and_that_is_the_job_in_the_repository(shipped: Shipped) -> None:
    job, card = shipped.job, shipped.card
    assert Path(job.output).name == f"{shipped.name}.safetensors"
    assert card["architecture"] == job.model.arch
    assert card["sigma"] == job.noise.sigma
    assert card["epochs"] == job.training.epochs == len(card["history"])
    assert card["seed"] == job.execution.seed
    assert TrainingSettings.model_validate(card["recipe"]) == job.training
    assert card["note"] == job.note
    beside = json.loads((PRETRAINED / f"{shipped.name}.json").read_text())
    assert beside.pop("digest") == read_weights(shipped.name).digest
    assert beside == card


@pytest.mark.parametrize("job_file", sorted(JOBS.glob("*train*.yaml")), ids=lambda path: path.name)
def test_a_training_writes_over_no_shipped_weights_unless_it_is_told_to(job_file: Path) -> None:
    assert PRETRAINED not in (JOBS.parent / load_train_job(job_file).output).resolve().parents


@each_shipped
def test_they_reach_the_noisy_accuracy_of_the_card(shipped: Shipped, images: Images) -> None:
    points = images.spread(len(images))
    reached = evaluate(shipped.model, points, shipped.card["sigma"], torch.Generator().manual_seed(11), shipped.draws)
    said = shipped.card["noisy_accuracy"]
    for steps, share in reached.accuracy.items():
        expected = said[str(steps)]
        deviation = (expected * (1 - expected) / (shipped.draws * len(images))) ** 0.5
        assert share == pytest.approx(expected, abs=4 * deviation)
    assert said["30"] >= shipped.accuracy
    assert said["3"] >= said["30"] - 0.02
    assert reached.residual < 1e-4


@each_shipped
def test_serialized_sampling_agrees_with_the_base_classifier(shipped: Shipped, images: Images) -> None:
    [(x_NCHW, _)] = images.spread(shipped.agreement_points)
    agreement = chain_agreement(shipped.model, x_NCHW, shipped.card["sigma"], seed=5)
    assert agreement.points == shipped.agreement_points
    assert agreement.false_mean[3] < 0.01  # of the hits; the card has it of all samples, warm-ups among them
    assert agreement.false_worst[3] < shipped.false_worst
    assert agreement.false_mean[1] < shipped.false_hits_once
    assert agreement.reference_evaluations < 10
    said = shipped.card["chain_agreement"]
    assert said["false_mean"]["3"] < 0.005
    assert said["false_worst"]["3"] < shipped.false_worst
    assert said["false_mean"]["1"] < shipped.false_once
