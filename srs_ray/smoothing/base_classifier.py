"""The base classifier F: the reference solver from a constant start, zero or stored, one function of one input.

Every network kernel that F runs sees batches of one padded shape, and what the solver adds up for a sample has one
order, so that a sample's prediction does not depend on which others are predicted with it. A sample that has stopped
gives its slot to the next one, so that stopping early saves evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from srs_ray.models.opened import Opened, Solvable
from srs_ray.smoothing.noise import Domain, NoisyPoint
from srs_ray.solvers.iteration import FixedPointIteration, Solution, SolverSetting, solve
from srs_ray.solvers.naive import Naive

NO_CLASS = -1


def predicted_classes(logits_BK: Tensor, finite_B: Tensor) -> Tensor:
    """The class of the largest logit; NO_CLASS where a logit, or anything in the solve (`finite_B`), is not finite."""
    return torch.where(finite_B & torch.isfinite(logits_BK).all(dim=1), logits_BK.argmax(dim=1), NO_CLASS)


@dataclass(frozen=True)
class Predictions:
    """Predictions of N samples in the order asked for (NO_CLASS for none), and what they cost, summed."""

    classes_N: np.ndarray
    evaluations: int
    fallbacks: int
    unconverged: int


class PredictionsOnDevice:
    """Predictions of `count` samples and their cost as they come, left on the device until all are there.

    A GPU is thus never waited for to take note of a batch. Samples are given by their positions.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.classes_N = torch.full((count,), NO_CLASS, dtype=torch.int64, device=device)
        self.evaluations, self.fallbacks, self.unconverged = torch.zeros(3, dtype=torch.int64, device=device)

    def classify(self, positions_B: np.ndarray, logits_BK: Tensor, finite_B: Tensor) -> None:
        """Takes the samples' classes; they have none where anything in the solve (`finite_B`) was not finite."""
        self.classes_N[index_of(positions_B, logits_BK.device)] = predicted_classes(logits_BK, finite_B)

    def count(self, solution: Solution, slots: Tensor | slice | None = None, *, converging: bool = False) -> None:
        """Counts what the solves cost, or those in `slots`; and the unconverged, where they should converge."""
        rows = slice(None) if slots is None else slots
        self.evaluations += solution.evaluations_B[rows].sum()
        self.fallbacks += solution.fell_back_B[rows].sum()
        if converging:
            self.unconverged += (~solution.converged_B[rows]).sum()

    def read(self) -> Predictions:
        costs = int(self.evaluations), int(self.fallbacks), int(self.unconverged)
        return Predictions(self.classes_N.cpu().numpy(), *costs)


def index_of(rows: np.ndarray, device: torch.device) -> slice | Tensor:
    """What picks these rows of a tensor on the device; a slice if they are neighbours, which a GPU takes unasked."""
    first = int(rows[0])
    if bool((np.diff(rows) == 1).all()):
        return slice(first, first + len(rows))
    return torch.from_numpy(rows).to(device)


