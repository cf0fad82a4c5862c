"""The two ways of drawing predictions of noisy samples: `standard` (Cohen et al. 2019) and `srs` (Gao et al. 2024)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from srs_ray.models.mdeq import MDEQ
from srs_ray.models.solvers import Solution, SolverSetting, solve
from srs_ray.smoothing.base_classifier import BaseClassifier, Predictions, PredictionsOnDevice, as_range, index_of
from srs_ray.smoothing.noise import NoisyPoint, Stage


class Sampler(Protocol):
    """Draws the samples first, first + 1, ..., first + count - 1 of a stage of one point, in the order of stages."""

    def draw(self, stage: Stage, count: int, first: int = 0) -> Predictions: ...


class StandardSampler:
    """Every sample is solved from zero by the base classifier: predictions are independent."""

    def __init__(self, base: BaseClassifier, point: NoisyPoint) -> None:
        self.base = base
        self.point = point

    def draw(self, stage: Stage, count: int, first: int = 0) -> Predictions:
        return self.base.predict(self.point, stage, np.arange(first, first + count))


class SerializedSampler:
    """Sample i of a stage belongs to chain i mod `chains`; each solve starts from the last state of its chain.

    A chain's first sample, in whichever stage it falls, starts from zero with `warmup_steps` steps; so does the next
    one of a chain whose state is not finite. Only the state is carried over, from selection into estimation too.
    Predictions within a chain are correlated, and an audit must correct for it (srs_ray.smoothing.audit). `batch`
    only says how many chains go through the network at once.
    """

    def __init__(
        self, model: MDEQ, point: NoisyPoint, setting: SolverSetting, warmup_steps: int, chains: int, batch: int
    ) -> None:
        self.model, self.point, self.chains, self.batch = model, point, chains, batch
        self.setting = setting
        self.warmup = SolverSetting(setting.solver, warmup_steps)
        self.z_JD = model.zero_state(chains)
        self.started_J = torch.zeros(chains, dtype=torch.bool, device=model.device)

    @torch.inference_mode()
    def draw(self, stage: Stage, count: int, first: int = 0) -> Predictions:
        drawn = PredictionsOnDevice(count, self.model.device)
        begin = first
        while begin < first + count:
            low = begin % self.chains
            if low == 0 or begin == first:
                started_J = self.started_J.cpu().numpy()  # a GPU is waited for once in a round of all chains
            batch = np.arange(low, min(low + self.batch, self.chains, low + first + count - begin))
            started = started_J[batch]
            for chains, setting in ((batch[started], self.setting), (batch[~started], self.warmup)):
                if len(chains):
                    numbers = begin - low + chains
                    solution = self._advance(stage, chains, numbers, setting)
                    drawn.count(solution)
                    drawn.classify(numbers - first, self.model.head(solution.z_BD), solution.finite_B)
            begin += len(batch)
        return drawn.read()

    def _advance(self, stage: Stage, chains: np.ndarray, numbers: np.ndarray, setting: SolverSetting) -> Solution:
        """One sample on each of these chains."""
        model = self.model
        x_BCHW = self.point.samples(stage, as_range(numbers))
        injection_BCHW = model.inject(x_BCHW.to(model.dtype))
        rows = index_of(chains, model.device)
        start_BD = model.zero_state(len(chains)) if setting is self.warmup else self.z_JD[rows]
        solution = solve(lambda z_BD: model.f(z_BD, injection_BCHW), start_BD, setting)
        self.z_JD[rows] = solution.z_BD
        self.started_J[rows] = solution.finite_B
        return solution
