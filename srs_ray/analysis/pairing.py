"""Two runs on the same points: where one certifies a point and the other does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import sqrt

import numpy as np
import pandas as pd
from scipy.stats import norm

from srs_ray.analysis.accuracy import CONFIDENCE, right_radii
from srs_ray.analysis.radii import parse_radii
from srs_ray.analysis.run_info import RunInfo
from srs_ray.errors import SrsRayError


def paired_difference(first: pd.DataFrame, second: pd.DataFrame, radii: Iterable[str | float]) -> pd.DataFrame:
    """Certified accuracy of `second` minus that of `first`, on the points that ended in both, at each radius.

    Columns: radius, difference, low, high (its 95 % score interval over points, see `score_interval`), only_first and
    only_second (points that one of the two alone certifies with the right class), points. Points in error count as not
    certified. Raises SrsRayError where the frames, each of `load_points` or `recertify`, are of different data or share
    no point.
    """
    asked = parse_radii(radii)
    apart = different_data(first, second)
    if apart is not None:
        raise SrsRayError(f"cannot compare point by point: {apart}")
    reached = [pd.Series(right_radii(df), index=df["index"].to_numpy()) for df in (first, second)]
    shared = reached[0].index.intersection(reached[1].index)
    if not len(shared):
        raise SrsRayError("cannot compare point by point: no point ended in both runs")
    radius_1, radius_2 = (series[shared].to_numpy() for series in reached)
    rows = []
    for radius in asked:
        certified_1, certified_2 = radius_1 >= radius, radius_2 >= radius
        only_1, only_2 = int((certified_1 & ~certified_2).sum()), int((certified_2 & ~certified_1).sum())
        low, high = score_interval(only_2, only_1, len(shared))
        rows.append((float(radius), (only_2 - only_1) / len(shared), low, high, only_1, only_2, len(shared)))
    columns = ["radius", "difference", "low", "high", "only_first", "only_second", "points"]
    return pd.DataFrame(rows, columns=columns)


def score_interval(more: int, less: int, pairs: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided score interval of a difference of paired shares: of `pairs`, `more` favour it and `less` oppose it.

    The differences whose score statistic, with the nuisance parameter at its constrained maximum-likelihood estimate,
    is at most the normal quantile. Its coverage is near `confidence`, not guaranteed. Source: Tango, Statistics in
    Medicine 17, 1998; recommended by Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014.
    Raises ValueError unless more and less are at least 0, their sum at most `pairs`, and pairs at least 1.
    """
    if not (pairs >= 1 and more >= 0 and less >= 0 and more + less <= pairs):
        raise ValueError(f"counts must be at least 0 and sum to at most the pairs, found {more}, {less}, {pairs} pairs")
    quantile = float(norm.ppf(1 - (1 - confidence) / 2))
    found = (more - less) / pairs

    def inside(difference: float) -> bool:
        distance = more - less - pairs * difference
        return distance * distance <= quantile**2 * _variance(difference, more, less, pairs)

    return _edge(inside, found, -1.0), _edge(inside, found, 1.0)


def _edge(inside: Callable[[float], bool], within: float, end: float) -> float:
    """The last difference from `within` towards `end` that is inside, by bisection; rounded outwards."""
    if inside(end):
        return end
    outside = end
    while within != (middle := 0.5 * (within + outside)) != outside:
        if inside(middle):
            within = middle
        else:
            outside = middle
    return outside


def _variance(difference: float, more: int, less: int, pairs: int) -> float:
    """Of more - less - pairs * difference, by the maximum-likelihood rate of `less` at this difference."""
    b = (2 * pairs - more + less) * difference - more - less
    c = -less * difference * (1 - difference)
    rate = (sqrt(max(b * b - 8 * pairs * c, 0.0)) - b) / (4 * pairs)
    return max(pairs * (2 * rate + difference * (1 - difference)), 0.0)


def different_data(first: pd.DataFrame, second: pd.DataFrame) -> str | None:
    """Why an index does not mean the same image in both frames, in words; None where it does as far as they tell."""
    one, two = RunInfo.of(first), RunInfo.of(second)
    if one.data != two.data:
        return f"the data are {one.data} and {two.data}"
    if one.data_digest is not None and two.data_digest is not None and one.data_digest != two.data_digest:
        return f"both are called {one.data}, but their images or labels differ"
    for column in ("label", "pixels"):  # of the image's pixels newer runs have a digest
        if column in first and column in second:
            both = pd.merge(first[["index", column]], second[["index", column]], on="index").dropna()
            other = both["index"][both[f"{column}_x"] != both[f"{column}_y"]]
            if len(other):
                return (
                    f"{len(other):,} points that both have differ in their {column}, the first of them {other.iloc[0]}"
                )
    return None


def different_points(labels: Sequence[str], frames: Sequence[pd.DataFrame]) -> list[str | None]:
    """For each run, in words, that it is not over the points of the first; None where it is."""
    ended = [set(df["index"]) for df in frames]
    return [
        _apart(f"{labels[0]} and {label}", (frames[0], df), (ended[0], points))
        for label, df, points in zip(labels, frames, ended, strict=True)
    ]


def _apart(both: str, frames: tuple[pd.DataFrame, pd.DataFrame], ended: tuple[set[int], set[int]]) -> str | None:
    apart = different_data(*frames)
    if apart is not None:
        return f"{both} are over different data ({apart}): their shares say nothing of each other"
    if ended[0] != ended[1]:
        return (
            f"{both} are over different points ({len(ended[0]):,} and {len(ended[1]):,} ended, "
            f"{len(ended[0] & ended[1]):,} in both): their shares differ by the choice of points too"
        )
    return None


def shares_points(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether `paired_difference` has points to compare."""
    return different_data(first, second) is None and bool(np.isin(first["index"], second["index"]).any())
