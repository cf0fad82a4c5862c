"""Says of runs whether the points that they share are the same images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from srs_ray.analysis.run_info import RunInfo

log = logging.getLogger(__name__)


def points_with_other_pixels(first: pd.DataFrame, second: pd.DataFrame) -> list[int]:
    """The indices at which two frames of `load_points` certify different images; rows without a digest say nothing."""
    if "pixels" not in first or "pixels" not in second:
        return []
    both = first[["index", "pixels"]].merge(second[["index", "pixels"]], on="index").dropna()
    return sorted(int(index) for index in both["index"][both["pixels_x"] != both["pixels_y"]])


def warn_of_other_images(frames: Sequence[pd.DataFrame]) -> None:
    """Logs a warning for each two runs of which the same index means different images: they cannot be compared."""
    for first, second in combinations(frames, 2):
        differing = points_with_other_pixels(first, second)
        if differing:
            log.warning(
                "%s and %s are of different images: %d points that both have differ in their pixels, the first of them "
                "point %d; their results cannot be compared point by point",
                RunInfo.of(first).path,
                RunInfo.of(second).path,
                len(differing),
                differing[0],
            )
