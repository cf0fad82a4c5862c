"""How a certificate, its guarantee and its points are put into words: the lines that stand by every number."""

from __future__ import annotations

from collections.abc import Sequence

from srs_ray.analysis.run_info import RunInfo
from srs_ray.lipschitz.settings import GUARANTEE

FIXED_BEFORE = (
    "recomputed after the run, which was certified with {own}; choose the certificate before the run; "
    "picking the better of two afterwards voids the guarantee"
)
ABOVE_CAP, FLOOR, CEILING = "\N{EN DASH}", ">= ", "<= "  # instead of, and before, a share
ABOVE_CAP_NOTE = f"{ABOVE_CAP}: above the cap, where no counts could have certified anything; not a finding"


def certificate_line(info: RunInfo) -> str:
    """Kind, alpha, n, K and what they cap the radius at, and whether it was chosen after the run."""
    if info.margins is not None:
        return info.margins.describe()
    line = info.smoothing.describe()
    if info.candidate is not None:
        line += (
            "; the candidate is each point's label, fixed before any sample: a point is certified as its label or "
            "abstains, never as another class"
        )
    return line if info.recomputed_from is None else f"{line}; {FIXED_BEFORE.format(own=info.recomputed_from)}"


def guarantee_line(info: RunInfo) -> str:
    """What one certificate promises, or that it promises nothing."""
    return GUARANTEE if info.margins is not None else info.smoothing.guarantee(info.reference)


def floor_line(info: RunInfo) -> str:
    """Why accuracy at radii that points were not sampled for, p_lower and ACR are floors; '' for a run of fixed n."""
    if info.target_radii is None:
        return ""
    radii = ", ".join(f"{radius:g}" for radius in info.target_radii)
    if info.recomputed_from is not None:
        return (
            f"a floor; sampling of a point stopped when {info.recomputed_from} had decided the target radii ({radii}): "
            "all n samples could certify more points by the certificate recomputed here, at every radius, and raise "
            "p_lower and ACR; intervals are the floor's"
        )
    return (
        f"a floor; sampling of a point stops when its target radii ({radii}) are decided: all n samples could certify "
        "more points at other radii, and raise p_lower and ACR; intervals are the floor's"
    )


def false_certificates(info: RunInfo, judged: int) -> float | None:
    """At most so many of a run's certificates are false in expectation; None where nothing bounds them.

    Each of the `judged` points, certified or abstained, gets a false certificate with probability at most alpha, and
    expectations add up. alpha times the number of certificates alone would be too few: where almost no point can be
    certified, most certificates may be false.
    """
    return info.alpha * judged if info.sound else None


def false_certificates_line(info: RunInfo, judged: int, certificates: int) -> str:
    """`false_certificates` in words, beside how many certificates (radius above 0) there are."""
    if info.margins is not None:
        return f"none of the {certificates:,} certificates with a radius above 0: nothing is left to chance"
    expected = false_certificates(info, judged)
    if expected is None:
        return f"any of the {certificates:,} certificates may be false: the certificate is unsound"
    return (
        f"in expectation at most {expected:.3g} (alpha = {info.alpha:g} times the {judged:,} points with a result) of "
        f"the {certificates:,} certificates with a radius above 0"
    )


def pending_line(info: RunInfo, ended: int) -> str:
    """What an unfinished run's shares may hide; '' where all points ended."""
    pending = info.asked - ended
    if pending <= 0:
        return ""
    return (
        f"{pending:,} of {info.asked:,} points asked for have no row yet. Points that end early may be the easy ones; "
        "shares of the points asked for (--of asked) are lower bounds whichever these are"
    )


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
