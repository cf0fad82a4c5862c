"""How a certificate, its guarantee and its points are put into words: the lines that stand by every number."""

from __future__ import annotations

from collections.abc import Sequence

from srs_ray.analysis.run_info import RunInfo

FIXED_BEFORE = (
    "recomputed after the run, which was certified with {own}; which certificate applies is to be fixed before "
    "the run, never the better of two afterwards"
)


def certificate_line(info: RunInfo) -> str:
    """Kind, alpha, n, K and what they cap the radius at, and whether it was chosen after the run."""
    line = info.smoothing.describe()
    return line if info.recomputed_from is None else f"{line}; {FIXED_BEFORE.format(own=info.recomputed_from)}"


def guarantee_line(info: RunInfo) -> str:
    """What one certificate promises, or that it promises nothing."""
    return info.smoothing.guarantee(info.reference)


def subset_line(info: RunInfo, points: int) -> str:
    """Which points were asked for, as the slice start:stop:every, and how many of them have ended."""
    line = f"{info.data} [{info.start}:{info.stop}:{info.every}], {points:,} of {info.asked:,} points ended"
    return f"{line}; {info.outside:,} more in the run directory lie outside and are left out" if info.outside else line


def per_run(heading: str, labels: Sequence[str], lines: Sequence[str]) -> list[str]:
    """`heading: line` for each different line, with the labels of the runs it holds for unless it holds for all."""
    labels_of: dict[str, list[str]] = {}
    for label, line in zip(labels, lines, strict=True):
        labels_of.setdefault(line, []).append(label)
    if len(labels_of) == 1:
        return [f"{heading}: {lines[0]}"]
    return [f"{heading} ({', '.join(shared)}): {line}" for line, shared in labels_of.items()]
