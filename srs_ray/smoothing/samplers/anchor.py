"""Samples that take few steps from the mean equilibrium of a point's own noisy copies."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from srs_ray.smoothing.base_classifier import (
    BaseClassifier,
    Predictions,
    evaluate_layer,
    padded_samples,
    predicted_classes,
)
from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.noise import NoisyPoint
from srs_ray.smoothing.samplers.anchored import ANCHOR_SAMPLES
from srs_ray.smoothing.samplers.independent import StandardSampler
from srs_ray.solvers.iteration import FixedPointIteration, SolverSetting


class AnchoredSampler:
    """Selection samples are the base classifier's; estimation samples take `setting` from the mean of their end states.

    The anchor depends on the noise of selection alone, or of the domain ANCHOR where there is no selection. Given it,
    estimation samples are independent; an audit must correct for what they say other than the base classifier.
    """

    method: ClassVar[str] = "anchored"
    chains: ClassVar[int] = 1

    def __init__(self, base: BaseClassifier, point: NoisyPoint, setting: SolverSetting) -> None:
        self.base, self.point, self.setting = base, point, setting
        self.steps = setting.steps
        self.few: StandardSampler | None = None

    def draw(self, domain: Domain, count: int, first: int = 0) -> Predictions:
        if domain == Domain.SELECTION:
            return self._anchored(domain, range(first, first + count))
        spent = None if self.few is not None else self.take_anchor()
        assert self.few is not None
        drawn = self.few.draw(domain, count, first)
        if spent is None:
            return drawn
        return replace(
            drawn,
            evaluations=drawn.evaluations + spent.evaluations,
            fallbacks=drawn.fallbacks + spent.fallbacks,
            unconverged=drawn.unconverged + spent.unconverged,
        )

    def take_anchor(self) -> Predictions:
        """What the base classifier says of samples of a domain of their own, whose mean state becomes the anchor."""
        return self._anchored(Domain.ANCHOR, range(ANCHOR_SAMPLES))

    def by_steps(self, steps: int) -> AnchoredSampler:
        """The same with so many steps a sample, from the same anchor."""
        other = AnchoredSampler(self.base, self.point, replace(self.setting, steps=steps))
        other._start_from(self.anchor_D)
        return other

    def _anchored(self, domain: Domain, numbers: range) -> Predictions:
        """What the base classifier says of these samples; the mean of the states that it ended at is the anchor."""
        states: list[Tensor] = []
        said = self.base.predict(self.point, domain, numbers, states)
        self._start_from(mean_state(states, self.base.model.zero_state(1)[0]))
        return said

    def _start_from(self, anchor_D: Tensor) -> None:
        self.anchor_D = anchor_D
        few = BaseClassifier(self.base.model, self.setting, self.base.batch, anchor_D, of_a_sampler=True)
        self.few = StandardSampler(few, self.point)

    @torch.inference_mode()
    def said_by_steps(self, domain: Domain, numbers: np.ndarray) -> np.ndarray:
        """The classes after 1, 2, ... steps of `setting` from the anchor: (steps, N); one solve serves them all."""
        model, batch = self.base.model, self.base.batch
        said_SN = np.empty((self.setting.steps, len(numbers)), dtype=np.int64)
        for first in range(0, len(numbers), batch):
            x_BCHW = padded_samples(self.point, domain, numbers, first, batch)
            injection_BCHW = model.inject(x_BCHW.to(model.dtype))
            f = partial(evaluate_layer, model, injection_BCHW)
            iteration = FixedPointIteration(f, self.anchor_D.expand(batch, -1), self.setting)
            for step in range(self.setting.steps):
                iteration.advance()
                class_B = predicted_classes(model.head(iteration.z_BD), iteration.finite_B)
                said_SN[step, first : first + batch] = class_B[: len(numbers) - first].cpu().numpy()
        return said_SN


def mean_state(states: list[Tensor], zero_D: Tensor) -> Tensor:
    """The mean of finite states, in float64 until the end; zero where there are none."""
    total_D, count = torch.zeros_like(zero_D, dtype=torch.float64), 0
    for z_ND in states:
        total_D += z_ND.double().sum(dim=0)
        count += len(z_ND)
    return (total_D / max(count, 1)).to(zero_D.dtype)
