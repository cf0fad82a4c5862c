"""Noise generators. To add one: a file here, and its line in GENERATORS."""

from __future__ import annotations

from collections.abc import Callable

import torch

from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.noise.floats import Philox4x32, Philox4x64
from srs_ray.smoothing.noise.generator import NoiseGenerator
from srs_ray.smoothing.noise.grid import GridNoise
from srs_ray.smoothing.noise.philox import philox4x32
from srs_ray.smoothing.noise.point import NoisyPoint, self_check

GENERATORS: dict[str, Callable[[torch.device], NoiseGenerator]] = {
    "grid": GridNoise,
    "philox4x64": lambda device: Philox4x64(),
    "philox4x32": Philox4x32,
}
USUAL = "grid"

__all__ = [
    "GENERATORS",
    "USUAL",
    "Domain",
    "GridNoise",
    "NoiseGenerator",
    "NoisyPoint",
    "Philox4x32",
    "Philox4x64",
    "generator_named",
    "noise_generator",
    "philox4x32",
    "self_check",
]


def noise_generator(name: str, device: str | torch.device) -> NoiseGenerator:
    """The generator of that name on the device; `auto` is the usual one, `grid`. ValueError for a name there is not."""
    name = USUAL if name == "auto" else name
    if name not in GENERATORS:
        raise ValueError(f"no noise generator {name!r}; there are {', '.join(GENERATORS)}")
    return GENERATORS[name](torch.device(device))


def generator_named(full_name: str) -> str | None:
    """The generator that a fingerprint names in full, with its version; None if there is no such one here."""
    return next((name for name in GENERATORS if noise_generator(name, "cpu").name == full_name), None)
