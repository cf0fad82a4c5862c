"""The row schema: one row per point attempt that ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from numbers import Integral
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 5
READABLE_VERSIONS = (1, 2, 3, 4, 5)
# 1: no columns by looks; 2: none of misses, none of the image; 3: no misses at looks; 4: no steps

Row = dict[str, Any]

_IMAGE_FIELDS = [
    ("source", pa.string()),  # the image's file or key, as the data set names it
    ("class_name", pa.string()),  # the label's, where the data set names its classes
    ("pixels", pa.string()),  # sha256 of the float32 pixels that were certified
]

_CORE_FIELDS = [
    ("predicted", pa.int32()),  # the certified class, -1 for abstain
    ("radius", pa.float64()),  # l2, in pixel units of [0, 1]
    ("correct", pa.bool_()),  # predicted == label, and not abstained
]

# The evidence of certificates by smoothing. An `ok` row has all columns of one kind of evidence.
_SAMPLING_FIELDS = [
    ("selected", pa.int32()),  # the candidate class, fixed by the selection samples
    ("p_lower", pa.float64()),  # the lower bound behind the radius
    ("n0", pa.int64()),  # selection samples drawn
    ("n", pa.int64()),  # estimation samples drawn
    ("selection_classes", pa.list_(pa.int32())),  # sparse counts: class and, below, how often; -1 is 'no class'
    ("selection_counts", pa.list_(pa.int64())),
    ("classes", pa.list_(pa.int32())),
    ("counts", pa.list_(pa.int64())),
    ("audited", pa.int64()),  # K of the audit, 0 for standard sampling
    ("disagreed", pa.int64()),  # k of the audit
    ("function_evaluations", pa.int64()),  # calls of f by the sampler, per sample, summed
    ("reference_evaluations", pa.int64()),  # calls of f by the audit
    ("fallbacks", pa.int64()),  # samples that fell back to the naive step
    ("unconverged", pa.int64()),  # reference solves that missed the tolerance
]

_BY_LOOKS_FIELDS = [
    ("method", pa.string()),  # how estimation was sampled: srs | standard
    ("stopped", pa.string()),  # why, of a run with target radii: resolved | futile | spent
    ("audit_share", pa.float64()),  # tau, the share of hits that are audited
    ("look_n", pa.list_(pa.int64())),  # counts at the looks at which a bound was read, cumulative
    ("look_hits", pa.list_(pa.int64())),
    ("look_audited", pa.list_(pa.int64())),
    ("look_disagreed", pa.list_(pa.int64())),
]

# Of a certificate that audits misses too; null elsewhere.
_MISSES_FIELDS = [
    ("audited_misses", pa.int64()),  # samples that are no hits on which F was run
    ("found", pa.int64()),  # those of them on which F hits
]
_MISSES_BY_LOOKS_FIELDS = [
    ("look_audited_misses", pa.list_(pa.int64())),  # both at the looks, where there are any
    ("look_found", pa.list_(pa.int64())),
]

# Of an estimation sample; null where it is the base classifier's own.
_STEPS_FIELDS = [("steps", pa.int32())]

ROW_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),  # position in the dataset
        ("label", pa.int32()),  # true class
        *_IMAGE_FIELDS,
        ("status", pa.string()),  # ok | error
        ("error", pa.string()),  # the error's one line, null in ok rows
        *_CORE_FIELDS,
        *_SAMPLING_FIELDS,
        *_BY_LOOKS_FIELDS,
        *_MISSES_FIELDS,
        *_MISSES_BY_LOOKS_FIELDS,
        *_STEPS_FIELDS,
        ("sigma", pa.float64()),  # the noise, in pixel units of [0, 1]
        ("seconds", pa.float64()),  # wall time of the point in its worker
        ("worker", pa.string()),
        ("device", pa.string()),
        ("dtype", pa.string()),
        ("batch", pa.int32()),
        ("attempt", pa.int32()),
        ("finished_at", pa.timestamp("us", tz="UTC")),
    ]
)

CORE_COLUMNS = tuple(name for name, _ in _CORE_FIELDS)
EVIDENCE = {"sampling": tuple(name for name, _ in _SAMPLING_FIELDS)}  # columns by kind of evidence
RESULT_COLUMNS = (*CORE_COLUMNS, *(name for columns in EVIDENCE.values() for name in columns))
BY_LOOKS_COLUMNS = tuple(name for name, _ in _BY_LOOKS_FIELDS)
MISSES_COLUMNS = tuple(name for name, _ in (*_MISSES_FIELDS, *_MISSES_BY_LOOKS_FIELDS))
STEPS_COLUMNS = tuple(name for name, _ in _STEPS_FIELDS)
IMAGE_COLUMNS = tuple(name for name, _ in _IMAGE_FIELDS)

_WHOLE = [field.name for field in ROW_SCHEMA if pa.types.is_integer(field.type)]
_LISTS_OF_WHOLE = [field.name for field in ROW_SCHEMA if pa.types.is_list(field.type)]
_ALWAYS = ("index", "status", "attempt", "finished_at")
_NEEDED = {"ok": (*_ALWAYS, "label", *CORE_COLUMNS), "error": (*_ALWAYS, "error")}
_FORBIDDEN = {"ok": ("error",), "error": (*RESULT_COLUMNS, *BY_LOOKS_COLUMNS, *MISSES_COLUMNS, *STEPS_COLUMNS)}


def schema_of(version: int) -> pa.Schema:
    """The row schema of that version, one of READABLE_VERSIONS."""
    added = {2: _BY_LOOKS_FIELDS, 3: [*_MISSES_FIELDS, *_IMAGE_FIELDS], 4: _MISSES_BY_LOOKS_FIELDS, 5: _STEPS_FIELDS}
    later = {name for since, fields in added.items() if version < since for name, _ in fields}
    return pa.schema([field for field in ROW_SCHEMA if field.name not in later])


def check_row(row: Row) -> None:
    """Raise ValueError where `row` could not be stored as it is, or could not be told from another when read.

    A missing column counts as null. Rows that are `ok` have a label, a result and one kind of evidence; rows that
    are `error` have the error's line and no result. `finished_at` knows its time zone: the newest row is found by it.
    """
    rows_to_table([row])


def rows_to_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table of ROW_SCHEMA; missing columns become null. Raises ValueError as `check_row` does."""
    for row in rows:
        _check_columns(row)
    try:
        table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"a row does not fit the schema: {error}") from error
    for row in rows:
        _check_whole_numbers(row)
    return table


