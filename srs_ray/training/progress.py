"""What a training shows while it goes: a line for every epoch, and a bar with the time to go on a terminal."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from srs_ray.job import TrainingSettings
from srs_ray.training.trainer import Phase
from srs_ray.training.training_job import EpochReport


class TrainingProgress:
    """`with TrainingProgress(console, job.training) as report: train(job, report)` shows the epochs going by."""

    def __init__(self, console: Console, settings: TrainingSettings) -> None:
        self.console = console
        self.settings = settings
        self.seconds: defaultdict[Phase, list[float]] = defaultdict(list)
        self.bar = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=settings.epochs, pace="no epoch finished yet")

    def __enter__(self) -> TrainingProgress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, report: EpochReport) -> None:
        """Counts an epoch and shows it."""
        self.seconds[report.losses.phase].append(report.seconds)
        pace = f"{timedelta(seconds=round(self.seconds_to_go()))} to go"
        self.bar.update(self.task, completed=report.epoch, pace=pace)
        on_terminal = self.console.is_terminal
        self.console.print(f"{report}" if on_terminal else f"{report}, {pace}", highlight=False, soft_wrap=True)

    def seconds_to_go(self) -> float:
        """By the mean epoch of each phase; of a phase that has not begun, by its work against the other's."""
        epochs: dict[Phase, int] = {
            "unrolled": self.settings.unrolled_epochs,
            "equilibrium": self.settings.equilibrium_epochs,
        }
        seconds = {phase: sum(taken) / len(taken) for phase, taken in self.seconds.items()}
        known = next(iter(seconds))
        return sum(
            (count - len(self.seconds.get(phase, ())))
            * seconds.get(phase, seconds[known] * epoch_work(self.settings, phase) / epoch_work(self.settings, known))
            for phase, count in epochs.items()
        )


def epoch_work(settings: TrainingSettings, phase: Phase) -> float:
    """About how much work an epoch is, in evaluations of f without gradient per image.

    With its gradient an evaluation counts 3, the Jacobian's energy 6 more.
    """
    if phase == "unrolled":
        return 3.0 * settings.unrolled_steps
    regularised = 6.0 / settings.jacobian.every if settings.jacobian.weight > 0 else 0.0
    return sum(settings.solve_steps) / 2 + 3.0 * settings.gradient_steps + regularised
