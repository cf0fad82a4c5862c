"""The weights that ship with the package are what their metadata says, and fit for serialized sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srs_ray.data import load_all, open_dataset
from srs_ray.job_file import load_train_job
from srs_ray.models.mdeq import MDEQ
from srs_ray.models.weights import load_model, read_weights
from srs_ray.training.chain_agreement import chain_agreement
from srs_ray.training.evaluation import evaluate

ARCH = "mdeq-tiny-digits"
SHIPPED = "mdeq-tiny-digits-sigma25"
SIGMA = 0.25
JOB = Path(__file__).resolve().parents[2] / "jobs" / "digits-train.yaml"


@pytest.fixture(scope="module")
def model() -> MDEQ:
    return load_model(ARCH, SHIPPED)


@pytest.fixture(scope="module")
def test_digits() -> tuple[Tensor, Tensor]:
    return load_all(open_dataset("digits", None, "test", (1, 16, 16)))


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    metadata = read_weights(SHIPPED).metadata
    texts = ("architecture", "initial_weights")
    return {name: text if name in texts else json.loads(text) for name, text in metadata.items()}


def test_shipped_weights_say_how_they_were_made_and_that_is_the_job_in_the_repository(said: dict[str, Any]) -> None:
    job = load_train_job(JOB)
    assert Path(job.output).name == f"{SHIPPED}.safetensors"
    assert said["architecture"] == job.model.arch == ARCH
    assert said["sigma"] == job.noise.sigma == SIGMA
    assert said["epochs"] == job.training.epochs
    assert said["seed"] == job.execution.seed
    assert said["recipe"] == json.loads(job.training.model_dump_json())
    assert said["data"]["content"] == open_dataset("digits", None, "train", (1, 16, 16)).identity["content"]


def test_shipped_weights_reach_their_noisy_accuracy_on_digits_of_other_writers(
    model: MDEQ, test_digits: tuple[Tensor, Tensor], said: dict[str, Any]
) -> None:
    reached = evaluate(model, *test_digits, SIGMA, torch.Generator().manual_seed(11), draws=2)
    assert reached.accuracy[30] >= 0.93
    # Over 720 noisy images an accuracy of 0.95 has a standard deviation of 0.008 at most.
    assert reached.accuracy[30] == pytest.approx(said["noisy_accuracy"]["30"], abs=0.032)
    assert reached.residual < 1e-4


def test_serialized_sampling_agrees_with_the_base_classifier_on_shipped_weights(
    model: MDEQ, test_digits: tuple[Tensor, Tensor]
) -> None:
    agreement = chain_agreement(model, test_digits[0][7::45], SIGMA, seed=5)
    assert agreement.points == 8
    assert agreement.false_mean[3] < 0.005
    assert agreement.false_worst[3] < 0.03
    assert agreement.false_mean[1] < 0.02
    assert agreement.reference_evaluations < 10
