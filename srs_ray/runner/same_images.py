"""Compares the images of a run's finished points, by the digests in their rows, with those that the data give now."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from srs_ray.data import PointDataset
from srs_ray.data.points import modified_at
from srs_ray.errors import PointError, RunDirectoryError
from srs_ray.runs import RunDirectory
from srs_ray.runs.fingerprint import LATER, differences
from srs_ray.runs.printable import printable
from srs_ray.smoothing.row import pixel_digest

log = logging.getLogger(__name__)

POINTS_COMPARED = 16
SAMPLE = "data.sample"


def refuse_other_images(run: RunDirectory, fingerprint: Mapping[str, Any], dataset: PointDataset) -> tuple[str, ...]:
    """Raises RunDirectoryError where a finished point of the run has other pixels in this data set than in its row.

    POINTS_COMPARED finished points, evenly spread, and those whose files were modified after their rows were finished
    are decoded anew; all of them where `data.sample` differs, as it does when a broken file was mended. Gives the
    settings that are verified so, for `RunDirectory.create_or_continue`. Where other settings differ nothing is
    decoded: they are refused anyway. Rows of older programs have no digest and are not compared.
    """
    differing = {name for name, was, _ in differences(run.fingerprint, fingerprint) if name in run.fingerprint}
    differing |= {name for name in fingerprint.keys() - run.fingerprint.keys() if name not in LATER}
    if differing - {SAMPLE}:
        return ()
    columns = ["index", "status", "pixels", "finished_at"]
    rows = [row for row in run.rows(columns).to_pylist() if row["status"] == "ok"]
    digests = {row["index"]: row["pixels"] for row in rows if row["pixels"] is not None}
    if SAMPLE not in differing:
        finished = {row["index"]: row["finished_at"].timestamp() for row in rows}
        later = {index for index in digests if (modified_at(dataset, index) or 0) > finished[index]}
        chosen = {*evenly_spread(list(digests), POINTS_COMPARED)} | later
        _compare(run, dataset, digests, [index for index in digests if index in chosen], "")
        return ()
    if len(digests) < len(rows):
        return ()
    _compare(run, dataset, digests, list(digests), f"{SAMPLE} differs, and ")
    log.warning(
        "%s: files of the data have changed since the run began (%s), but not the pixels of its %d finished points",
        printable(run.path),
        SAMPLE,
        len(digests),
    )
    return (SAMPLE,)


def evenly_spread(indices: Sequence[int], count: int) -> list[int]:
    """At most so many of the indices, the first among them."""
    count = min(count, len(indices))
    return [indices[number * len(indices) // count] for number in range(count)]


def _compare(
    run: RunDirectory, dataset: PointDataset, digests: Mapping[int, str], indices: Sequence[int], besides: str
) -> None:
    for index in indices:
        name = printable(dataset.name(index))
        try:
            now = pixel_digest(dataset.image(index))
        except PointError as error:
            raise RunDirectoryError(
                f"{run.path}: {besides}point {index} ({name}), which is certified, cannot be read now: {error}; bring "
                "back the data that the run began with, or choose another output"
            ) from error
        if now != digests[index]:
            raise RunDirectoryError(
                f"{run.path}: {besides}point {index} ({name}) has other pixels now than when it was certified (sha256 "
                f"{digests[index]} in its row, {now} now): bring back the data that the run began with, or choose "
                "another output"
            )
