"""A stored start: the mean equilibrium of noisy training images, and what few steps from it are worth.

The base classifier may be a few steps of the solver from a start that depends on no input: one function of one input,
so it is certified as any other. How many steps are enough is chosen here, on training images, never on points that a
run certifies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srs_ray.data import PointDataset
from srs_ray.errors import DataError, PointError, WeightsError
from srs_ray.models.mdeq.checkpoints import inference_model
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.models.opened import Opened
from srs_ray.models.weights import STORED_START, Weights
from srs_ray.smoothing.base_classifier import predicted_classes
from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.noise import NoisyPoint, noise_generator
from srs_ray.solvers.iteration import SolverSetting, Start, solve

STEPS = (1, 2, 3, 5)  # of plain iteration, which one and the same evaluation serves for
_BATCH = 64
_NOTHING_MADE = 0.5  # more images than this share without a finite equilibrium, or unreadable, make no start


@dataclass(frozen=True)
class FewSteps:
    """So many steps of plain iteration from a start, on noisy images: how often right, and how often not as F."""

    start: Start
    steps: int
    accuracy: float
    disagreement: float


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found: the full solver's accuracy and evaluations a sample, and those of few steps."""

    full_accuracy: float
    full_evaluations: float
    few: tuple[FewSteps, ...]

    def proposal(self, loss: float) -> int | None:
        """The fewest steps from the stored start that lose at most `loss` of accuracy; None if none does."""
        good = [
            row.steps for row in self.few if row.start == "stored" and row.accuracy >= self.full_accuracy - loss
        ]  # fmt: skip
        return min(good, default=None)


def calibrate(
    arch: str, weights: Weights, dataset: PointDataset, sigma: float, *, images: int, evaluated: int, seed: int,
    device: str = "cpu", shown: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> tuple[Weights, Calibration]:  # fmt: skip
    """The weights with a start of their own, and what few steps from it are worth at this sigma.

    The start is the mean of the full solver's equilibria of `images` noisy training images; another `evaluated` images,
    one noisy copy each, tell accuracy and disagreement. Both are drawn by the seed, the noise from a domain of its own.
    The card of the weights gets it all under `start`. `shown` may tell of the images as they come. Raises DataError
    where there are too few images, and WeightsError where half of them have no finite equilibrium.
    """
    if images < 1 or evaluated < 1 or len(dataset) < images + evaluated:
        raise DataError(
            f"the data have {len(dataset):,} images, and {images:,} are asked for to compute the start and "
            f"{evaluated:,} others to evaluate it"
        )
    model = opened_mdeq(inference_model(arch, replace(weights, tensors=_without_start(weights)), device))
    chosen = np.random.default_rng(seed).permutation(len(dataset))
    noisy = _Noisy(model, dataset, sigma, seed, shown)
    start_D = _mean_equilibrium(model, noisy, chosen[:images].tolist())
    found = _evaluate(model, noisy, start_D, chosen[images : images + evaluated].tolist())
    card = {
        "sigma": sigma,
        "images": images,
        "evaluated": evaluated,
        "seed": seed,
        "data": {key: dataset.identity[key] for key in ("kind", "split", "content") if key in dataset.identity},
        **asdict(found),
    }
    tensors = {**_without_start(weights), STORED_START: model.network.storable(start_D).cpu()}
    return Weights(tensors, {**weights.metadata, "architecture": arch, "start": json.dumps(card)}), found


def _without_start(weights: Weights) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.tensors.items() if name != STORED_START}


@dataclass(frozen=True)
class _Noisy:
    """One noisy copy of each training image; an image that cannot be read is left out."""

    model: Opened
    dataset: PointDataset
    sigma: float
    seed: int
    shown: Callable[[Sequence[int]], Iterable[int]]

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Noisy images (B, C, H, W) and their labels, in this order."""
        generator = noise_generator("auto", self.model.device)
        copies: list[Tensor] = []
        labels: list[int] = []
        for index in self.shown(indices):
            try:
                x_CHW, label = self.dataset.image(index).to(self.model.device), self.dataset.label(index)
            except PointError:
                continue
            fault = generator.fault(x_CHW)
            if fault is not None:
                raise DataError(f"{self.dataset.name(index)}: {fault}")
            point = NoisyPoint(x_CHW, self.sigma, self.seed, index, generator)
            copies.append(point.samples(Domain.CALIBRATION, [0])[0])
            labels.append(label)
            if len(copies) == _BATCH:
                yield torch.stack(copies), torch.tensor(labels, device=self.model.device)
                copies, labels = [], []
        if copies:
            yield torch.stack(copies), torch.tensor(labels, device=self.model.device)


@torch.inference_mode()
def _mean_equilibrium(model: Opened, noisy: _Noisy, indices: Sequence[int]) -> Tensor:
    total_D = torch.zeros(model.state_size, dtype=torch.float64, device=model.device)
    count = 0
    for x_BCHW, _ in noisy.batches(indices):
        injection = model.inject(x_BCHW.to(model.dtype))
        solution = solve(_map(model, injection), model.zero_state(len(x_BCHW)), model.reference)
        total_D += solution.z_BD[solution.finite_B].double().sum(dim=0)
        count += int(solution.finite_B.sum())
    if count <= _NOTHING_MADE * len(indices):
        raise WeightsError(f"only {count} of {len(indices)} noisy images have a finite equilibrium: check the weights")
    return (total_D / count).to(model.dtype)


@torch.inference_mode()
def _evaluate(model: Opened, noisy: _Noisy, start_D: Tensor, indices: Sequence[int]) -> Calibration:
    starts: dict[Start, Tensor | None] = {"zero": None, "stored": start_D}
    right = {(start, steps): 0 for start in starts for steps in STEPS}
    other = dict.fromkeys(right, 0)
    count = full_right = evaluations = 0
    for x_BCHW, label_B in noisy.batches(indices):
        injection = model.inject(x_BCHW.to(model.dtype))
        f, zero_BD = _map(model, injection), model.zero_state(len(x_BCHW))
        full = solve(f, zero_BD, model.reference)
        class_B = predicted_classes(model.head(full.z_BD), full.finite_B)
        count += len(label_B)
        full_right += int((class_B == label_B).sum())
        evaluations += int(full.evaluations_B.sum())
        for start, at_D in starts.items():
            z_BD = zero_BD if at_D is None else zero_BD + at_D
            for step in range(1, max(STEPS) + 1):
                z_BD = f(z_BD)
                if step in STEPS:
                    said_B = predicted_classes(model.head(z_BD), torch.isfinite(z_BD).all(dim=1))
                    right[start, step] += int((said_B == label_B).sum())
                    other[start, step] += int((said_B != class_B).sum())
    few = tuple(
        FewSteps(start, steps, right[start, steps] / count, other[start, steps] / count) for start, steps in right
    )
    return Calibration(full_right / count, evaluations / count, few)


def _map(model: Opened, injection: Tensor) -> Any:
    return lambda z_BD: model.f(z_BD, injection)


def proposed_reference(steps: int) -> str:
    """The setting of a job by which the base classifier takes so many steps from the stored start."""
    setting = SolverSetting.named("naive", steps)
    return f"{{solver: {setting.solver.name}, steps: {steps}, tolerance: null, start: stored}}"
