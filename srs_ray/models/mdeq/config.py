"""The shape of an MDEQ, in numbers: what can be known of an architecture without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from srs_ray.solvers.settings import SolverSettings

if TYPE_CHECKING:
    from srs_ray.solvers.iteration import SolverSetting


@dataclass(frozen=True)
class MDEQConfig:
    """The shape of an MDEQ. Branch i has `channels[i]` channels at the resolution of branch 0 divided by 2^i."""

    name: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: tuple[int, ...]
    head_channels: tuple[int, ...]
    final_channels: int
    classes: int
    downsample_times: int
    solver: SolverSettings  # of its base classifier, unless a job names another
    groups: int = 8

    @property
    def branch_shapes(self) -> list[tuple[int, int, int]]:
        """(C, H, W) of each branch."""
        _, height, width = self.input_shape
        scales = [2 ** (self.downsample_times + i) for i in range(len(self.channels))]
        return [(c, height // s, width // s) for c, s in zip(self.channels, scales, strict=True)]

    @property
    def state_size(self) -> int:
        """D, the number of elements of one sample's state."""
        return sum(c * h * w for c, h, w in self.branch_shapes)

    @cached_property
    def reference(self) -> SolverSetting:
        """The solver setting of its base classifier, as the solver loop takes it."""
        return self.solver.setting()
