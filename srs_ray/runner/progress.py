"""What a run shows while it goes: a live bar on a terminal, and a line of the log every minute."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from srs_ray.runs.outlook import (
    LATELY_SECONDS,
    RECENT,
    TargetOutlook,
    disagreement_by_half,
    disagreement_line,
    node_of,
    reason_of_error,
    share_interval,
    target_outlooks,
    time_to_go,
)
from srs_ray.runs.printable import fitted
from srs_ray.runs.schema import Row

log = logging.getLogger(__name__)

LINE_SECONDS = 60.0
DETAIL_SECONDS = 1.0
ERROR_LINES = 3
WIDE = 100  # columns of a terminal from which on the bar itself may be longer


@dataclass
class Tally:
    """Counts over the finished points of a run, those of earlier sessions among them, in the order in which they ended.

    `radius` is one to look at, `radii` are all that are told at length, and `targets` the wanted certified accuracy by
    radius.
    """

    # What is counted of rows:
    columns: ClassVar[tuple[str, ...]] = ("predicted", "correct", "radius", "audited", "disagreed")

    radius: float
    done: int = 0
    errors: int = 0
    abstained: int = 0
    correct: int = 0
    correct_at_radius: int = 0
    radii: tuple[float, ...] = ()
    targets: Mapping[float, float] = field(default_factory=dict)
    reached: Counter[float] = field(default_factory=Counter)  # points with the right class, by radii and targets
    audits: list[tuple[int, int]] = field(default_factory=list)  # audited and disagreed, of each point
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)  # errors by node and reason

    def add(self, row: Row) -> None:
        """Counts one row."""
        if row["status"] != "ok":
            self.errors += 1
            self.failed[node_of(row.get("worker")), reason_of_error(str(row.get("error")))] += 1
            return
        self.done += 1
        self.abstained += row["predicted"] == -1
        self.correct += bool(row["correct"])
        self.correct_at_radius += bool(row["correct"]) and row["radius"] >= self.radius
        for radius in {*self.radii, *self.targets} if row["correct"] else ():
            self.reached[radius] += row["radius"] >= radius
        if row.get("audited"):
            self.audits.append((row["audited"], row["disagreed"]))

    @property
    def parts(self) -> list[str]:
        """The shares of the points that ended, and errors, each in words."""
        ended = self.done + self.errors
        if not ended:
            return []
        parts = [f"certified at 0: {_share(self.correct, ended)}"]
        parts += [f"at {self.radius:g}: {_share(self.correct_at_radius, ended)}"] if self.radius else []
        parts.append(f"abstained: {self.abstained / ended:.0%}")
        return [*parts, f"errors: {self.errors}"] if self.errors else parts

    @property
    def shares(self) -> dict[float, float]:
        """Certified accuracy at `radii`, of the points that ended; empty where none did."""
        ended = self.done + self.errors
        return {radius: self.reached[radius] / ended for radius in self.radii} if ended else {}

    @property
    def details(self) -> list[str]:
        """What else there is to say, a line each: certified accuracy by radius, disagreement over time, errors."""
        ended, lines = self.done + self.errors, []
        if ended and len(self.radii) > 2:
            shares = (f"{radius:g}: {_share(self.reached[radius], ended)}" for radius in self.radii)
            lines.append(f"at {', '.join(shares)}")
        halves = disagreement_by_half(self.audits)
        lines += [disagreement_line(*halves)] if halves else []
        lines += [
            f"errors: {count} on {node}: {reason}" for (node, reason), count in self.failed.most_common(ERROR_LINES)
        ]
        return lines

    def outlooks(self, asked: int) -> list[TargetOutlook]:
        """Whether each target can still be met over so many points asked for."""
        return target_outlooks(self.targets, self.reached, self.done, self.errors, asked)

    def __str__(self) -> str:
        return ", ".join(self.parts)


def _share(count: int, of: int) -> str:
    low, high = share_interval(count, of)
    return f"{count / of:.0%} ({100 * low:.0f}-{100 * high:.0f})"


class _Bar(Progress):
    """A bar with lines below it, which are no longer than the terminal is wide."""

    below: tuple[str, ...] = ("",)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for line in self.below:
            yield Text(line, style="dim", no_wrap=True, overflow="crop")


class RunProgress:
    """Shows the points of a run going by. The time to go is that of this session's points, resumed ones apart."""

    def __init__(self, console: Console, asked: int, tally: Tally, verb: str = "certifying") -> None:
        self.tally = tally
        self.asked = asked
        self.resumed = tally.done
        self.finished = 0
        self.workers = 0
        self.started = self.last_line = time.monotonic()
        self._ends: deque[float] = deque([self.started], maxlen=RECENT + 1)  # the moment before, and those of points
        self._seconds: deque[float] = deque(maxlen=RECENT)  # of each point in its worker, where a row tells it
        self._lately: deque[float] = deque()  # moments of points, of the last LATELY_SECONDS
        self._detailed, self._details = -DETAIL_SECONDS, list[str]()
        self._warned: dict[float, bool] = {}  # targets by radius: whether the graver warning was given
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
        self._ends.append(time.monotonic())
        self._lately.append(self._ends[-1])
        if row.get("seconds") is not None:
            self._seconds.append(row["seconds"])
        self._warn()

    def tick(self, workers: int) -> None:
        """Shows how things are, with so many workers at work: to be called often, also while no rows come."""
        self.workers = workers
        self._show()
        if time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            said = "; ".join([str(self.tally), *self.tally.details])
            log.info("%d of %d points; %s; %s", self.resumed + self.finished, self.asked, self.pace(), said)

    def _warn(self) -> None:
        """A warning for a target that has become unlikely, and another one when it can no longer be met."""
        for outlook in self.tally.outlooks(self.asked) if self.tally.targets else ():
            if outlook.warning and (outlook.radius not in self._warned or not outlook.possible):
                if not self._warned.get(outlook.radius, False):
                    log.warning("%s", outlook.warning)
                self._warned[outlook.radius] = not outlook.possible

    def _show(self) -> None:
        width = self.bar.console.width
        # The other columns of the bar: its name, itself, M/N, the percentage, the time, and a blank after each.
        taken = 11 + (21 if width >= WIDE else 11) + 2 * len(str(self.asked)) + 2 + 5 + 8
        room = width - taken
        pace = fitted(self._pace_parts(), room) or fitted(self._pace_parts(interval=False), room)
        self.bar.update(self.task, completed=self.resumed + self.finished, pace=pace)
        now = time.monotonic()
        if self.bar.console.is_terminal and now - self._detailed >= DETAIL_SECONDS:  # a large run's take some time
            self._detailed, self._details = now, self.tally.details
        self.bar.below = (fitted(self.tally.parts, width), *self._details)

    def pace(self) -> str:
        """Workers, points per hour of this session and lately, and the time that the rest takes at the last pace."""
        return ", ".join(self._pace_parts())

    def _pace_parts(self, interval: bool = True) -> list[str]:
        workers = f"{self.workers} worker{'s' * (self.workers != 1)}"
        if not self.finished:
            return [workers, "no point finished yet"]
        now = time.monotonic()
        rate = f"{3600 * self.finished / (now - self.started):.0f} points/h"
        while self._lately and self._lately[0] <= now - LATELY_SECONDS:
            self._lately.popleft()
        if now - self.started > LATELY_SECONDS:
            rate += f" ({3600 * len(self._lately) / LATELY_SECONDS:.0f} in the last 5 min)"
        recent = (len(self._ends) - 1) / (now - self._ends[0])
        found = time_to_go(self.asked - self.resumed - self.finished, self._seconds, recent)
        return [workers, rate, "time to go unknown" if found is None else str(found) if interval else found.short]
