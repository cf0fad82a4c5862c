"""Serialized sampling (Gao et al. 2024): chains of solves, each starting from the last state of its chain."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from srs_ray.models.opened import Solvable
from srs_ray.smoothing.base_classifier import BaseClassifier, Predictions, PredictionsOnDevice, index_of
from srs_ray.smoothing.noise import Domain, NoisyPoint
from srs_ray.smoothing.samplers.sampler import Row, Sampler, SamplingSettings
from srs_ray.smoothing.samplers.standard import StandardSampler
from srs_ray.solvers.iteration import Solution, SolverSetting, solve
from srs_ray.solvers.settings import SolverName


class ChainSettings(SamplingSettings):
    """What all sampling by chains shares: how many there are, and the solver that takes their steps."""

    needs: ClassVar[tuple[str, ...]] = ("inject", "f", "head")
    audited: ClassVar[bool] = True

    chains: int = Field(400, ge=1)
    solver: SolverName | None = None
    steps: int = Field(3, ge=1)
    warmup_steps: int = Field(10, ge=1)

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
        assert self.solver is not None
        return SolverSetting.named(self.solver, self.steps)

    def sampler(self, base: BaseClassifier, point: NoisyPoint) -> Sampler:
        return SerializedSampler(base.model, point, self.steps_of_a_sample, self.warmup_steps, self.chains, base.batch)

    def begun(self, n0: int, n: int) -> int:
        """Chains that n0 selection and n estimation samples begin; both go to chain 0 first."""
        return min(self.chains, max(n0, n))

    def evaluations_of(self, row: Row, n: int) -> float:
        drawn = row["n"]
        if row["method"] == StandardSampler.method:
            return super().evaluations_of(row, n)
        begun, fewer = self.begun(row["n0"], drawn), self.begun(row["n0"], n)
        cheap = drawn - n - (begun - fewer)
        return row["function_evaluations"] - cheap * self.steps - (begun - fewer) * self.warmup_steps

    def evaluations_by_steps(self, row: Row, steps: int) -> float:
        n = 0 if row["method"] == StandardSampler.method else row["n"]
        cheap = row["n0"] + n - self.begun(row["n0"], n)
        return row["function_evaluations"] - cheap * (self.steps - steps)


class SerializedSampling(ChainSettings):
    """Chains of samples, each solve starting from the last (Gao et al. 2024); the reference solver audits them."""

    default_audit_share: ClassVar[float | None] = 0.15

    method: Literal["srs"] = "srs"

    def title(self, reference: str) -> str:
        return f"SRS {self.steps_of_a_sample}"


class SerializedSampler:
    """Sample i of a stage belongs to chain i mod `chains`; each solve starts from the last state of its chain.

    A chain's first sample, in whichever stage it falls, starts from zero with `warmup_steps` steps; so does the next
    one of a chain whose state is not finite. Only the state is carried over, from selection into estimation too.
    Predictions within a chain are correlated, and an audit must correct for it (srs_ray.smoothing.audit). `batch`
    only says how many chains go through the network at once.
    """

    method: ClassVar[str] = "srs"

    def __init__(
        self, model: Solvable, point: NoisyPoint, setting: SolverSetting, warmup_steps: int, chains: int, batch: int
    ) -> None:
        self.model, self.point, self.chains, self.batch = model, point, chains, batch
        self.setting = setting
        self.warmup = SolverSetting(setting.solver, warmup_steps)
        self.z_JD = model.zero_state(chains)
        self.started_J = torch.zeros(chains, dtype=torch.bool, device=model.device)

    @torch.inference_mode()
    def draw(self, stage: Domain, count: int, first: int = 0) -> Predictions:
        drawn = PredictionsOnDevice(count, self.model.device)
        batches = self._batches(range(first, first + count))
        for numbers, x_BCHW in zip(batches, self.point.batches(stage, batches), strict=True):
            chain, position = numbers.start % self.chains, numbers.start - first
            if chain == 0 or position == 0:
                started_J = self.started_J.cpu().numpy()  # a GPU is waited for once in a round of all chains
            started_B = started_J[chain : chain + len(numbers)]
            for among_B, setting in ((started_B, self.setting), (~started_B, self.warmup)):
                rows = np.flatnonzero(among_B)
                if len(rows):
                    x_GCHW = x_BCHW[index_of(rows, x_BCHW.device)]
                    solution = self._advance(x_GCHW, chain + rows, setting)
                    drawn.count(solution)
                    drawn.classify(position + rows, self.model.head(solution.z_BD), solution.finite_B)
        return drawn.read()

    def _batches(self, numbers: range) -> list[range]:
        """These samples in batches, each within one round of the chains."""
        batches = []
        while numbers:
            count = min(self.batch, self.chains - numbers.start % self.chains)
            batches.append(numbers[:count])
            numbers = numbers[count:]
        return batches

    def _advance(self, x_BCHW: Tensor, chains: np.ndarray, setting: SolverSetting) -> Solution:
        """One noisy image on each of these chains."""
        model = self.model
        injection_BCHW = model.inject(x_BCHW.to(model.dtype))
        rows = index_of(chains, model.device)
        start_BD = model.zero_state(len(chains)) if setting is self.warmup else self.z_JD[rows]
        solution = solve(lambda z_BD: model.f(z_BD, injection_BCHW), start_BD, setting)
        self.z_JD[rows] = solution.z_BD
        self.started_J[rows] = solution.finite_B
        return solution
