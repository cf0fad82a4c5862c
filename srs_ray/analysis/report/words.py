"""The sentences of a report: what a run certified, how often that may be false, and what nothing promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import false_certificates

_SOLVERS = {"naive": "the naive iteration", "anderson": "Anderson acceleration", "broyden": "Broyden's method"}

_SAMPLINGS = {
    "standard": (
        "Every sample is an independent noisy copy, classified by the base classifier itself; no audit is needed."
    ),
    "srs": (
        "Samples are drawn in chains: each solve starts from the last one's state. Randomly chosen votes are solved "
        "again by the base classifier (the audit)."
    ),
    "anchored": (
        "Each sample takes a few solver steps from a state that the point's selection samples gave. Randomly chosen "
        "votes are solved again by the base classifier (the audit)."
    ),
    "auto": (
        "Each point is sampled either independently or in few steps from its anchor, as its selection samples suggest. "
        "Of few steps, randomly chosen votes are solved again by the base classifier (the audit)."
    ),
}


@dataclass(frozen=True)
class ErrorBudget:
    """How many of a run's certificates may be false; `expected` and `any_false` are None where nothing bounds them."""

    judged: int  # points with a result
    certificates: int  # with a radius above 0
    expected: float | None
    any_false: float | None  # union bound, at most 1

    @property
    def vacuous(self) -> bool:
        """Whether the union bound says nothing."""
        return self.any_false is None or self.any_false >= 1


def error_budget(info: RunInfo, judged: int, certificates: int) -> ErrorBudget:
    """By alpha for each judged point: expectations add up, and so do probabilities, as an upper bound (Boole)."""
    expected = false_certificates(info, judged)
    return ErrorBudget(judged, certificates, expected, None if expected is None else min(1.0, expected))


def base_classifier(info: RunInfo, job: Mapping[str, Any]) -> str:
    """F in words: its solver, steps, start and tolerance."""
    reference = job.get("sampling", {}).get("reference")
    if not isinstance(reference, Mapping) or not isinstance(reference.get("steps"), int):
        return f"{info.arch}, as its own code computes it"
    steps, tolerance = reference["steps"], reference.get("tolerance")
    solver = _SOLVERS.get(str(reference.get("solver")), str(reference.get("solver")))
    start = "from a start that the weights hold" if reference.get("start") == "stored" else "from zero"
    count = f"{steps} step" + "s" * (steps != 1)
    if tolerance is not None:
        count = f"at most {count} (each sample stops by itself at a residual of {tolerance:g})"
    return f"{info.arch}, solved {start} by {count} of {solver}"


def sampling_sentence(info: RunInfo) -> str:
    """How noisy copies were classified."""
    audited = info.sound and info.method != "standard"
    corrected = " The certificate subtracts what the audit leaves possible." if audited else ""
    stops = " Sampling of a point stops once its target radii are decided." if info.by_looks else ""
    return _SAMPLINGS.get(info.method, "") + corrected + stops


def points_sentence(info: RunInfo) -> str:
    """Which points were asked for."""
    if info.every == 1:
        return f"points {info.start} to {info.stop - 1} of the data"
    return f"every {_ordinal(info.every)} point from {info.start} to below {info.stop} of the data"


def _ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{suffix}"


def not_guaranteed(info: RunInfo, job: Mapping[str, Any], pending: int, errors: int) -> list[str]:
    """What a reader could take the report to promise, and it does not."""
    lines = []
    if not info.sound:
        lines.append(
            f"Anything at all: the certificate '{info.certificate}' is unsound. Its radii can be larger than the true "
            "ones, with any probability."
        )
    lines += [
        "Other perturbations than those measured in l2: a radius says nothing of l-infinity or l0 changes beyond what "
        "the l2 distance covers, of rotations, blur, compression, or another scene.",
        "Changes before the preprocessing: radii are about the preprocessed image, with pixels in [0, 1].",
        "The base classifier alone: without noise F may change its class well within the radius. The smoothed "
        "classifier is certified.",
        "Other images: each certificate is about the one image of its row. Certified accuracy of the run is an "
        "estimate for images drawn like these, and its 95 % interval is about that draw alone.",
        "That a class is right: a certificate is about stability. The table of certified and wrong points lists those "
        "that are stable and wrong.",
        "A certificate chosen afterwards: the better of two certificates, seeds or settings, picked by results, has no "
        "guarantee. Which certificate applies must be fixed before the run.",
    ]
    if info.sound:
        lines.append(
            "All points at once: alpha bounds the error of each point by itself; section 'Run-wide error' adds it up."
        )
    if info.sound and info.deviation is None:
        lines.append(
            "Floating-point arithmetic: the noise of this run is of floating-point numbers, whose last bits can tell a "
            "classifier the image. Its certificates hold in real arithmetic only (Voracek and Hein 2022)."
        )
    if info.sound and info.deviation is not None:
        lines.append(
            "The model without rounding, at images off the grid of 8-bit pixels: the noise of this run lies on that "
            "grid, so certificates are of the classifier that rounds noisy pixels to whole 255ths first. Of it they "
            f"hold as computed: the noise differs from its law by at most {info.deviation:.2g} an image, which is "
            "subtracted from every bound."
        )
    if job.get("data", {}).get("pixels") == "rounded":
        lines.append("The images as they are stored: this job rounds their pixels to whole 255ths first.")
    if info.candidate is not None:
        lines.append(
            "Predictions: the candidate of each point is its label, which a deployed classifier does not know. The run "
            "measures certified accuracy; it can certify no other class than the label."
        )
    if info.by_looks:
        lines.append(
            "The largest radius of a point: sampling stopped once the target radii were decided. Accuracy at other "
            "radii, p_lower and mean radii are floors."
        )
    if pending:
        lines.append(
            f"Points without a row ({pending:,}). Points that end early may be the easy ones, so shares of the "
            "points that ended may be too high."
        )
    if errors:
        lines.append(f"Points in error ({errors:,}), which count as not certified.")
    lines.append(
        "That the counts are those of the named model and images: this report recomputes radii from counts. Counts are "
        "checked by certifying points again (srs-ray verify --points). Source, class names, seconds, worker and device "
        "of a row are recorded, not checked."
    )
    return lines
