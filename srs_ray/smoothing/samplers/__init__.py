"""Ways to sample a point. To add one: a file here with its settings and its sampler, and its line in SAMPLINGS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from srs_ray.smoothing.samplers.auto import AutoSampling
from srs_ray.smoothing.samplers.sampler import Looks, LookSettings, Sampler, SamplingSettings
from srs_ray.smoothing.samplers.serialized import SerializedSampler, SerializedSampling
from srs_ray.smoothing.samplers.standard import StandardSampler, StandardSampling

SAMPLINGS: dict[str, type[SamplingSettings]] = {
    settings.model_fields["method"].default: settings
    for settings in (
        StandardSampling,
        SerializedSampling,
        AutoSampling,
    )
}
if TYPE_CHECKING:
    Sampling = SamplingSettings
else:
    Sampling = Annotated[Union[tuple(SAMPLINGS.values())], Field(discriminator="method")]  # noqa: UP007

__all__ = [
    "SAMPLINGS",
    "AutoSampling",
    "LookSettings",
    "Looks",
    "Sampler",
    "Sampling",
    "SamplingSettings",
    "SerializedSampler",
    "SerializedSampling",
    "StandardSampler",
    "StandardSampling",
]
