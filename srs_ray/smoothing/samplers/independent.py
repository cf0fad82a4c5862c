"""Independent predictions: every noisy sample is classified by the base classifier (Cohen et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from srs_ray.smoothing.base_classifier import BaseClassifier, Predictions
from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.noise import NoisyPoint
from srs_ray.smoothing.samplers.standard import STANDARD


class StandardSampler:
    """Every sample is the base classifier's own: predictions are independent."""

    method: ClassVar[str] = STANDARD
    chains: ClassVar[int] = 1
    steps: ClassVar[int | None] = None

    def __init__(self, base: BaseClassifier, point: NoisyPoint) -> None:
        self.base = base
        self.point = point
        self._ahead: dict[tuple[Domain, int], np.ndarray] = {}  # classes from this sample on, drawn and not yet given

    def draw(self, domain: Domain, count: int, first: int = 0) -> Predictions:
        if self.base.in_step:
            return self._of_whole_batches(domain, count, first)
        return self.base.predict(self.point, domain, np.arange(first, first + count))

    def _of_whole_batches(self, domain: Domain, count: int, first: int) -> Predictions:
        """The samples, where all take the same steps: the last batch is filled up with those that come next.

        Otherwise it would be padded, at each look anew. Only samples that are given count as evaluations.
        """
        classes_N = self._ahead.pop((domain, first), np.empty(0, dtype=np.int64))
        missing, fallbacks = count - len(classes_N), 0
        if missing > 0:
            start, batch = first + len(classes_N), self.base.batch
            drawn = self.base.predict(self.point, domain, np.arange(start, start + -(-missing // batch) * batch))
            classes_N, fallbacks = np.concatenate([classes_N, drawn.classes_N]), drawn.fallbacks
        self._ahead = {(domain, first + count): classes_N[count:]}
        return Predictions(
            classes_N[:count], evaluations=count * self.base.setting.steps, fallbacks=fallbacks, unconverged=0
        )
