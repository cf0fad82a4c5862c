"""Chains of solves: each noisy sample is solved from the last state of its chain (Gao et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from srs_ray.models.opened import Solvable
from srs_ray.smoothing.base_classifier import Predictions, PredictionsOnDevice, index_of
from srs_ray.smoothing.noise import Domain, NoisyPoint
from srs_ray.solvers.iteration import Solution, SolverSetting, solve


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
        self.setting, self.steps = setting, setting.steps
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
