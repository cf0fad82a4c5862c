"""Several runs side by side: their certified accuracies, what they cost, and the notes that must stand by them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from srs_ray.analysis.accuracy import Summary, certified_accuracy, points_asked, summary
from srs_ray.analysis.attacks import AttackedAt, attacked_at, contradicted, matched
from srs_ray.analysis.pairing import different_points, paired_difference, shares_points
from srs_ray.analysis.projection import QUANTILES, p_lower_quantiles, projected_shares
from srs_ray.analysis.radii import Radius, parse_radii
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import (
    ABOVE_CAP,
    ABOVE_CAP_NOTE,
    CEILING,
    FLOOR,
    certificate_line,
    false_certificates,
    false_certificates_line,
    floor_line,
    guarantee_line,
    pending_line,
    per_run,
    subset_line,
)
from srs_ray.errors import SrsRayError
from srs_ray.runs.printable import printable

UNDEFINED = "n/a"


@dataclass(frozen=True)
class AccuracyAt:
    """Certified accuracy at one radius with its 95 % interval over points; shares, None where there are no points."""

    radius: float
    radius_label: str  # the radius as it was written, such as 36/255
    certified_accuracy: float | None
    low: float
    high: float
    certified: int
    above_cap: bool  # beyond what K allows: 0 by construction, not a finding
    floor: bool  # more points may be certified, were they all sampled for this radius, or had all of them ended
    certified_accuracy_of_asked: float | None  # certified over all asked for: a lower bound while some are pending

    def percent(self, interval: str = "") -> str:
        """The share in percent, its interval by that format, and `>=` before them where it is a floor."""
        if self.certified_accuracy is None:
            return UNDEFINED
        if self.above_cap and self.certified == 0:
            return ABOVE_CAP
        shown = f"{100 * self.certified_accuracy:.1f}" + interval.format(100 * self.low, 100 * self.high)
        return FLOOR + shown if self.floor else shown


@dataclass(frozen=True)
class PairedAt:
    """Certified accuracy at one radius minus that of the first run, on the points of both; shares."""

    difference: float
    low: float  # its 95 % score interval over points
    high: float
    only_first: int  # points that the first run alone certifies with the right class
    only_this: int
    above_cap: bool  # in one of the runs: no finding
    floor: bool  # this run's share is a floor: the difference of full shares may be larger
    ceiling: bool  # the first run's is

    def text(self) -> str:
        """In percentage points, with the interval and how many points there are on either side."""
        if self.above_cap:
            return ABOVE_CAP
        if self.floor and self.ceiling:
            return UNDEFINED
        bound = FLOOR if self.floor else CEILING if self.ceiling else ""
        interval = f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return f"{bound}{100 * self.difference:+.1f} {interval} ({self.only_this} here, {self.only_first} there)"


@dataclass(frozen=True)
class Paired:
    """A run beside the first one, on the points that ended in both."""

    first: str  # that run's label
    points: int
    at: tuple[PairedAt, ...]  # by radius


@dataclass(frozen=True)
class Projection:
    """Shares that rates like a run's would certify at another n: no certificates."""

    n: int
    shares: tuple[float | None, ...]  # by radius


@dataclass(frozen=True)
class RunResults:
    """One run's line of a comparison."""

    label: str
    info: RunInfo
    summary: Summary
    accuracies: tuple[AccuracyAt, ...]
    devices: tuple[str, ...]
    of: str = "ended"  # what shares and ACR are of
    p_lower: tuple[float | None, ...] = ()  # of the label, at QUANTILES
    paired: Paired | None = None  # with the first run; None for itself, and where no point is shared
    projection: Projection | None = None
    warning: str | None = None  # where the run is not over the points of the first
    attacked: tuple[AttackedAt, ...] | None = None  # by radius; None: no attack on it was given
    contradicted: tuple[int, ...] = ()  # points whose certificates the attack contradicts

    @property
    def acr_is_floor(self) -> bool:
        """Whether ACR is one."""
        return self.info.by_looks or (self.of == "asked" and self.info.asked > self.summary.points)

    @property
    def judged(self) -> int:
        """Points with a result: certified or abstained."""
        return self.summary.points - self.summary.errors

    @property
    def false_certificates(self) -> float | None:
        """`statements.false_certificates` of this run."""
        return false_certificates(self.info, self.judged)