@dataclass(frozen=True)
class BaseClassifier:
    """F of one model, solver setting and batch size.

    `of_a_sampler`: it is none, but what a sampler says, which may be computed in any way.
    """

    model: Solvable
    setting: SolverSetting
    batch: int
    start_D: Tensor | None = None  # None: zero
    of_a_sampler: bool = False

    @classmethod
    def of(cls, model: Opened, batch: int) -> BaseClassifier:
        """That of a model, as its `reference` has it."""
        return cls(model, model.reference, batch, model.start_D)

    def start_state(self) -> Tensor:
        """The start of each sample of a batch; a stored one is there once, which the first step may make use of."""
        return self.model.zero_state(self.batch) if self.start_D is None else self.start_D.expand(self.batch, -1)

    @property
    def in_step(self) -> bool:
        """Whether samples all take the same steps, side by side."""
        return self.setting.tolerance is None and (self.of_a_sampler or self.setting.solver.name == Naive.name)

    @torch.inference_mode()
    def predict(
        self,
        point: NoisyPoint,
        stage: Domain,
        numbers: Sequence[int] | np.ndarray,
        states: list[Tensor] | None = None,
    ) -> Predictions:
        """What F says of these noisy samples of the point; `states` gets the finite states that it ended at."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if self.in_step:
            return self._in_step(point, stage, numbers, states)
        return _Pass(self, point, stage, numbers, states).run()

    def _in_step(
        self, point: NoisyPoint, stage: Domain, numbers: np.ndarray, states: list[Tensor] | None
    ) -> Predictions:
        """The same where samples all take the same steps: batch by batch, with nothing to look at between steps."""
        model = self.model
        drawn = PredictionsOnDevice(len(numbers), model.device)
        for first in range(0, len(numbers), self.batch):
            count = min(self.batch, len(numbers) - first)
            injection_BCHW = model.inject(padded_samples(point, stage, numbers, first, self.batch).to(model.dtype))
            solution = solve(partial(evaluate_layer, model, injection_BCHW), self.start_state(), self.setting)
            drawn.count(solution, slice(count))
            finite_B = solution.finite_B[:count]
            drawn.classify(np.arange(first, first + count), model.head(solution.z_BD)[:count], finite_B)
            if states is not None:
                states.append(solution.z_BD[:count][finite_B])
        return drawn.read()


def evaluate_layer(model: Solvable, injection_BCHW: Tensor, z_BD: Tensor) -> Tensor:
    """f of one injection."""
    return model.f(z_BD, injection_BCHW)


def padded_samples(point: NoisyPoint, stage: Domain, numbers: np.ndarray, first: int, batch: int) -> Tensor:
    """A batch of the noisy samples of these numbers from position `first` on; the last fills up a short one."""
    padded = np.minimum(np.arange(first, first + batch), len(numbers) - 1)
    return point.samples(stage, numbers[padded].tolist())


class _Pass:
    """One pass of F over a list of samples: stem, solve and head each run on full batches, padded at the end."""

    def __init__(
        self,
        base: BaseClassifier,
        point: NoisyPoint,
        stage: Domain,
        numbers: np.ndarray,
        states: list[Tensor] | None = None,
    ) -> None:
        self.base, self.point, self.stage, self.numbers, self.ended = base, point, stage, numbers, states
        model, self.batch = base.model, base.batch
        self.injection_BCHW = self._stem(0)
        self.stem_used, self.stem_end = 0, min(self.batch, len(numbers))
        self.ready_BCHW = self.injection_BCHW.clone()
        self.iteration = FixedPointIteration(
            lambda z_BD: model.f(z_BD, self.injection_BCHW), base.start_state().contiguous(), base.setting, base.start_D
        )
        self.sample_B = np.full(self.batch, -1)
        self.iteration.active_B[:] = False
        self.solved: list[tuple[np.ndarray, Tensor, Tensor]] = []
        self.predictions = PredictionsOnDevice(len(numbers), model.device)

    def run(self) -> Predictions:
        while self._refill():
            self.iteration.advance()
            self._collect()
        self._classify(final=True)
        return self.predictions.read()

    def _stem(self, first: int) -> Tensor:
        """The injections of the batch of samples from `first` on; the last sample fills up a short batch."""
        x_BCHW = padded_samples(self.point, self.stage, self.numbers, first, self.batch)
        return self.base.model.inject(x_BCHW.to(self.base.model.dtype))

    def _refill(self) -> bool:
        """Gives empty slots to the next samples; False when all samples are done."""
        empty = np.flatnonzero(self.sample_B < 0)
        while len(empty) and self.stem_used < len(self.numbers):
            if self.stem_used == self.stem_end:
                self.ready_BCHW = self._stem(self.stem_end)
                self.stem_end = min(self.stem_end + self.batch, len(self.numbers))
            count = min(len(empty), self.stem_end - self.stem_used)
            taken, empty = empty[:count], empty[count:]
            slots = torch.from_numpy(taken).to(self.injection_BCHW.device)
            offset = self.stem_used % self.batch
            self.injection_BCHW[slots] = self.ready_BCHW[offset : offset + count]
            self.iteration.restart(slots)
            self.sample_B[taken] = np.arange(self.stem_used, self.stem_used + count)
            self.stem_used += count
        return bool((self.sample_B >= 0).any())

    def _collect(self) -> None:
        """Takes the samples that have stopped out of their slots."""
        stopped = np.flatnonzero(~self.iteration.active_B.cpu().numpy() & (self.sample_B >= 0))
        if not len(stopped):
            return
        slots = torch.from_numpy(stopped).to(self.injection_BCHW.device)
        solution: Solution = self.iteration.solution()
        self.predictions.count(solution, slots, converging=self.base.setting.tolerance is not None)
        z_ND, finite_N = solution.z_BD[slots], solution.finite_B[slots]
        self.solved.append((self.sample_B[stopped], z_ND, finite_N))
        if self.ended is not None:
            self.ended.append(z_ND[finite_N])
        self.sample_B[stopped] = -1
        self._classify(final=False)

    def _classify(self, *, final: bool) -> None:
        """Runs the head on full batches of solved samples, and at the end on what is left, padded."""
        waiting = sum(len(samples) for samples, _, _ in self.solved)
        if not waiting or (waiting < self.batch and not final):
            return
        samples = np.concatenate([samples for samples, _, _ in self.solved])
        z_ND = torch.cat([z_ND for _, z_ND, _ in self.solved])
        finite_N = torch.cat([finite_N for _, _, finite_N in self.solved])
        self.solved = []
        for first in range(0, waiting, self.batch):
            part = samples[first : first + self.batch]
            z_BD = z_ND[first : first + self.batch]
            finite_B = finite_N[first : first + self.batch]
            if len(part) < self.batch:
                if not final:
                    self.solved = [(part, z_BD, finite_B)]
                    return
                z_BD = torch.cat([z_BD, z_BD[-1:].expand(self.batch - len(part), -1)])
            self.predictions.classify(part, self.base.model.head(z_BD)[: len(part)], finite_B)
