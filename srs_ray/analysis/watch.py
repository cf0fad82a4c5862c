"""Runs that are looked at again and again, also while one of them cannot be read for a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from srs_ray.analysis.comparison import AccuracyAt
from srs_ray.analysis.status import INTERVAL, age_text, run_status, status_text, to_go_text, warnings_of
from srs_ray.errors import SrsRayError
from srs_ray.runs.printable import printable

HEADINGS = ("run", "points", "errors", "points/h", "last 5 min", "to go", "certified (%) at", "newest row")


@dataclass(frozen=True)
class Look:
    """A run as it was last read (`state`, as `run_status` gives it; None: never), and why it cannot be read now."""

    run: str
    state: dict[str, Any] | None = None
    fault: str | None = None

    @property
    def at_rest(self) -> bool:
        """Whether the run was read and has no pending point."""
        return self.fault is None and self.state is not None and not self.state["pending"]

    @property
    def text(self) -> str:
        """The state as lines for a person, below what is wrong."""
        fault = "" if self.fault is None else f"{self.name}: cannot be read now: {self.fault}\n"
        return fault + ("" if self.state is None else status_text(self.state))

    @property
    def name(self) -> str:
        """The run's name, else its path."""
        return printable(self.run) if self.state is None else self.state["run"]

    @property
    def accuracies(self) -> list[AccuracyAt]:
        """Certified accuracy at 0 and the job's radii."""
        return [] if self.state is None else [AccuracyAt(**at) for at in self.state["certified_accuracy"]]

    @property
    def cells(self) -> tuple[str, ...]:
        """The run's line of a table, by HEADINGS."""
        state = self.state
        if state is None:
            return (self.name, *("",) * (len(HEADINGS) - 1))
        rate, lately = state["points_per_hour"], state["points_per_hour_lately"]
        going = bool(state["pending"])
        return (
            self.name,
            f"{state['done']}/{state['asked']}",
            str(state["in_error"]),
            f"{rate:.0f}" if rate else "",
            f"{lately:.0f}" if going and lately is not None else "",
            to_go_text(state).removeprefix("at that pace ").replace(" to go", ""),
            ", ".join(f"{at.radius_label}: {at.percent(INTERVAL)}" for at in self.accuracies),
            age_text(state),
        )

    @property
    def notes(self) -> list[str]:
        """What has to be said below a table: faults and warnings."""
        faults = [] if self.fault is None else [f"{self.name}: cannot be read now: {self.fault}"]
        return faults + [
            f"{self.name}: {warning}" for warning in ([] if self.state is None else warnings_of(self.state))
        ]


def look_again(before: Sequence[Look]) -> list[Look]:
    """The runs as they are now; one that cannot be read keeps the state in which it was last read."""
    return [_looked(look) for look in before]


def _looked(before: Look) -> Look:
    try:
        return Look(before.run, run_status(before.run))
    except (SrsRayError, OSError) as error:
        return Look(before.run, before.state, printable(str(error)))