def compare(
    frames: Sequence[pd.DataFrame],
    radii: str | Iterable[str | float],
    of: str = "ended",
    project_n: int | None = None,
    attacks: Sequence[pd.DataFrame] = (),
) -> list[RunResults]:
    """The frames of `load_points` or `recertify`, one for each run, at the same radii, in the order given.

    Shares are `of` the points that ended, or of all asked for (see `certified_accuracy`). Each run after the first is
    compared with it on the points of both, and with `project_n` each is projected to that n (see `projected_radii`).
    `attacks` are frames of `load_attacks`, each on one of the runs.
    Raises SrsRayError where there is no frame, a frame does not know its run, or a radius is not usable.
    """
    if not frames:
        raise SrsRayError("no run to compare; name at least one run directory")
    parsed = parse_radii(radii)
    infos = [RunInfo.of(df) for df in frames]
    labels = run_labels(infos)
    warnings = different_points(labels, frames)
    return [
        RunResults(
            label=label,
            info=info,
            summary=summary(df, of),
            accuracies=accuracies(df, parsed, of),
            devices=tuple(sorted(df["device"].dropna().unique())),
            of=of,
            p_lower=tuple(p_lower_quantiles(df)) if len(df) and not info.margins else (None,) * len(QUANTILES),
            paired=None if df is frames[0] else _paired(labels[0], frames[0], df, parsed),
            projection=None if project_n is None else Projection(project_n, _projected(df, project_n, parsed)),
            warning=warning,
            attacked=None if attack is None else attacked_at(attack, parsed),
            contradicted=() if attack is None else tuple(contradicted(attack)),
        )
        for label, info, df, warning, attack in zip(
            labels, infos, frames, warnings, matched(frames, attacks), strict=True
        )
    ]


def point_warnings(frames: Sequence[pd.DataFrame]) -> list[str]:
    """That frames are not over the same points, in words, for each that is not over those of the first."""
    found = different_points(run_labels([RunInfo.of(df) for df in frames]), frames)
    return [warning for warning in found if warning is not None]


def _paired(label: str, first: pd.DataFrame, df: pd.DataFrame, radii: Sequence[Radius]) -> Paired | None:
    if not shares_points(first, df):
        return None
    one, this = RunInfo.of(first), RunInfo.of(df)
    table = paired_difference(first, df, radii)
    at = []
    for radius, row in zip(radii, table.to_dict("records"), strict=True):
        floors = {"floor": this.is_floor_at(radius), "ceiling": one.is_floor_at(radius)}
        above_cap = radius > min(one.radius_cap, this.radius_cap)
        share = {name: row[name] for name in ("difference", "low", "high")}
        at.append(
            PairedAt(**share, only_first=row["only_first"], only_this=row["only_second"], above_cap=above_cap, **floors)
        )
    return Paired(label, int(table["points"].iloc[0]), tuple(at))


def _projected(df: pd.DataFrame, n: int, radii: Sequence[Radius]) -> tuple[float | None, ...]:
    return tuple(projected_shares(df, n, radii))


def accuracies(df: pd.DataFrame, radii: Sequence[Radius], of: str = "ended") -> tuple[AccuracyAt, ...]:
    """`certified_accuracy` as plain values, each with its radius' label and its remarks."""
    info, asked = RunInfo.of(df), points_asked(df)
    table = certified_accuracy(df, radii, of)
    columns = [table[name].tolist() for name in ("certified_accuracy", "low", "high", "certified")]
    return tuple(
        AccuracyAt(
            radius=float(radius),
            radius_label=radius.label,
            certified_accuracy=None if math.isnan(share) else share,
            low=low,
            high=high,
            certified=certified,
            above_cap=radius > info.radius_cap,
            floor=info.is_floor_at(radius) or (of == "asked" and asked > len(df)),
            certified_accuracy_of_asked=certified / asked if asked else None,
        )
        for radius, share, low, high, certified in zip(radii, *columns, strict=True)
    )


def run_labels(infos: Sequence[RunInfo]) -> list[str]:
    """A name for each run: as much of the end of its path as tells the paths apart, a number where one comes again."""
    paths = [printable(info.path).rstrip("/").split("/") for info in infos]
    longest = max(map(len, paths))
    distinct = len({info.path for info in infos})
    depth = next((d for d in range(1, longest) if len({tuple(path[-d:]) for path in paths}) == distinct), longest)
    labels = ["/".join(path[-depth:]) for path in paths]
    before = [labels[:i].count(label) for i, label in enumerate(labels)]
    return [f"{label} ({count + 1})" if count else label for label, count in zip(labels, before, strict=True)]


