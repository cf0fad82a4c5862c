"""What a run shows while it goes: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from srs_ray.runner.worker import Row

LINE_SECONDS = 60.0


@dataclass
class Tally:
    """Counts over the finished points of a run, those of earlier sessions among them."""

    done: int = 0
    errors: int = 0
    abstained: int = 0
    correct: int = 0

    def add(self, row: Row) -> None:
        """Counts one row."""
        if row["status"] != "ok":
            self.errors += 1
            return
        self.done += 1
        self.abstained += row["predicted"] == -1
        self.correct += bool(row["correct"])

    def __str__(self) -> str:
        if not self.done:
            return f"{self.errors} errors" if self.errors else ""
        shares = f"certified {self.correct / self.done:.0%} at radius 0, abstained {self.abstained / self.done:.0%}"
        return f"{shares}, {self.errors} errors" if self.errors else shares


class RunProgress:
    """Shows the points of a run going by. The time to go is that of this session's points, resumed ones apart."""

    def __init__(self, console: Console, asked: int, tally: Tally) -> None:
        self.console = console
        self.tally = tally
        self.asked = asked
        self.resumed = tally.done
        self.finished = 0
        self.started = self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn("[bold]certifying"),
            BarColumn(),
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
        """Counts a row and shows it."""
        self.finished += 1
        self.tally.add(row)
        self.tick()
        if not self.console.is_terminal and time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            self.console.print(f"{self.resumed + self.finished} of {self.asked} points; {self.pace()}; {self.tally}")

    def tick(self) -> None:
        """Keeps the time to go true while no rows come."""
        self.bar.update(self.task, completed=self.resumed + self.finished, pace=self.pace(), tally=str(self.tally))

    def pace(self) -> str:
        """Points per hour of this session, and the time that the rest takes at that pace."""
        if not self.finished:
            return "no point finished yet"
        rate = self.finished / (time.monotonic() - self.started)
        left = timedelta(seconds=round((self.asked - self.resumed - self.finished) / rate))
        return f"{3600 * rate:.0f} points/h, {left} to go"
