"""The families of models that come with the package. To add one: a folder here, and its line in FAMILIES."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from srs_ray.models.layers.family import LayeredFamily
from srs_ray.models.mdeq.family import MDEQFamily
from srs_ray.models.monotone.family import MonotoneFamily

if TYPE_CHECKING:  # job files are read without torch
    import torch

    from srs_ray.models.opened import Opened
    from srs_ray.models.weights import Weights
    from srs_ray.solvers.settings import SolverSettings


class Family(Protocol):
    """Architectures by name, how their weights are read, and how a model is made of them.

    Names and shapes are there without torch; reading and opening import it.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def input_of(self, arch: str) -> tuple[tuple[int, int, int], int]: ...

    def state_size_of(self, arch: str) -> int: ...

    def reference_of(self, arch: str) -> SolverSettings: ...

    def read(self, arch: str, source: str) -> Weights: ...

    def open(self, arch: str, weights: Weights, device: torch.device, dtype: torch.dtype) -> Opened: ...


FAMILIES: tuple[Family, ...] = (MDEQFamily(), MonotoneFamily(), LayeredFamily())


def architectures() -> list[str]:
    """The names of all architectures."""
    return [name for family in FAMILIES for name in family.names]


def family_of(arch: str) -> Family:
    """The family that has this architecture; ValueError that lists all of them for an unknown one."""
    for family in FAMILIES:
        if arch in family.names:
            return family
    raise ValueError(f"no architecture {arch!r}; there are {', '.join(architectures())}")