def _check_columns(row: Row) -> None:
    status = row.get("status")
    if status not in _NEEDED:
        raise ValueError(f"row of index {row.get('index')}: status is {status!r}, expected 'ok' or 'error'")
    unknown = [name for name in row if name not in ROW_SCHEMA.names]
    missing = [name for name in _NEEDED[status] if row.get(name) is None]
    excess = [name for name in _FORBIDDEN[status] if row.get(name) is not None]
    for names, fault in ((unknown, "unknown column"), (missing, "no value for"), (excess, "expected null in")):
        if names:
            raise ValueError(f"{status} row of index {row.get('index')}: {fault} {', '.join(names)}")
    if status == "ok":
        _check_evidence(row)
    finished_at = row["finished_at"]
    if not isinstance(finished_at, datetime) or finished_at.tzinfo is None:
        raise ValueError(f"row of index {row['index']}: finished_at {finished_at!r} is no time with a time zone")


def _check_evidence(row: Row) -> None:
    """Refuse a row without evidence, or with a part of it."""
    given = {kind: [name for name in columns if row.get(name) is not None] for kind, columns in EVIDENCE.items()}
    if not any(given.values()):
        raise ValueError(f"ok row of index {row.get('index')}: no evidence, expected that of {' or '.join(EVIDENCE)}")
    for kind, names in given.items():
        missing = [name for name in EVIDENCE[kind] if name not in names]
        if names and missing:
            raise ValueError(f"ok row of index {row.get('index')}: no value for {', '.join(missing)}")


def _check_whole_numbers(row: Row) -> None:
    """Refuse what pyarrow would cut to a whole number without a word."""
    for name in (*_WHOLE, *_LISTS_OF_WHOLE):
        value = row.get(name)
        numbers = () if value is None else value if name in _LISTS_OF_WHOLE else (value,)
        if not all(isinstance(number, Integral) for number in numbers):
            raise ValueError(f"a row does not fit the schema: {name} is {value!r}, expected whole numbers")
