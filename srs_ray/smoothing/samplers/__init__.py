"""Ways to sample a point. To add one: a file here with its settings, its sampler, and its line in SAMPLINGS.

Settings are read without torch, as results are; samplers are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from srs_ray.smoothing.samplers.anchored import AnchoredSampling
from srs_ray.smoothing.samplers.auto import AutoSampling
from srs_ray.smoothing.samplers.sampler import Looks, LookSettings, Sampler, SamplingSettings
from srs_ray.smoothing.samplers.serialized import SerializedSampling
from srs_ray.smoothing.samplers.standard import StandardSampling

SAMPLINGS: dict[str, type[SamplingSettings]] = {
    settings.model_fields["method"].default: settings
    for settings in (
        StandardSampling,
        SerializedSampling,
        AnchoredSampling,
        AutoSampling,
    )
}
if TYPE_CHECKING:
    from srs_ray.smoothing.samplers.anchor import AnchoredSampler
    from srs_ray.smoothing.samplers.chains import SerializedSampler
    from srs_ray.smoothing.samplers.independent import StandardSampler

    Sampling = SamplingSettings
else:
    Sampling = Annotated[Union[tuple(SAMPLINGS.values())], Field(discriminator="method")]  # noqa: UP007

__all__ = [
    "SAMPLINGS",
    "AnchoredSampler",
    "AnchoredSampling",
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

_HOME_OF = {"AnchoredSampler": "anchor", "SerializedSampler": "chains", "StandardSampler": "independent"}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
