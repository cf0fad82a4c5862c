"""What the points so far say of a run that goes on: time to go, targets, disagreement over time, errors by reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite, sqrt
from statistics import fmean, stdev

from srs_ray.smoothing.bounds import clopper_pearson_lower

FEWEST = 5  # points from which on a time to go is told
RECENT = 200  # points that a time to go is made of: the last ones
LATELY_SECONDS = 300.0
CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959964  # of 1/2 + CONFIDENCE/2
LONGEST_REASON = 100


@dataclass(frozen=True)
class TimeToGo:
    """Seconds that the rest of a run takes, with a 95 % interval."""

    expected: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_rounded(self.expected)} to go ({_rounded(self.low)} to {_rounded(self.high)})"

    @property
    def short(self) -> str:
        """Without the interval."""
        return f"{_rounded(self.expected)} to go"


def time_to_go(left: int, seconds: Sequence[float], pace: float) -> TimeToGo | None:
    """How long `left` points take at a pace of so many points a second; None (unknown) after fewer than FEWEST points.

    `seconds` are the times of the last points, each in its worker. The rest is the sum of `left` times with their mean
    and variance, spread over the workers as the points so far were, and so left / pace in expectation. Its relative
    standard deviation is cv sqrt(1 / left + 1 / k): cv is the coefficient of variation of the k times, the first term
    the spread of the sum, the second the error of the mean. The interval is normal. It supposes that points come in no
    order of difficulty, and that as many workers go on.
    """
    known = [each for each in seconds if isfinite(each)][-RECENT:]
    if left <= 0:
        return TimeToGo(0.0, 0.0, 0.0)
    if len(known) < FEWEST or pace <= 0 or fmean(known) <= 0:
        return None
    relative = stdev(known) / fmean(known) * sqrt(1 / left + 1 / len(known))
    expected = left / pace
    return TimeToGo(
        expected, max(0.0, expected * (1 - NORMAL_QUANTILE * relative)), expected * (1 + NORMAL_QUANTILE * relative)
    )


def share_interval(count: int, of: int) -> tuple[float, float]:
    """The two-sided 95 % Clopper-Pearson interval of a share; [0, 1] of nothing."""
    if not of:
        return 0.0, 1.0
    tail = (1 - CONFIDENCE) / 2
    return clopper_pearson_lower(count, of, tail), 1 - clopper_pearson_lower(of - count, of, tail)


@dataclass(frozen=True)
class TargetOutlook:
    """Whether a wanted certified accuracy can still be met over all points asked for."""

    radius: float
    wanted: float
    certified: int  # points with the right class at that radius so far
    ended: int
    remaining: int  # points without a result: pending ones, and those in error, which the next run tries again
    asked: int

    @property
    def most(self) -> float:
        """The certified accuracy if every remaining point were certified."""
        return (self.certified + self.remaining) / self.asked if self.asked else 0.0

    @property
    def possible(self) -> bool:
        """Whether that is enough."""
        return self.most >= self.wanted - 1e-12

    @property
    def likely(self) -> bool:
        """Whether the 95 % interval of the points that ended holds it, or lies above it."""
        return share_interval(self.certified, self.ended)[1] >= self.wanted

    @property
    def warning(self) -> str | None:
        """What to say of it; None where nothing speaks against the target."""
        name = f"the target {self.wanted:.1%} certified at radius {self.radius:g} (report.targets)"
        so_far = f"{self.certified} of the {self.ended} points that ended are"
        if not self.possible:
            if not self.remaining:
                return f"{name} is missed: {so_far}"
            left = f"{self.remaining} of {self.asked} remain"
            return f"{name} can no longer be met: {so_far}, {left}: at most {self.most:.1%}"
        if not self.likely:
            low, high = share_interval(self.certified, self.ended)
            return f"{name} is unlikely to be met: {so_far}, interval {low:.1%} to {high:.1%}"
        return None


def target_outlooks(
    targets: Mapping[float, float], certified: Mapping[float, int], done: int, errors: int, asked: int
) -> list[TargetOutlook]:
    """The outlook of each target (radius: wanted share), with the points certified at its radius so far."""
    return [
        TargetOutlook(radius, wanted, certified[radius], done + errors, asked - done, asked)
        for radius, wanted in sorted(targets.items())
    ]


@dataclass(frozen=True)
class Disagreement:
    """Audited hits, and those that the base classifier did not confirm, over some points."""

    audited: int
    disagreed: int

    @property
    def share(self) -> float | None:
        """None where nothing was audited."""
        return self.disagreed / self.audited if self.audited else None


def disagreement_by_half(audits: Sequence[tuple[int, int]]) -> tuple[Disagreement, Disagreement] | None:
    """Of points with (audited, disagreed) in the order in which they ended: the first half and the second.

    None with fewer than two points that were audited.
    """
    audited = [each for each in audits if each[0]]
    if len(audited) < 2:
        return None
    middle = len(audited) // 2
    first, second = (
        Disagreement(sum(each[0] for each in half), sum(each[1] for each in half))
        for half in (audited[:middle], audited[middle:])
    )
    return first, second


def disagreement_line(first: Disagreement, second: Disagreement) -> str:
    """Both halves in words."""
    return (
        f"disagreement of audits: {first.disagreed / first.audited:.2%} in the first half of the points, "
        f"{second.disagreed / second.audited:.2%} in the second"
    )


def reason_of_error(error: str) -> str:
    """The text of an error without its numbers, so that errors of one kind count together."""
    text = re.sub(r"\d+", "N", error)
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


def node_of(worker: object) -> str:
    """The host of a worker as rows name it (host/process); `unknown` where a row names none."""
    name = worker if isinstance(worker, str) and worker else "unknown"
    return name.rpartition("/")[0] or name


def counted(names: Iterable[str]) -> list[tuple[str, int]]:
    """Each name with how often it is there, the most frequent first."""
    return sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))


def _rounded(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
