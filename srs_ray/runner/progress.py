"""What a run shows while it goes: a live bar on a terminal, and a line of the log every minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import ClassVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from srs_ray.runs.printable import fitted
from srs_ray.runs.schema import Row

log = logging.getLogger(__name__)

LINE_SECONDS = 60.0
WIDE = 100  # columns of a terminal from which on the bar itself may be longer


@dataclass
class Tally:
    """Counts over the finished points of a run, those of earlier sessions among them; `radius` is one to look at."""

    columns: ClassVar[tuple[str, ...]] = ("predicted", "correct", "radius")  # what is counted of rows

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

    @property
    def parts(self) -> list[str]:
        """The shares of the points that ended, and errors, each in words."""
        ended = self.done + self.errors
        if not ended:
            return []
        shares = [("certified at 0", self.correct), (f"at {self.radius:g}", self.correct_at_radius)]
        if self.radius == 0:
            del shares[1]
        parts = [f"{name}: {count / ended:.0%}" for name, count in [*shares, ("abstained", self.abstained)]]
        return [*parts, f"errors: {self.errors}"] if self.errors else parts

    def __str__(self) -> str:
        return ", ".join(self.parts)


class _Bar(Progress):
    """A bar with a second line below it, which is no longer than the terminal is wide."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.below, style="dim", no_wrap=True, overflow="crop")


class RunProgress:
    """Shows the points of a run going by. The time to go is that of this session's points, resumed ones apart."""

    def __init__(self, console: Console, asked: int, tally: Tally, verb: str = "certifying") -> None:
        self.tally = tally
        self.asked = asked
        self.resumed = tally.done
        self.finished = 0
        self.workers = 0
        self.started = self.last_line = time.monotonic()
        self.bar = _Bar(
            TextColumn(f"[bold]{verb}"),
            BarColumn(bar_width=20 if console.width >= WIDE else 10),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=asked, completed=tally.done, pace="")
        self._show()

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
        self._show()
        if time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            log.info("%d of %d points; %s; %s", self.resumed + self.finished, self.asked, self.pace(), self.tally)

    def _show(self) -> None:
        width = self.bar.console.width
        # The other columns of the bar: its name, itself, M/N, the percentage, the time, and a blank after each.
        taken = 11 + (21 if width >= WIDE else 11) + 2 * len(str(self.asked)) + 2 + 5 + 8
        self.bar.update(
            self.task, completed=self.resumed + self.finished, pace=fitted(self._pace_parts(), width - taken)
        )
        self.bar.below = fitted(self.tally.parts, width)

    def pace(self) -> str:
        """Workers, points per hour of this session, and the time that the rest takes at that pace."""
        return ", ".join(self._pace_parts())

    def _pace_parts(self) -> list[str]:
        workers = f"{self.workers} worker{'s' * (self.workers != 1)}"
        if not self.finished:
            return [workers, "no point finished yet"]
        rate = self.finished / (time.monotonic() - self.started)
        left = timedelta(seconds=round((self.asked - self.resumed - self.finished) / rate))
        return [workers, f"{3600 * rate:.0f} points/h", f"{left} to go"]
