"""The row schema: one row per point attempt that ended."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from srs_ray.runs.row_format import Column, Row, RowFormat, check_finished_at, check_status

SCHEMA_VERSION = 6
READABLE_VERSIONS = (1, 2, 3, 4, 5, 6)
# 1: no columns by looks; 2: none of misses, none of the image; 3: no misses at looks; 4: no steps; 5: without the
# evidence of deterministic certificates

_POINT_COLUMNS = (
    Column("index", pa.int64(), "Position in the data set."),
    Column("label", pa.int32(), "True class."),
)
_IMAGE_COLUMNS = (
    Column("source", pa.string(), "File or key of the image, as the data set names it."),
    Column("class_name", pa.string(), "Name of the true class, where the data set names its classes."),
    Column("pixels", pa.string(), "sha256 of the certified float32 pixels (channel by channel, little-endian)."),
)
_STATUS_COLUMNS = (
    Column("status", pa.string(), "`ok` or `error`. The next run tries points in error again."),
    Column("error", pa.string(), "Reason of the error, in one line; null in `ok` rows."),
)
_CORE_COLUMNS = (
    Column("predicted", pa.int32(), "Certified class; -1: abstains."),
    Column("radius", pa.float64(), "l2 radius, in pixel units of [0, 1]."),
    Column("correct", pa.bool_(), "Whether `predicted` is `label`."),
)

# The evidence of deterministic certificates. An `ok` row has all columns of one kind of evidence.
_LIPSCHITZ_COLUMNS = (
    Column("leading", pa.int32(), "Class with the largest logit at the equilibrium."),
    Column("runner_up", pa.int32(), "The other class that limits the radius."),
    Column("logit_margin", pa.float64(), "Difference of the logits of these two classes."),
    Column("allowance", pa.float64(), "Proved bound on its error, of the solver and of rounding; it is subtracted."),
    Column("pair_constant", pa.float64(), "Proved Lipschitz constant of the difference, per l2 of pixels in [0, 1]."),
    Column("layer_evaluations", pa.int64(), "Calls of the layer by the solve and its proofs."),
)

# The evidence of certificates by smoothing. An `ok` row has all columns of one kind of evidence.
_SAMPLING_COLUMNS = (
    Column("selected", pa.int32(), "Candidate class, fixed by the selection samples or the label."),
    Column("p_lower", pa.float64(), "Lower bound on the candidate's probability; the radius follows from it."),
    Column("n0", pa.int64(), "Selection samples drawn."),
    Column("n", pa.int64(), "Estimation samples drawn."),
    Column("selection_classes", pa.list_(pa.int32()), "Classes predicted in selection; -1: no finite logits."),
    Column("selection_counts", pa.list_(pa.int64()), "How often each of them was predicted."),
    Column("classes", pa.list_(pa.int32()), "Classes predicted in estimation; -1: no finite logits."),
    Column("counts", pa.list_(pa.int64()), "How often each of them was predicted."),
    Column("audited", pa.int64(), "Audited hits; 0 for standard sampling."),
    Column("disagreed", pa.int64(), "Audited hits that the base classifier did not confirm."),
    Column(
        "function_evaluations",
        pa.int64(),
        "Calls of the layer by the sampler, summed over samples; those for an anchor and for the choice of `auto` too.",
    ),
    Column("reference_evaluations", pa.int64(), "Calls of the layer by the audit, summed over samples."),
    Column("fallbacks", pa.int64(), "Samples with a naive step in place of an Anderson step."),
    Column("unconverged", pa.int64(), "Solves of the base classifier that missed the tolerance."),
)

_BY_LOOKS_COLUMNS = (
    Column("method", pa.string(), "How estimation samples were drawn: `standard`, `srs` or `anchored`."),
    Column(
        "stopped",
        pa.string(),
        "With target radii: `resolved`, each is certified; `futile`, the others are very unlikely to be; `spent`, n "
        "samples are drawn.",
    ),
    Column(
        "audit_share",
        pa.float64(),
        "With target radii: share of the hits that are audited, with `two-sided` of all samples; 0 for standard "
        "sampling.",
    ),
    Column("look_n", pa.list_(pa.int64()), "With target radii: sample counts of the looks at which a bound was read."),
    Column("look_hits", pa.list_(pa.int64()), "Hits up to each look."),
    Column("look_audited", pa.list_(pa.int64()), "Audited hits up to each look."),
    Column("look_disagreed", pa.list_(pa.int64()), "Audited hits up to each look that were not confirmed."),
)

# Of a certificate that audits misses too; null elsewhere.
_MISSES_COLUMNS = (
    Column("audited_misses", pa.int64(), "With `two-sided`: audited samples that are no hits."),
    Column("found", pa.int64(), "With `two-sided`: those of them that are hits of the base classifier."),
)
_MISSES_BY_LOOKS_COLUMNS = (
    Column("look_audited_misses", pa.list_(pa.int64()), "`audited_misses` up to each look."),
    Column("look_found", pa.list_(pa.int64()), "`found` up to each look."),
)

_STEPS_COLUMNS = (
    Column("steps", pa.int32(), "Solver steps of an estimation sample; null: those of the base classifier."),
)

_EXECUTION_COLUMNS = (
    Column("sigma", pa.float64(), "Standard deviation of the noise, in pixel units of [0, 1]."),
    Column("seconds", pa.float64(), "Wall time of the point in its worker."),
    Column("worker", pa.string(), "Host and process of the worker."),
    Column("device", pa.string(), "Device of the worker."),
    Column("dtype", pa.string(), "Number format of the network."),
    Column("batch", pa.int32(), "Samples in the network at once; fewer than the job's where memory ran out."),
    Column("attempt", pa.int32(), "Number of the attempt, from 1."),
    Column("finished_at", pa.timestamp("us", tz="UTC"), "Time of the end."),
)

COLUMNS: tuple[Column, ...] = (
    *_POINT_COLUMNS,
    *_IMAGE_COLUMNS,
    *_STATUS_COLUMNS,
    *_CORE_COLUMNS,
    *_SAMPLING_COLUMNS,
    *_BY_LOOKS_COLUMNS,
    *_MISSES_COLUMNS,
    *_MISSES_BY_LOOKS_COLUMNS,
    *_STEPS_COLUMNS,
    *_LIPSCHITZ_COLUMNS,
    *_EXECUTION_COLUMNS,
)
ROW_SCHEMA = pa.schema([(column.name, column.type) for column in COLUMNS])

CORE_COLUMNS = tuple(column.name for column in _CORE_COLUMNS)
EVIDENCE = {  # columns by kind of evidence
    "sampling": tuple(column.name for column in _SAMPLING_COLUMNS),
    "lipschitz": tuple(column.name for column in _LIPSCHITZ_COLUMNS),
}
RESULT_COLUMNS = (*CORE_COLUMNS, *EVIDENCE["sampling"])
LIPSCHITZ_COLUMNS = EVIDENCE["lipschitz"]
BY_LOOKS_COLUMNS = tuple(column.name for column in _BY_LOOKS_COLUMNS)
MISSES_COLUMNS = tuple(column.name for column in (*_MISSES_COLUMNS, *_MISSES_BY_LOOKS_COLUMNS))
STEPS_COLUMNS = tuple(column.name for column in _STEPS_COLUMNS)
IMAGE_COLUMNS = tuple(column.name for column in _IMAGE_COLUMNS)

_KNOWN = frozenset(ROW_SCHEMA.names)
_ALWAYS = ("index", "status", "attempt", "finished_at")
_NEEDED = {"ok": (*_ALWAYS, "label", *CORE_COLUMNS), "error": (*_ALWAYS, "error")}
_FORBIDDEN = {
    "ok": ("error",),
    "error": (*RESULT_COLUMNS, *BY_LOOKS_COLUMNS, *MISSES_COLUMNS, *STEPS_COLUMNS, *LIPSCHITZ_COLUMNS),
}


def check_columns(row: Row) -> None:
    """Raise ValueError for columns that are null and must not be, or the other way round, by the row's status."""
    check_status(row, _KNOWN, _NEEDED, _FORBIDDEN)
    if row["status"] == "ok":
        _check_evidence(row)
    check_finished_at(row)


