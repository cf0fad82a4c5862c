"""Certified accuracy, average certified radius and cost of a frame of points: arithmetic on columns only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import beta

from srs_ray.analysis.radii import parse_radii
from srs_ray.analysis.run_info import RunInfo
from srs_ray.errors import SrsRayError

CONFIDENCE = 0.95

DENOMINATORS = ("ended", "asked")


@dataclass(frozen=True)
class Summary:
    """What became of the points of one run and what they cost; None where there is nothing to divide by."""

    points: int  # rows: ok and error
    errors: int
    abstained: int
    certificates: int  # ok rows that did not abstain, right or wrong
    average_certified_radius: float | None
    smoothed_accuracy: float | None  # share whose selected class is the label: an estimate without a guarantee
    evaluations_per_sample: float | None  # the sampler's calls of f per noisy sample (n0 + n)
    audit_evaluations_per_sample: float | None  # the audit's, spread over the same samples: add the two for the cost
    evaluations_per_audited_sample: float | None  # what one run of the reference took
    disagreement: float | None  # share of audited hits where the reference said another class
    seconds_per_point: float | None  # mean wall time of an ok point in its worker
    fallbacks: int  # samples that fell back to the naive step
    unconverged: int  # reference solves that missed the tolerance


def clopper_pearson_interval(
    successes: np.ndarray, trials: int, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided Clopper-Pearson interval (low, high) of a share, for each of `successes` out of `trials`.

    Source: Clopper and Pearson, Biometrika 1934. With no trials it is [0, 1].
    """
    successes = np.asarray(successes, dtype=float)
    failures = trials - successes
    tail = (1 - confidence) / 2
    # The clipped Beta parameters only stand in where the bound is 0 or 1 by definition.
    low = np.where(successes == 0, 0.0, beta.ppf(tail, np.maximum(successes, 1), failures + 1))
    high = np.where(failures == 0, 1.0, beta.ppf(1 - tail, successes + 1, np.maximum(failures, 1)))
    return low, high


def certified_radii(df: pd.DataFrame) -> np.ndarray:
    """The radii of the points that are certified with the right class; SrsRayError where a column is missing."""
    radius = right_radii(df)
    return radius[~np.isnan(radius)]


def right_radii(df: pd.DataFrame) -> np.ndarray:
    """For each row the radius to which it is certified with the right class, NaN where it is not.

    Where there is a column `predicted`, a row that abstains is not right, whatever `correct` says.
    """
    missing = [column for column in ("correct", "radius") if column not in df]
    if missing:
        raise SrsRayError(
            f"the frame lacks the column {', '.join(missing)}; it has {', '.join(map(str, df.columns)) or 'none'}"
        )
    correct = df["correct"].astype("boolean").fillna(False).to_numpy(dtype=bool)
    if "predicted" in df:
        correct &= (df["predicted"] >= 0).fillna(False).to_numpy(dtype=bool)
    radius = df["radius"].to_numpy(dtype=float, na_value=np.nan)
    return np.where(correct, radius, np.nan)


def points_asked(df: pd.DataFrame) -> int:
    """How many points the run of a whole frame of `load_points` was asked for, with a row or not."""
    return max(RunInfo.of(df).asked, len(df))


def certified_accuracy(df: pd.DataFrame, radii: Iterable[str | float], of: str = "ended") -> pd.DataFrame:
    """Share of points that are certified, with the right class, at least as far as each radius.

    Columns: radius, certified_accuracy, low, high (its 95 % Clopper-Pearson interval over points, at each radius by
    itself), certified (points), points. A point counts when `correct` and `radius >= r`; at 0: right and not abstained.
    Rows without a result (status `error`) stay in `points` and are not certified, which can only lower the share.
    Needs the columns `correct` and `radius` alone, so a frame read back from CSV will do; an empty one gives NaN.

    `of="asked"` divides by all points that the run was asked for. Those without a row count as not certified in the
    share and in `low`, and as certified in `high`: the share is a lower bound, and the interval holds whichever points
    ended first. It needs a whole frame of `load_points`. Raises SrsRayError for another frame, and for another `of`.
    """
    asked = np.array(parse_radii(radii), dtype=float)
    reached = np.sort(certified_radii(df))
    certified = len(reached) - np.searchsorted(reached, asked, side="left")
    points = _denominator(df, of)
    low, _ = clopper_pearson_interval(certified, points)
    _, high = clopper_pearson_interval(certified + points - len(df), points)
    return pd.DataFrame(
        {
            "radius": asked,
            "certified_accuracy": certified / points if points else np.full(len(asked), np.nan),
            "low": low,
            "high": high,
            "certified": certified,
            "points": points,
        }
    )


def average_certified_radius(df: pd.DataFrame, of: str = "ended") -> float:
    """ACR (Zhai et al., ICLR 2020): mean over all rows of the radius, 0 where wrong, abstained or in error.

    In pixel units of [0, 1]; NaN for an empty frame; `of` as in `certified_accuracy`. It says little without the curve
    and rewards gains on points that are easy already (arXiv 2410.06895): `p_lower_quantiles` shows what it hides.
    """
    points = _denominator(df, of)
    return float(certified_radii(df).sum() / points) if points else float("nan")


def _denominator(df: pd.DataFrame, of: str) -> int:
    if of not in DENOMINATORS:
        raise SrsRayError(f"shares are of the points {' or '.join(DENOMINATORS)}, found {of!r}")
    return points_asked(df) if of == "asked" else len(df)


def summary(df: pd.DataFrame, of: str = "ended") -> Summary:
    """Outcomes and cost of the points in a frame of `load_points`; costs are those of the rows with status `ok`.

    ACR and smoothed accuracy are over the points `of`, as in `certified_accuracy`.
    """
    ok = df[df["status"] == "ok"]
    samples = int(ok["n0"].sum() + ok["n"].sum())
    audited = int(ok["audited"].sum())
    of_misses = int(ok["audited_misses"].sum()) if "audited_misses" in ok else 0
    reference_evaluations = int(ok["reference_evaluations"].sum())
    return Summary(
        points=len(df),
        errors=len(df) - len(ok),
        abstained=int((ok["predicted"] == -1).sum()),
        certificates=int((ok["predicted"] >= 0).sum()),
        average_certified_radius=average_certified_radius(df, of) if _denominator(df, of) else None,
        smoothed_accuracy=None
        if RunInfo.of(df).margins
        else _ratio(int(((ok["selected"] >= 0) & (ok["selected"] == ok["label"])).sum()), _denominator(df, of)),
        evaluations_per_sample=_ratio(int(ok["function_evaluations"].sum()), samples),
        audit_evaluations_per_sample=_ratio(reference_evaluations, samples),
        evaluations_per_audited_sample=_ratio(reference_evaluations, audited + of_misses),
        disagreement=_ratio(int(ok["disagreed"].sum()), audited),
        seconds_per_point=_ratio(float(ok["seconds"].sum()), int(ok["seconds"].count())),
        fallbacks=int(ok["fallbacks"].sum()),
        unconverged=int(ok["unconverged"].sum()),
    )


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
