"""A solver as job files name it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from srs_ray.settings import Settings
from srs_ray.solvers.iteration import SolverSetting

SolverName = Literal["naive", "anderson", "broyden"]


class SolverSettings(Settings):
    """A solver, its steps, and the relative residual at which a sample stops (null: never)."""

    solver: SolverName
    steps: int = Field(ge=1)
    tolerance: float | None = Field(1e-3, gt=0)

    def setting(self) -> SolverSetting:
        """The value that the solver loop takes."""
        return SolverSetting.named(self.solver, self.steps, self.tolerance)
