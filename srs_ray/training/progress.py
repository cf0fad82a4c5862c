"""What a training shows while it goes: a live line on a terminal, and a printed line for every epoch."""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from srs_ray.train_job import TrainingSettings
from srs_ray.training.reports import EpochReport, StepReport
from srs_ray.training.trainer import Phase


class TrainingProgress:
    """`with TrainingProgress(console, job.training) as report: train(job, report)` shows the training going by."""

    def __init__(self, console: Console, settings: TrainingSettings) -> None:
        self.console = console
        self.settings = settings
        self.seconds: defaultdict[Phase, float] = defaultdict(float)
        self.epochs_done: defaultdict[Phase, float] = defaultdict(float)
        self.last: StepReport | None = None
        self.epoch: EpochReport | None = None
        self.began = time.monotonic()
        self.bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=settings.epochs, state="", pace="")

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        self.began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, report: StepReport | EpochReport) -> None:
        """Counts some batches or an epoch's end, and shows it."""
        now = time.monotonic()
        self.seconds[report.phase] += now - self.began
        self.began = now
        if isinstance(report, StepReport):
            same = self.last is not None and self.last.epoch == report.epoch
            before = self.last.batch if same and self.last is not None else 0
            # A training that goes on in mid-epoch has not spent time here on the batches before.
            fresh = min(report.batch - before, _MOST_BATCHES) if self.last is None else report.batch - before
            self.epochs_done[report.phase] += fresh / report.batches
            self.last = report
        else:
            self.epoch = report
        pace = f"{timedelta(seconds=round(self.seconds_to_go()))} to go"
        done = report.epoch if isinstance(report, EpochReport) else report.epoch - 1 + report.batch / report.batches
        self.bar.update(self.task, completed=done, state=self._state(), pace=pace)
        if isinstance(report, EpochReport):
            line = f"{report}" if self.console.is_terminal else f"{report}, {pace}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def seconds_to_go(self) -> float:
        """By each phase's own pace; of a phase that has not begun, by its work against that of the other."""
        if self.last is None:
            return 0.0
        pace = {phase: self.seconds[phase] / done for phase, done in self.epochs_done.items() if done}
        known = self.last.phase
        left = self.settings.epochs - (self.last.epoch - 1 + self.last.batch / self.last.batches)
        unrolled = max(0.0, left - self.settings.equilibrium_epochs)
        total = 0.0
        for phase, epochs in _phases(unrolled, left - unrolled):
            guess = pace[known] * epoch_work(self.settings, phase) / epoch_work(self.settings, known)
            total += epochs * pace.get(phase, guess)
        return total

    def _state(self) -> str:
        parts = []
        if self.last is not None:
            parts.append(f"epoch {self.last.epoch} {self.last.phase} {self.last.batch}/{self.last.batches}")
            parts.append(f"loss {self.last.losses['loss']:.3f}")
        if self.epoch is not None:
            reached = self.epoch.evaluation
            parts.append(" ".join(f"{share:.1%} ({steps})" for steps, share in reached.accuracy.items()))
            parts.append(f"residual {reached.residual:.0e}, radius {reached.spectral_radius:.2f}")
        return " · ".join(parts)


_MOST_BATCHES = 20


def _phases(unrolled: float, equilibrium: float) -> tuple[tuple[Phase, float], tuple[Phase, float]]:
    return ("unrolled", unrolled), ("equilibrium", equilibrium)


def epoch_work(settings: TrainingSettings, phase: Phase) -> float:
    """About how much work an epoch is, in evaluations of f without gradient per image.

    With its gradient an evaluation counts 3, the Jacobian's energy 6 more; SmoothAdv repeats all of it.
    """
    attacks = settings.adversary.steps
    if phase == "unrolled":
        return 3.0 * settings.unrolled_steps * (settings.adversary.samples * (attacks + 1) if attacks else 1)
    solved = sum(settings.solve_steps) / 2
    gradient = settings.gradient
    backward = 3.0 * gradient.steps if gradient.kind == "phantom" else 3.0 + 2.0 * gradient.steps
    more = settings.intermediate.states if settings.intermediate.weight > 0 else 0
    more += 1 if settings.serial.weight > 0 else 0
    regularised = 6.0 / settings.jacobian.every if settings.jacobian.weight > 0 else 0.0
    return settings.copies * ((attacks + 1) * (solved + backward) + 3.0 * more + regularised)
