"""The rows of attacks: one row per attacked point that ended."""

from __future__ import annotations

import pyarrow as pa

from srs_ray.runs.row_format import Column, Row, RowFormat, check_finished_at, check_status

_STATUS = (
    Column("index", pa.int64(), "Position in the data set."),
    Column("label", pa.int32(), "True class."),
    Column("source", pa.string(), "File or key of the image, as the data set names it."),
    Column("class_name", pa.string(), "Name of the true class, where the data set names its classes."),
    Column("pixels", pa.string(), "sha256 of the attacked float32 pixels (channel by channel, little-endian)."),
    Column("status", pa.string(), "`ok` or `error`. The next run tries points in error again."),
    Column("error", pa.string(), "Reason of the error, in one line; null in `ok` rows."),
)
_RESULTS = (
    Column("predicted", pa.int32(), "Certified class; -1: the certificate abstains."),
    Column("radius", pa.float64(), "Certified l2 radius, in pixel units of [0, 1]; 0 where it abstains."),
    Column("attacked", pa.int32(), "Class that was attacked: `predicted`, or the label where that abstains."),
    Column("correct", pa.bool_(), "Whether `attacked` is `label`."),
    Column("contradicts", pa.bool_(), "Whether the smoothed classifier was broken at a distance below `radius`."),
    Column(
        "tried_radii",
        pa.list_(pa.float64()),
        "Radii at which the smoothed classifier was attacked, from 0, the image itself.",
    ),
    Column(
        "screened_hits",
        pa.list_(pa.int64()),
        "At each of them: of 64 noisy samples of the best found image, those of the class `attacked`. Up to 48, the "
        "image is checked.",
    ),
    Column(
        "check_distances",
        pa.list_(pa.float64()),
        "l2 distances of the images that were checked by fresh noise, in this order.",
    ),
    Column("check_hits", pa.list_(pa.int64()), "At each of them: fresh noisy samples of the class `attacked`."),
    Column("check_classes", pa.list_(pa.int32()), "The most frequent other class there; -1: none."),
    Column("check_counts", pa.list_(pa.int64()), "Samples of that class."),
    Column("check_p_values", pa.list_(pa.float64()), "p-value of the test of the two most frequent classes."),
    Column("evaluations", pa.int64(), "Calls of the layer, by solves, gradients and checks, summed over samples."),
    Column("gradients", pa.int64(), "Gradients of the loss of one noisy sample."),
)
_FOUND = (
    Column("distance", pa.float64(), "Least l2 distance at which the smoothed classifier was broken; null: none."),
    Column("found_class", pa.int32(), "Class that the smoothed classifier predicts there."),
    Column("base_class", pa.int32(), "Class of the image by the base classifier, without noise; null: not attacked."),
    Column("base_distance", pa.float64(), "Least l2 distance at which that changed; null: none."),
)
_EXECUTION = (
    Column("sigma", pa.float64(), "Standard deviation of the noise, in pixel units of [0, 1]."),
    Column("seconds", pa.float64(), "Wall time of the point in its worker."),
    Column("worker", pa.string(), "Host and process of the worker."),
    Column("device", pa.string(), "Device of the worker."),
    Column("dtype", pa.string(), "Number format of the network."),
    Column("batch", pa.int32(), "Samples in the network at once; fewer than the job's where memory ran out."),
    Column("attempt", pa.int32(), "Number of the attempt, from 1."),
    Column("finished_at", pa.timestamp("us", tz="UTC"), "Time of the end."),
)
ATTACK_COLUMNS = (*_STATUS, *_RESULTS, *_FOUND, *_EXECUTION)

_KNOWN = frozenset(column.name for column in ATTACK_COLUMNS)
_ALWAYS = ("index", "status", "attempt", "finished_at")
_RESULT_NAMES = tuple(column.name for column in _RESULTS)
_NEEDED = {"ok": (*_ALWAYS, "label", *_RESULT_NAMES), "error": (*_ALWAYS, "error")}
_FORBIDDEN = {"ok": ("error",), "error": (*_RESULT_NAMES, *(column.name for column in _FOUND))}
_CHECKS = tuple(name for name in _RESULT_NAMES if name.startswith("check_"))


def check_attack_columns(row: Row) -> None:
    """Raise ValueError for columns that are null and must not be, or the other way round, and for checks in part."""
    check_status(row, _KNOWN, _NEEDED, _FORBIDDEN)
    if row["status"] == "ok":
        lengths = {len(row[name]) for name in _CHECKS}
        if len(lengths) != 1:
            raise ValueError(f"ok row of index {row['index']}: its lists of checks are not of one length")
    check_finished_at(row)


ATTACKS = RowFormat(
    made_by="srs-ray attack",
    columns=ATTACK_COLUMNS,
    readable=("attack 1",),  # a text, so that programs that know no attacks refuse the directory by its version
    added={},
    check_columns=check_attack_columns,
)
