"""Several runs side by side: their certified accuracies, what they cost, and the notes that must stand by them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from srs_ray.analysis.accuracy import Summary, certified_accuracy, summary
from srs_ray.analysis.radii import Radius, parse_radii
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.same_images import warn_of_other_images
from srs_ray.analysis.statements import certificate_line, guarantee_line, per_run, subset_line
from srs_ray.errors import SrsRayError


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
    warn_of_other_images(frames)
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
            radius_label=radius.label,
            certified_accuracy=share if len(df) else None,
            low=low,
            high=high,
            certified=certified,
            above_cap=radius > cap,
        )
        for radius, share, low, high, certified in zip(radii, *columns, strict=True)
    )


def run_labels(infos: Sequence[RunInfo]) -> list[str]:
    """A name for each run: as much of the end of its path as tells the paths apart, a number where one comes again."""
    paths = [info.path.rstrip("/").split("/") for info in infos]
    longest = max(map(len, paths))
    distinct = len({info.path for info in infos})
    depth = next((d for d in range(1, longest) if len({tuple(path[-d:]) for path in paths}) == distinct), longest)
    labels = ["/".join(path[-depth:]) for path in paths]
    before = [labels[:i].count(label) for i, label in enumerate(labels)]
    return [f"{label} ({count + 1})" if count else label for label, count in zip(labels, before, strict=True)]


def notes(results: Sequence[RunResults], intervals: bool) -> list[str]:
    """The lines under a table: every certificate with kind, alpha, n, K and cap, its guarantee, and the points.

    `intervals` says whether the table shows them.
    """
    labels = [result.label for result in results]
    interval = ", and its 95 % Clopper-Pearson interval over points" if intervals else ""
    lines = [
        f"Certified accuracy: share of the points that ended with the right class and at least this l2 radius{interval}"
        "; points in error count as not certified",
        *per_run("Certificate", labels, [certificate_line(result.info) for result in results]),
        *per_run("Guarantee", labels, [guarantee_line(result.info) for result in results]),
        *per_run("Points", labels, [subset_line(result.info, result.summary.points) for result in results]),
        "NFE: calls of the layer per noisy sample (n0 + n), by the sampler and by the audit; the cost is their sum",
        *per_run(
            "s/point",
            labels,
            [f"time in its worker, on {', '.join(result.devices) or 'none yet'}" for result in results],
        ),
    ]
    if any(at.above_cap for result in results for at in result.accuracies):
        lines.insert(1, "\N{EN DASH}: above the cap, where no counts could have certified anything; not a finding")
    return lines