def notes(results: Sequence[RunResults], intervals: bool) -> list[str]:
    """The lines under a table: what must be read with its numbers, of every run.

    That is each certificate with kind, alpha, n, K and cap, its guarantee, the points, which shares are floors, and
    how runs compare point by point. `intervals` says whether the table shows them.
    """
    labels = [result.label for result in results]
    radii = [at.radius_label for at in results[0].accuracies]

    def each(heading: str, lines: Sequence[str]) -> list[str]:
        """The lines of those runs that have one."""
        some = [(label, line) for label, line in zip(labels, lines, strict=True) if line]
        if not some:
            return []
        if len(some) == len(labels):
            return per_run(heading, labels, lines)
        return [f"{heading} ({label}): {line}" for label, line in some]

    return [
        _accuracy_note(results[0].of, intervals),
        *([ABOVE_CAP_NOTE] if any(at.above_cap for result in results for at in result.accuracies) else []),
        *each(FLOOR.strip(), [floor_line(result.info) for result in results]),
        *(f"WARNING: {result.warning}" for result in results if result.warning),
        *per_run("Certificate", labels, [certificate_line(result.info) for result in results]),
        *per_run("Guarantee", labels, [guarantee_line(result.info) for result in results]),
        *per_run("False certificates", labels, [_false_line(result) for result in results]),
        *per_run("Points", labels, [subset_line(result.info, result.summary.points) for result in results]),
        *each("Pending", [_pending_line(result) for result in results]),
        *_paired_notes(results, radii),
        *_projection_notes(results, radii),
        *_attack_notes(results),
        "NFE: calls of the layer per noisy sample (n0 + n), by the sampler and by the audit; the cost is their sum",
        *per_run(
            "s/point",
            labels,
            [f"time in its worker, on {', '.join(result.devices) or 'none yet'}" for result in results],
        ),
        "p_lower: quantiles over points of the lower bound on the probability of the label, 0 where another class or "
        "none was the candidate; ACR: mean radius, which hides the hard points among these (arXiv 2410.06895)",
    ]


def _accuracy_note(of: str, intervals: bool) -> str:
    if of == "asked":
        interval = (
            "; the 95 % interval (Clopper-Pearson, over points) begins at that of this share and ends at that of the "
            "share in which all points without a row were certified"
        )
        return (
            "Certified accuracy: share of all points asked for that are known to have the right class and at least "
            f"this l2 radius{interval if intervals else ''}; points in error, and without a row ({FLOOR.strip()}), "
            "count as not certified"
        )
    interval = ", and its 95 % Clopper-Pearson interval over points" if intervals else ""
    return (
        f"Certified accuracy: share of the points that ended with the right class and at least this l2 radius{interval}"
        "; points in error count as not certified"
    )


def _pending_line(result: RunResults) -> str:
    """Nothing where the table counts these points already."""
    return "" if result.of == "asked" else pending_line(result.info, result.summary.points)


def _false_line(result: RunResults) -> str:
    return false_certificates_line(result.info, result.judged, result.summary.certificates)


def _paired_notes(results: Sequence[RunResults], radii: Sequence[str]) -> list[str]:
    lines = []
    for result in results:
        if result.paired is not None:
            texts = [f"r = {radius}: {at.text()}" for radius, at in zip(radii, result.paired.at, strict=True)]
            points = f"{result.paired.points:,} points of both"
            lines.append(f"Paired, {result.label} minus {result.paired.first}, {points}: {'; '.join(texts)}")
    if lines:
        lines.insert(
            0,
            "Paired: difference of certified accuracy on the points that ended in both runs, in percentage points, "
            "its 95 % score interval over points (Tango 1998), at each radius by itself, and how many points one of "
            "the two alone certifies",
        )
    return lines


def _projection_notes(results: Sequence[RunResults], radii: Sequence[str]) -> list[str]:
    lines = []
    for result in results:
        projection = result.projection
        if projection is not None:
            shares = [UNDEFINED if share is None else f"{100 * share:.1f}" for share in projection.shares]
            texts = [f"r = {radius}: {share}" for radius, share in zip(radii, shares, strict=True)]
            lines.append(f"Projection, NO certificate ({result.label}): n = {projection.n:,}: {'; '.join(texts)}")
    if lines:
        lines.insert(
            0,
            "Projection: certified accuracy (%) of the points that ended, if their rates of hits and disagreement "
            "stayed what they are at this n; nothing is proved of it",
        )
    return lines


def _attack_notes(results: Sequence[RunResults]) -> list[str]:
    lines = []
    for result in results:
        if result.attacked is not None:
            texts = [f"r = {at.radius_label}: {at.text()}" for at in result.attacked]
            points = f"{result.attacked[0].points if result.attacked else 0:,} points"
            lines.append(f"Attacked accuracy, a ceiling ({result.label}, {points}): {'; '.join(texts)}")
        if result.contradicted:
            shown = ", ".join(map(str, result.contradicted[:10]))
            lines.append(
                f"WARNING: CERTIFICATES CONTRADICTED ({result.label}): the attack broke {len(result.contradicted)} "
                f"points inside their certified radius ({shown})"
            )
    if lines:
        lines.insert(
            0,
            "Attacked accuracy: share (%) of the attacked points that are right and that no attack broke within this "
            "radius, and its 95 % interval; robust accuracy of the smoothed classifier lies between certified accuracy "
            "and this",
        )
    return lines
