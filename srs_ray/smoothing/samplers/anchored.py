"""Independent warm starts: each sample is solved from one start of the point's own, which selection has made."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from srs_ray.smoothing.samplers.sampler import Row, Sampler, SamplingSettings
from srs_ray.solvers.settings import SolverName, solver_title

if TYPE_CHECKING:  # results are read without torch
    from srs_ray.smoothing.base_classifier import BaseClassifier
    from srs_ray.smoothing.noise import NoisyPoint
    from srs_ray.solvers.iteration import SolverSetting


ANCHOR_SAMPLES = 32  # of a domain of their own, where no samples select a class


class AnchoredSampling(SamplingSettings):
    """Every estimation sample takes `steps` steps from the anchor: the mean equilibrium of the selection samples.

    The base classifier selects and audits. Given the anchor, samples are independent: no chains, no warm-up.
    """

    needs: ClassVar[tuple[str, ...]] = ("inject", "f", "head")
    audited: ClassVar[bool] = True
    default_audit_share: ClassVar[float | None] = 0.15

    method: Literal["anchored"] = Field("anchored", description="Sampling method.")
    solver: SolverName | None = Field(None, description="Solver from the anchor; default: the reference's.")
    steps: int = Field(2, ge=1, description="Solver steps of a sample, from the anchor.")

    @property
    def steps_of_a_sample(self) -> SolverSetting:
        from srs_ray.solvers.iteration import SolverSetting

        assert self.solver is not None
        return SolverSetting.named(self.solver, self.steps)

    def sampler(self, base: BaseClassifier, point: NoisyPoint) -> Sampler:
        from srs_ray.smoothing.samplers.anchor import AnchoredSampler

        return AnchoredSampler(base, point, self.steps_of_a_sample)

    def title(self, reference: str) -> str:
        return f"anchored {solver_title(self.solver or '?', self.steps)}"

    def evaluations_of(self, row: Row, n: int) -> float:
        return row["function_evaluations"] - (row["n"] - n) * self.steps

    def evaluations_by_steps(self, row: Row, steps: int) -> float:
        return row["function_evaluations"] - row["n"] * (self.steps - steps)
