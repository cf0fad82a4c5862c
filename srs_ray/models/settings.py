"""The job's section `model`: what is certified."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.settings import PathOrName, Settings


def _known_architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"no such architecture; there are {', '.join(ARCHITECTURES)}")
    return name


Architecture = Annotated[str, AfterValidator(_known_architecture)]


class ModelSettings(Settings):
    """What is certified. `weights` is a checkpoint file or the name of weights that ship with the package."""

    arch: Architecture
    weights: PathOrName
