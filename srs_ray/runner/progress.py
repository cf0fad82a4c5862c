"""What a run shows while it goes: a live bar on a terminal, and a line of the log every minute."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from srs_ray.runs.schema import Row

log = logging.getLogger(__name__)

LINE_SECONDS = 60.0


@dataclass
class Tally:
    """Counts over the finished points of a run, those of earlier sessions among them; `radius` is one to look at."""

    radius: float
    done: int = 0
    errors: int = 0
    abstained: int = 0
    correct: int = 0
    correct_at_radius: int = 0

    def add(self, row: Row) -> None:
        """Counts one row."""
        if row["status"] != "ok":
            self.errors += 1
            return
        self.done += 1
        self.abstained += row["predicted"] == -1
        self.correct += bool(row["correct"])
        self.correct_at_radius += bool(row["correct"]) and row["radius"] >= self.radius

    def __str__(self) -> str:
        ended = self.done + self.errors
        if not ended:
            return ""
        shares = [("certified at 0", self.correct), (f"at {self.radius:g}", self.correct_at_radius)]
        if self.radius == 0:
            del shares[1]
        text = ", ".join(f"{name}: {count / ended:.0%}" for name, count in [*shares, ("abstained", self.abstained)])
        return f"{text}, errors: {self.errors}" if self.errors else text


class RunProgress:
    """Shows the points of a run going by. The time to go is that of this session's points, resumed ones apart."""

    def __init__(self, console: Console, asked: int, tally: Tally) -> None:
        self.tally = tally
        self.asked = asked
        self.resumed = tally.done
        self.finished = 0
        self.workers = 0
        self.started = self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn("[bold]certifying"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("{task.fields[tally]}", style="dim"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=asked, completed=tally.done, pace=self.pace(), tally=str(tally))

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def add(self, row: Row) -> None:
        """Counts a row."""
        self.finished += 1
        self.tally.add(row)

    def tick(self, workers: int) -> None:
        """Shows how things are, with so many workers at work: to be called often, also while no rows come."""
        self.workers = workers
        self.bar.update(self.task, completed=self.resumed + self.finished, pace=self.pace(), tally=str(self.tally))
        if time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            log.info("%d of %d points; %s; %s", self.resumed + self.finished, self.asked, self.pace(), self.tally)

    def pace(self) -> str:
        """Workers, points per hour of this session, and the time that the rest takes at that pace."""
        workers = f"{self.workers} worker{'s' * (self.workers != 1)}"
        if not self.finished:
            return f"{workers}, no point finished yet"
        rate = self.finished / (time.monotonic() - self.started)
        left = timedelta(seconds=round((self.asked - self.resumed - self.finished) / rate))
        return f"{workers}, {3600 * rate:.0f} points/h, {left} to go"
