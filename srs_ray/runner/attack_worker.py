"""What attacks points, in whatever process: a worker of certification with an attacker in the place of its judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from srs_ray.attacks.gradients import refuse_without_gradient
from srs_ray.attacks.point import Attacker, Certified
from srs_ray.attacks.row import AttackRow
from srs_ray.attacks.settings import AttackSettings
from srs_ray.errors import PointError
from srs_ray.runner.rehearsal import Rehearsal
from srs_ray.runner.worker import Cargo, PointWorker, Row, WorkerSpec, failed_row
from srs_ray.smoothing.judge import SmoothingJudge


@dataclass(frozen=True)
class AttackSpec(WorkerSpec):
    """A job as its workers need it, what to try on each point, and what the run says of the points."""

    attack: AttackSettings = field(default_factory=AttackSettings)
    certified: Mapping[int, Certified] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many noisy samples one point takes at most, gradients counted as some."""
        return self.attack.samples

    def open(self, cargo: Cargo, threads: int) -> PointWorker:
        """What attacks the points, in this process."""
        return AttackWorker(self, cargo, threads)

    def failed_row(self, index: int, attempts: int, reason: object) -> Row:
        """The row of a point that was tried `attempts` times and given up."""
        return failed_row(self.job.sigma, index, attempts, reason, AttackRow)


class AttackWorker(PointWorker):
    """Attacks points of one run. A point that cannot be read becomes an error row."""

    error_row = AttackRow

    def __init__(self, spec: AttackSpec, cargo: Cargo, threads: int) -> None:
        super().__init__(spec, cargo, threads)
        self.settings, self.certified = spec.attack, spec.certified

    def rehearse(self) -> Rehearsal:
        """The same as of certification, and a gradient; JobError for a model that gives none."""
        rehearsal = super().rehearse()
        for state in ("final", "intermediate"):
            if self.settings.states in (state, "both"):
                refuse_without_gradient(self.judge.model, state)
        return rehearsal

    def _done_in_memory(self, x_CHW: Tensor, index: int, label: int | None) -> Any:
        if label is None:
            raise PointError("the point has no label, and an attack's accuracy is of labels")

        def attack() -> AttackRow:
            judge = self.judge  # whose batch is halved where memory runs out
            assert isinstance(judge, SmoothingJudge)  # only runs of samples are attacked
            assert self.sigma is not None
            attacker = Attacker(judge.model, self.sigma, judge.generator, self.settings, judge.batch)
            return attacker.attack(x_CHW, index, label, self.certified[index])

        return self._in_memory(f"point {index}", attack)
