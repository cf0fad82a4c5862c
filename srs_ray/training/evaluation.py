"""Noisy accuracy of a model after few and after all steps, and how far its solves get."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from srs_ray.models.mdeq import MDEQ
from srs_ray.models.solvers import FixedPointIteration, SolverSetting, solve
from srs_ray.smoothing.base_classifier import predicted_classes
from srs_ray.training.jacobian import spectral_radius

FEW_STEPS = (1, 3)
_BATCH = 128
_RADIUS_IMAGES = 16


@dataclass(frozen=True)
class NoisyEvaluation:
    """`accuracy`: shares of noisy images classified rightly, by solver steps from zero. `residual`: the mean relative
    residual after the most steps. `spectral_radius`: the mean of the Jacobian's at the equilibria of the first images.
    """

    accuracy: dict[int, float]
    residual: float
    spectral_radius: float


def evaluate(
    model: MDEQ, x_NCHW: Tensor, y_N: Tensor, sigma: float, generator: torch.Generator, draws: int = 1
) -> NoisyEvaluation:
    """Classifies each image under `draws` draws of noise by a model in evaluation mode; sigma in pixel units of [0, 1].

    Solved by the architecture's reference solver, in 1, 3 and all of its steps, without a tolerance.
    """
    with torch.no_grad():
        accuracy, residual = _accuracy(model, x_NCHW, y_N, sigma, generator, draws)
    return NoisyEvaluation(accuracy, residual, _spectral_radius(model, x_NCHW[:_RADIUS_IMAGES], sigma, generator))


def _accuracy(
    model: MDEQ, x_NCHW: Tensor, y_N: Tensor, sigma: float, generator: torch.Generator, draws: int
) -> tuple[dict[int, float], float]:
    reference = model.config.reference
    setting = SolverSetting(reference.solver, reference.steps)
    read_at = sorted({*FEW_STEPS, setting.steps})
    right = dict.fromkeys(read_at, 0)
    residual = 0.0
    for _ in range(draws):
        for x_BCHW, y_B in zip(x_NCHW.split(_BATCH), y_N.split(_BATCH), strict=True):
            noise_BCHW = torch.randn(x_BCHW.shape, generator=generator, device=x_BCHW.device)
            injection_BCHW = model.inject(x_BCHW + sigma * noise_BCHW)

            def f(z_BD: Tensor, injection_BCHW: Tensor = injection_BCHW) -> Tensor:
                return model.f(z_BD, injection_BCHW)

            iteration = FixedPointIteration(f, model.zero_state(len(x_BCHW)), setting)
            for step in range(1, setting.steps + 1):
                iteration.advance()
                if step in right:
                    classes_B = predicted_classes(model.head(iteration.z_BD), iteration.finite_B)
                    right[step] += int((classes_B == y_B).sum())
            residual += float(iteration.residual_B.sum())
    samples = draws * len(x_NCHW)
    return {step: hits / samples for step, hits in right.items()}, residual / samples


def _spectral_radius(model: MDEQ, x_NCHW: Tensor, sigma: float, generator: torch.Generator) -> float:
    noise_NCHW = torch.randn(x_NCHW.shape, generator=generator, device=x_NCHW.device)
    with torch.no_grad():
        injection_NCHW = model.inject(x_NCHW + sigma * noise_NCHW)

    def f(z_ND: Tensor) -> Tensor:
        return model.f(z_ND, injection_NCHW)

    z_ND = solve(f, model.zero_state(len(x_NCHW)), model.config.reference).z_BD
    return float(spectral_radius(f, z_ND, generator).mean())
