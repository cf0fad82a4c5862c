"""A solver as job files name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from srs_ray.settings import Settings

if TYPE_CHECKING:  # results are read without torch
    from srs_ray.solvers.iteration import SolverSetting

SolverName = Literal["naive", "anderson", "broyden"]


def _unset_for_zero(start: Any) -> Any:
    return None if start == "zero" else start


class SolverSettings(Settings):
    """A fixed-point solver with its start and its end."""

    solver: SolverName = Field(description="Fixed-point solver.")
    steps: int = Field(ge=1, description="Largest number of steps.")
    tolerance: float | None = Field(1e-3, gt=0, description="Relative residual at which a sample stops; null: never.")
    start: Annotated[Literal["stored"] | None, BeforeValidator(_unset_for_zero)] = Field(
        None, description="`zero`, or `stored`: the start that the weights hold (`srs-ray weights calibrate`)."
    )

    def setting(self) -> SolverSetting:
        """The value that the solver loop takes."""
        from srs_ray.solvers.iteration import SolverSetting

        return SolverSetting.named(self.solver, self.steps, self.tolerance, self.start or "zero")

    @property
    def title(self) -> str:
        """Steps and the solver's letter, as the literature writes it, and the start that is not zero: 30A, 14B."""
        return solver_title(self.solver, self.steps) + (" from the stored start" if self.start else "")


def solver_title(solver: str, steps: int) -> str:
    """Steps and the solver's letter, as the literature writes it: 1N, 3A, 14B."""
    return f"{steps}{solver[0].upper()}"
