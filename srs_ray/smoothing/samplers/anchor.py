"""Samples that take few steps from the mean equilibrium of a point's own noisy copies."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from srs_ray.smoothing.base_classifier import BaseClassifier, Predictions
from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.noise import NoisyPoint
from srs_ray.smoothing.samplers.independent import StandardSampler
from srs_ray.solvers.iteration import SolverSetting

ANCHOR_SAMPLES = 32  # of a domain of their own, where no samples select a class


class AnchoredSampler:
    """Selection samples are the base classifier's; estimation samples take `setting` from the mean of their end states.

    The anchor depends on the noise of selection alone, or of the domain ANCHOR where there is no selection. Given it,
    estimation samples are independent; an audit must correct for what they say other than the base classifier.
    """

    method: ClassVar[str] = "anchored"
    chains: ClassVar[int] = 1

    def __init__(self, base: BaseClassifier, point: NoisyPoint, setting: SolverSetting) -> None:
        self.base, self.point, self.setting = base, point, setting
        self.few: StandardSampler | None = None

    def draw(self, domain: Domain, count: int, first: int = 0) -> Predictions:
        if domain == Domain.SELECTION:
            return self._anchored(domain, range(first, first + count))
        spent = None if self.few is not None else self._anchored(Domain.ANCHOR, range(ANCHOR_SAMPLES))
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

    def _anchored(self, domain: Domain, numbers: range) -> Predictions:
        """What the base classifier says of these samples; the mean of the states that it ended at is the anchor."""
        states: list[Tensor] = []
        said = self.base.predict(self.point, domain, numbers, states)
        self.anchor_D = mean_state(states, self.base.model.zero_state(1)[0])
        few = BaseClassifier(self.base.model, self.setting, self.base.batch, self.anchor_D, of_a_sampler=True)
        self.few = StandardSampler(few, self.point)
        return said


def mean_state(states: list[Tensor], zero_D: Tensor) -> Tensor:
    """The mean of finite states, in float64 until the end; zero where there are none."""
    total_D, count = torch.zeros_like(zero_D, dtype=torch.float64), 0
    for z_ND in states:
        total_D += z_ND.double().sum(dim=0)
        count += len(z_ND)
    return (total_D / max(count, 1)).to(zero_D.dtype)
