"""Noisy accuracy of a model after few and after all steps, and how far its solves get."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from srs_ray.models.mdeq.model import MDEQ
from srs_ray.smoothing.base_classifier import predicted_classes
from srs_ray.solvers.iteration import FixedPointIteration, SolverSetting, solve
from srs_ray.training.jacobian import spectral_radius

FEW_STEPS = (1, 3)
STEPS_FROM_START = (1, 2, 3)
_BATCH = 128
_RADIUS_IMAGES = 16


@dataclass(frozen=True)
class NoisyEvaluation:
    """`accuracy`: shares of noisy images classified rightly, by solver steps from zero; `from_start`: by steps of plain
    iteration from the start that the weights hold, if they do. `residual`: the mean relative residual after the most
    steps, 1 where a solve is not finite. `spectral_radius`: the mean of the Jacobian's at the equilibria of the first
    images.
    """

    accuracy: dict[int, float]
    residual: float
    spectral_radius: float
    from_start: dict[int, float] = field(default_factory=dict)


def evaluate(
    model: MDEQ,
    batches: Iterable[tuple[Tensor, Tensor]],
    sigma: float,
    generator: torch.Generator,
    draws: int = 1,
) -> NoisyEvaluation:
    """Classifies each image under `draws` draws of noise by a model in evaluation mode; sigma in pixel units of [0, 1].

    `batches` are of images x_BCHW in [0, 1] and their classes y_B, of any size.

    Solved by the architecture's reference solver, in 1, 3 and all of its steps, without a tolerance.
    """
    reference = model.config.reference
    setting = SolverSetting(reference.solver, reference.steps)
    right = dict.fromkeys(sorted({*FEW_STEPS, setting.steps}), 0)
    start_D = model.stored_state()
    right_from_start = {} if start_D is None else dict.fromkeys(STEPS_FROM_START, 0)
    samples, residual, radius = 0, 0.0, math.nan
    for x_NCHW, y_N in batches:
        if not samples:
            radius = _spectral_radius(model, x_NCHW[:_RADIUS_IMAGES], sigma, generator)
        for x_BCHW, y_B in zip(x_NCHW.split(_BATCH), y_N.split(_BATCH), strict=True):
            for _ in range(draws):
                noise_BCHW = torch.randn(x_BCHW.shape, generator=generator, device=x_BCHW.device)
                injection_BCHW = _inject(model, x_BCHW + sigma * noise_BCHW)
                residual += _solved(model, injection_BCHW, y_B, setting, right)
                if start_D is not None:
                    _from_start(model, injection_BCHW, y_B, start_D, right_from_start)
                samples += len(y_B)
    accuracy, from_start = ({step: hits / samples for step, hits in of.items()} for of in (right, right_from_start))
    return NoisyEvaluation(accuracy, residual / samples, radius, from_start)


@torch.no_grad()
def _inject(model: MDEQ, x_BCHW: Tensor) -> Tensor:
    return model.inject(x_BCHW)


@torch.no_grad()
def _from_start(model: MDEQ, injection_BCHW: Tensor, y_B: Tensor, start_D: Tensor, right: dict[int, int]) -> None:
    """Counts in `right` what is classified rightly after so many steps of plain iteration from the start."""
    z_BD = start_D.expand(len(y_B), -1)
    for step in range(1, max(right) + 1):
        z_BD = model.f(z_BD, injection_BCHW)
        if step in right:
            classes_B = predicted_classes(model.head(z_BD), torch.isfinite(z_BD).all(dim=1))
            right[step] += int((classes_B == y_B).sum())


@torch.no_grad()
def _solved(model: MDEQ, injection_BCHW: Tensor, y_B: Tensor, setting: SolverSetting, right: dict[int, int]) -> float:
    """Counts in `right` what is classified rightly after so many steps; the sum of the last residuals."""
    iteration = FixedPointIteration(lambda z_BD: model.f(z_BD, injection_BCHW), model.zero_state(len(y_B)), setting)
    for step in range(1, setting.steps + 1):
        iteration.advance()
        if step in right:
            classes_B = predicted_classes(model.head(iteration.z_BD), iteration.finite_B)
            right[step] += int((classes_B == y_B).sum())
    return float(iteration.residual_B.nan_to_num(nan=1.0, posinf=1.0).sum())


def _spectral_radius(model: MDEQ, x_NCHW: Tensor, sigma: float, generator: torch.Generator) -> float:
    noise_NCHW = torch.randn(x_NCHW.shape, generator=generator, device=x_NCHW.device)
    with torch.no_grad():
        injection_NCHW = model.inject(x_NCHW + sigma * noise_NCHW)

    def f(z_ND: Tensor) -> Tensor:
        return model.f(z_ND, injection_NCHW)

    z_ND = solve(f, model.zero_state(len(x_NCHW)), model.config.reference).z_BD
    return float(spectral_radius(f, z_ND, generator).mean())
