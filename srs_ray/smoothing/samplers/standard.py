"""Standard sampling (Cohen et al. 2019): every noisy copy is classified by the base classifier."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from srs_ray.smoothing.base_classifier import BaseClassifier, Predictions
from srs_ray.smoothing.noise import Domain, NoisyPoint
from srs_ray.smoothing.samplers.sampler import Sampler, SamplingSettings


class StandardSampling(SamplingSettings):
    """Every noisy sample is solved from zero by the reference solver (Cohen et al. 2019)."""

    method: Literal["standard"] = "standard"

    def sampler(self, base: BaseClassifier, point: NoisyPoint) -> Sampler:
        return StandardSampler(base, point)

    def title(self, reference: str) -> str:
        return f"standard {reference}"


class StandardSampler:
    """Every sample is the base classifier's own: predictions are independent."""

    method: ClassVar[str] = "standard"
    chains: ClassVar[int] = 1

    def __init__(self, base: BaseClassifier, point: NoisyPoint) -> None:
        self.base = base
        self.point = point

    def draw(self, domain: Domain, count: int, first: int = 0) -> Predictions:
        return self.base.predict(self.point, domain, np.arange(first, first + count))
