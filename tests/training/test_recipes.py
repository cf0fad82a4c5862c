"""Every recipe trains a tiny model to above a stated accuracy on noisy digits, all from one brief pre-training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from srs_ray.data import load_all, open_dataset
from srs_ray.models.mdeq.checkpoints import build_model, random_weights
from srs_ray.models.mdeq.weight_normalization import folded_tensors
from srs_ray.models.weights import Weights
from srs_ray.training.evaluation import evaluate
from srs_ray.training.settings import TrainingSettings
from srs_ray.training.trainer import Trainer

ARCH = "mdeq-tiny-digits"
SIGMA = 0.25
BATCH = 48
PRETRAINING: dict[str, Any] = {
    "unrolled_epochs": 3,
    "equilibrium_epochs": 3,
    "unrolled_steps": 3,
    "solver": "naive",
    "solve_steps": [2, 4],
    "gradient": {"kind": "phantom", "steps": 1},
    "jacobian": {"weight": 4.0},
    "batch": BATCH,
    "learning_rate": 1e-2,
}
SECOND_PHASE: dict[str, Any] = {
    "unrolled_epochs": 0,
    "equilibrium_epochs": 1,
    "solve_steps": [3, 5],
    "batch": BATCH,
    "learning_rate": 3e-3,
}
RECIPES: dict[str, dict[str, Any]] = {
    "one-step phantom gradient": {"gradient": {"kind": "phantom", "steps": 1}},
    "three-step phantom gradient": {"gradient": {"kind": "phantom", "steps": 3}},
    "implicit gradient": {"gradient": {"kind": "implicit", "steps": 6}, "jacobian": {"weight": 1.0, "every": 2}},
    "Jacobian regularisation": {"jacobian": {"weight": 4.0}},
    "variational dropout": {"dropout": 0.1},
    "intermediate losses": {"intermediate": {"weight": 0.5, "states": 2}},
    "serial loss": {"serial": {"weight": 2.0}, "jacobian": {"weight": 1.0, "every": 2}},
    "SmoothAdv": {"adversary": {"steps": 1, "radius": 0.25, "samples": 2}},
    "SGD": {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "warmup": 0.1},
    "moving average": {"ema": 0.9},
    "mixed precision": {"precision": "bfloat16"},
}


def digits(split: str) -> tuple[Tensor, Tensor]:
    return load_all(open_dataset("digits", None, split, (1, 16, 16)))


def trained(weights: Weights, settings: dict[str, Any], x_NCHW: Tensor, y_N: Tensor) -> Weights:
    """What a recipe makes of weights."""
    model = build_model(ARCH, weights)
    recipe = TrainingSettings.model_validate(settings)
    trainer = Trainer(model, recipe, SIGMA, seed=0, batches=-(-len(y_N) // BATCH))
    for epoch in range(1, recipe.epochs + 1):
        for batch, rows_B in enumerate(trainer.order(epoch, len(y_N)).split(BATCH)):
            trainer.step(epoch, batch, x_NCHW[rows_B], y_N[rows_B])
    return Weights(folded_tensors(trainer.trained), {})


def accuracy(weights: Weights, x_NCHW: Tensor, y_N: Tensor) -> float:
    noise = torch.Generator().manual_seed(1)
    return evaluate(build_model(ARCH, weights), [(x_NCHW, y_N)], SIGMA, noise).accuracy[30]


@pytest.fixture(scope="module")
def train_digits() -> tuple[Tensor, Tensor]:
    return digits("train")


@pytest.fixture(scope="module")
def test_digits() -> tuple[Tensor, Tensor]:
    x_NCHW, y_N = digits("test")
    return x_NCHW[::2], y_N[::2]


@pytest.fixture(scope="module")
def pretrained(train_digits: tuple[Tensor, Tensor]) -> Weights:
    return trained(random_weights(ARCH), PRETRAINING, *train_digits)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_trains_to_more_than_two_thirds_at_the_equilibrium(
    name: str, pretrained: Weights, train_digits: tuple[Tensor, Tensor], test_digits: tuple[Tensor, Tensor]
) -> None:
    weights = trained(pretrained, SECOND_PHASE | RECIPES[name], *train_digits)
    assert accuracy(weights, *test_digits) > 2 / 3
