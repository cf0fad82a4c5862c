"""Serialized sampling (Gao et al. 2024): chains of solves, each starting from the last state of its chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from srs_ray.smoothing.samplers.sampler import Row, Sampler, SamplingSettings
from srs_ray.solvers.settings import SolverName, solver_title

if TYPE_CHECKING:  # results are read without torch
    from srs_ray.smoothing.base_classifier import BaseClassifier
    from srs_ray.smoothing.noise import NoisyPoint
    from srs_ray.solvers.iteration import SolverSetting


class SerializedSampling(SamplingSettings):
    """Samples form chains: each solve starts from the chain's last state (Gao et al. 2024); an audit follows."""

    needs: ClassVar[tuple[str, ...]] = ("inject", "f", "head")
    audited: ClassVar[bool] = True
    default_audit_share: ClassVar[float | None] = 0.15

    method: Literal["srs"] = Field("srs", description="Sampling method.")
    chains: int = Field(400, ge=1, description="Chains of a point.")
    solver: SolverName | None = Field(None, description="Solver of the chains; default: the reference's.")
    steps: int = Field(3, ge=1, description="Solver steps of a sample.")
    warmup_steps: int = Field(10, ge=1, description="Solver steps of the first sample of a chain.")

    @model_validator(mode="after")
    def _warms_up(self) -> Self:
        if self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) is below steps ({self.steps}); expected no less")
        return self

    @property
    def at_once(self) -> int:
        return self.chains

    @property
    def steps_of_a_sample(self) -> SolverSetting:
        """The steps of a chain that has begun."""
        from srs_ray.solvers.iteration import SolverSetting

        assert self.solver is not None
        return SolverSetting.named(self.solver, self.steps)

    def sampler(self, base: BaseClassifier, point: NoisyPoint) -> Sampler:
        from srs_ray.smoothing.samplers.chains import SerializedSampler

        return SerializedSampler(base.model, point, self.steps_of_a_sample, self.warmup_steps, self.chains, base.batch)

    def title(self, reference: str) -> str:
        return f"SRS {solver_title(self.solver or '?', self.steps)}"

    def begun(self, n0: int, n: int) -> int:
        """Chains that n0 selection and n estimation samples begin; both go to chain 0 first."""
        return min(self.chains, max(n0, n))

    def evaluations_of(self, row: Row, n: int) -> float:
        drawn = row["n"]
        begun, fewer = self.begun(row["n0"], drawn), self.begun(row["n0"], n)
        cheap = drawn - n - (begun - fewer)
        return row["function_evaluations"] - cheap * self.steps - (begun - fewer) * self.warmup_steps

    def evaluations_by_steps(self, row: Row, steps: int) -> float:
        cheap = row["n0"] + row["n"] - self.begun(row["n0"], row["n"])
        return row["function_evaluations"] - cheap * (self.steps - steps)
