"""Several runs side by side: their certified accuracies, what they cost, and the notes that must stand by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from srs_ray.analysis.accuracy import Summary, certified_accuracy, summary
from srs_ray.analysis.radii import Radius, parse_radii
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import UNSOUND, certificate_line, guarantee_line, per_run, subset_line
from srs_ray.errors import SrsRayError


@dataclass(frozen=True)
class AccuracyAt:
    """Certified accuracy at one radius with its 95 % interval over points; shares, None where there are no points."""

    radius: float
    label: str  # the radius as it was written, such as 36/255
    certified_accuracy: float | None
    low: float
    high: float
    certified: int
    above_cap: bool  # beyond what K allows: 0 by construction, not a finding


@dataclass(frozen=True)
class RunResults:
    """One run's line of a comparison."""

    label: str
    info: RunInfo
    summary: Summary
    accuracies: tuple[AccuracyAt, ...]
    devices: tuple[str, ...]


def compare(frames: Sequence[pd.DataFrame], radii: str | Iterable[str | float]) -> list[RunResults]:
    """The frames of `load_points` or `recertify`, one for each run, at the same radii, in the order given.

    Raises SrsRayError where there is no frame, a frame does not know its run, or a radius is not usable.
    """
    if not frames:
        raise SrsRayError("no run to compare; name at least one run directory")
    parsed = parse_radii(radii)
    infos = [RunInfo.of(df) for df in frames]
    return [
        RunResults(
            label=label,
            info=info,
            summary=summary(df),
            accuracies=accuracies(df, parsed, info.radius_cap),
            devices=tuple(sorted(df["device"].dropna().unique())),
        )
        for label, info, df in zip(run_labels(infos), infos, frames, strict=True)
    ]


def accuracies(df: pd.DataFrame, radii: Sequence[Radius], cap: float) -> tuple[AccuracyAt, ...]:
    """`certified_accuracy` as plain values, each with its radius' label and whether it lies above `cap`."""
    table = certified_accuracy(df, radii)
    columns = [table[name].tolist() for name in ("certified_accuracy", "low", "high", "certified")]
    return tuple(
        AccuracyAt(
            radius=float(radius),
            label=radius.label,
            certified_accuracy=share if len(df) else None,
            low=low,
            high=high,
            certified=certified,
            above_cap=radius > cap,
        )
        for radius, share, low, high, certified in zip(radii, *columns, strict=True)
    )


def run_labels(infos: Sequence[RunInfo]) -> list[str]:
    """A short name for each run: as much of the end of its path as tells the paths apart."""
    paths = [info.path.rstrip("/").split("/") for info in infos]
    longest = max(map(len, paths))
    distinct = len({info.path for info in infos})
    depth = next((d for d in range(1, longest) if len({tuple(path[-d:]) for path in paths}) == distinct), longest)
    return ["/".join(path[-depth:]) for path in paths]


def notes(results: Sequence[RunResults]) -> list[str]:
    """The lines under a table: every certificate with kind, alpha, n, K and cap, its guarantee, and the points."""

    def each(line: Callable[[RunResults], str]) -> list[str]:
        return per_run(results, lambda result: result.label, line)

    lines = [
        "Certified accuracy: share of the points that ended with the right class and at least this l2 radius, with its "
        "95 % Clopper-Pearson interval over points; points in error count as not certified.",
        *each(lambda result: f"Certificate: {certificate_line(result.info)}."),
        *each(lambda result: guarantee_line(result.info)),
        *each(lambda result: f"Points: {subset_line(result.info, result.summary.points)}."),
        *each(lambda result: f"s/point: time of a point in its worker, on {', '.join(result.devices) or 'none yet'}."),
        "NFE: calls of the layer per noisy sample (n0 + n), by the sampler and by the audit; the cost is their sum.",
    ]
    if any(at.above_cap for result in results for at in result.accuracies):
        lines.insert(1, "\N{EN DASH}: above the cap, where no counts could have certified anything; not a finding.")
    return lines


def is_unsound(result: RunResults) -> bool:
    """Whether the certificate promises nothing, which has to be said wherever its numbers stand."""
    return result.info.certificate == UNSOUND
