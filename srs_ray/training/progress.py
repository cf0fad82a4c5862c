"""What a training shows while it goes: a printed line for every epoch; a live line on a terminal, else one a minute."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from srs_ray.runs.printable import fitted
from srs_ray.training.reports import REPORT_EVERY, EpochReport, StepReport
from srs_ray.training.settings import TrainingSettings

LINE_SECONDS = 60.0


class TrainingProgress:
    """`with TrainingProgress(console, job.training) as report: train(job, report)` shows the training going by."""

    def __init__(
        self, console: Console, settings: TrainingSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self.clock = clock
        self.settings = settings
        self.seconds: defaultdict[float, float] = defaultdict(float)  # by the work of an epoch
        self.epochs_done: defaultdict[float, float] = defaultdict(float)
        self.last: StepReport | None = None
        self.epoch: EpochReport | None = None
        self.began = self.last_line = clock()
        self.bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=settings.epochs, state="", pace="")

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        self.began = self.clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, report: StepReport | EpochReport) -> None:
        """Counts some batches or an epoch's end, and shows it."""
        now = self.clock()
        work = epoch_work(self.settings, report.epoch)
        self.seconds[work] += now - self.began
        self.began = now
        if isinstance(report, StepReport):
            self.epochs_done[work] += self._batches_since_last(report) / report.batches
            self.last = report
        else:
            self.epoch = report
        pace = f"{timedelta(seconds=round(self.seconds_to_go()))} to go"
        done = report.epoch if isinstance(report, EpochReport) else report.epoch - 1 + report.batch / report.batches
        taken = 9 + 11 + 8 + len(pace) + 1  # the other columns of the line, with a blank after each
        self.bar.update(self.task, completed=done, state=self._state(self.console.width - taken), pace=pace)
        if isinstance(report, EpochReport):
            self._print(f"{report}" if self.console.is_terminal else f"{report}, {pace}")
        elif not self.console.is_terminal and now - self.last_line >= LINE_SECONDS:
            self._print(f"{self._batch(report)}, {pace}")

    def _print(self, line: str) -> None:
        self.last_line = self.clock()
        self.console.print(line, highlight=False, soft_wrap=True)

    def seconds_to_go(self) -> float:
        """By the pace of epochs of the same work; for others by their work against that of the current one."""
        if self.last is None:
            return 0.0
        pace = {work: self.seconds[work] / done for work, done in self.epochs_done.items() if done}
        current = epoch_work(self.settings, self.last.epoch)
        total = (1 - self.last.batch / self.last.batches) * pace[current]
        for epoch in range(self.last.epoch + 1, self.settings.epochs + 1):
            work = epoch_work(self.settings, epoch)
            total += pace.get(work, pace[current] * work / current)
        return total

    def _batches_since_last(self, report: StepReport) -> int:
        if self.last is None:  # a training that goes on in mid-epoch has not spent time here on the batches before
            return min(report.batch, REPORT_EVERY)
        return report.batch - (self.last.batch if self.last.epoch == report.epoch else 0)

    @staticmethod
    def _batch(report: StepReport) -> str:
        place = f"epoch {report.epoch} {report.phase} {report.batch}/{report.batches}"
        return f"{place} · loss {report.losses['loss']:.3f}"

    def _state(self, width: int) -> str:
        """What there is to say, the least important first, as far as it fits."""
        parts = []
        if self.epoch is not None:
            reached = self.epoch.evaluation
            parts.append(f"residual {reached.residual:.0e}, radius {reached.spectral_radius:.2f}")
            parts.append(" ".join(f"{share:.1%} ({steps})" for steps, share in reached.accuracy.items()))
        if self.last is not None:
            parts.append(self._batch(self.last))
        return fitted(parts, width, " · ")


def epoch_work(settings: TrainingSettings, epoch: int) -> float:
    """About how much work an epoch (from 1) is, in evaluations of f without gradient per image.

    With its gradient an evaluation counts 3, the Jacobian's energy 6 more; SmoothAdv repeats all of it.
    """
    adversary, gradient = settings.adversary, settings.gradient
    solves = adversary.steps + 1
    if epoch <= settings.unrolled_epochs:
        return settings.copies(epoch) * solves * 3.0 * settings.unrolled_steps
    backward = 3.0 * gradient.steps if gradient.kind == "phantom" else 3.0 + 2.0 * gradient.steps
    work = solves * (sum(settings.solve_steps) / 2 + backward)
    work += 3.0 * settings.intermediate.states if settings.intermediate.weight > 0 else 0.0
    work += 6.0 / settings.jacobian.every if settings.is_regularised(epoch) else 0.0
    if not settings.is_serial(epoch):
        return settings.copies(epoch) * work
    serial, plain = settings.copies(epoch) * (work + 3.0), settings.copies(epoch, batch=1) * work
    return plain + (serial - plain) / settings.serial.every