def _check_evidence(row: Row) -> None:
    """Refuse a row without evidence, or with a part of it."""
    given = {kind: [name for name in columns if row.get(name) is not None] for kind, columns in EVIDENCE.items()}
    if not any(given.values()):
        raise ValueError(f"ok row of index {row.get('index')}: no evidence, expected that of {' or '.join(EVIDENCE)}")
    if all(given.values()):
        raise ValueError(
            f"ok row of index {row.get('index')}: evidence of {' and '.join(EVIDENCE)}, expected one of them"
        )
    for kind, names in given.items():
        missing = [name for name in EVIDENCE[kind] if name not in names]
        if names and missing:
            raise ValueError(f"ok row of index {row.get('index')}: no value for {', '.join(missing)}")


CERTIFICATES = RowFormat(
    made_by="srs-ray certify",
    columns=COLUMNS,
    readable=READABLE_VERSIONS,
    added={
        2: _BY_LOOKS_COLUMNS,
        3: (*_MISSES_COLUMNS, *_IMAGE_COLUMNS),
        4: _MISSES_BY_LOOKS_COLUMNS,
        5: _STEPS_COLUMNS,
        6: _LIPSCHITZ_COLUMNS,
    },
    check_columns=check_columns,
)


def schema_of(version: int) -> pa.Schema:
    """The row schema of that version, one of READABLE_VERSIONS."""
    return CERTIFICATES.schema_of(version)


def check_row(row: Row) -> None:
    """Raise ValueError where `row` could not be stored as it is, or could not be told from another when read.

    A missing column counts as null. Rows that are `ok` have a label, a result and one kind of evidence; rows that
    are `error` have the error's line and no result. `finished_at` knows its time zone: the newest row is found by it.
    """
    CERTIFICATES.check_row(row)


def rows_to_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table of ROW_SCHEMA; missing columns become null. Raises ValueError as `check_row` does."""
    return CERTIFICATES.table(rows)
