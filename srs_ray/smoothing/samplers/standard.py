"""Standard sampling (Cohen et al. 2019): every noisy copy is classified by the base classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from srs_ray.smoothing.samplers.sampler import Sampler, SamplingSettings

if TYPE_CHECKING:  # results are read without torch
    from srs_ray.smoothing.base_classifier import BaseClassifier
    from srs_ray.smoothing.noise import NoisyPoint

STANDARD: Literal["standard"] = "standard"  # its name in rows


class StandardSampling(SamplingSettings):
    """The base classifier classifies every noisy sample (Cohen et al. 2019)."""

    method: Literal["standard"] = Field(STANDARD, description="Sampling method.")

    def sampler(self, base: BaseClassifier, point: NoisyPoint) -> Sampler:
        from srs_ray.smoothing.samplers.independent import StandardSampler

        return StandardSampler(base, point)

    def title(self, reference: str) -> str:
        return f"standard {reference}"
