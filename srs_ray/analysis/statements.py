"""How a certificate, its guarantee and its points are put into words: the lines that stand by every number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from srs_ray.analysis.run_info import RunInfo

UNSOUND = "released"
FIXED_BEFORE = (
    "recomputed after the run, which was certified with {own}; which certificate applies is to be fixed before "
    "the run, never the better of two afterwards"
)

Result = TypeVar("Result")


def certificate_line(info: RunInfo) -> str:
    """Kind, alpha, n, K and what they cap the radius at, and whether it was chosen after the run."""
    kind = f"{info.certificate} (unsound)" if info.certificate == UNSOUND else info.certificate
    audit = f"K = {info.audit:,}" if info.method == "srs" else "no audit"
    if info.radius_cap > 0:
        cap = f"radius capped at {info.radius_cap_in_sigma:.2f} sigma = {info.radius_cap:.3g} (sigma = {info.sigma:g})"
    else:
        cap = "no counts could certify any radius"
    line = f"{kind}, alpha = {info.alpha:g}, n = {info.n:,}, {audit}: {cap}"
    return line if info.recomputed_from is None else f"{line}; {FIXED_BEFORE.format(own=info.recomputed_from)}"


def guarantee_line(info: RunInfo) -> str:
    """What one certificate promises, or that it promises nothing."""
    if info.certificate == UNSOUND:
        return (
            "The certificate 'released' is UNSOUND: it can certify radii above the true ones. Its numbers serve to "
            "reproduce published tables and guarantee nothing."
        )
    return (
        f"Each certificate is right with probability at least 1 - alpha = {1 - info.alpha:g} "
        f"(for the base classifier F = {info.reference}, in real arithmetic)."
    )


def subset_line(info: RunInfo, points: int) -> str:
    """Which points were asked for, as the slice start:stop:every, and how many of them have ended."""
    line = f"{info.data} [{info.start}:{info.stop}:{info.every}], {points:,} of {info.asked:,} points ended"
    return f"{line}; {info.outside:,} more in the run directory lie outside and are left out" if info.outside else line


def per_run(results: Sequence[Result], name: Callable[[Result], str], line: Callable[[Result], str]) -> list[str]:
    """`line` of every result, each different line once, with the names of the runs it holds for unless it is all."""
    runs_of: dict[str, list[str]] = {}
    for result in results:
        runs_of.setdefault(line(result), []).append(name(result))
    if len(runs_of) == 1:
        return list(runs_of)
    return [f"{', '.join(names)}: {text}" for text, names in runs_of.items()]
