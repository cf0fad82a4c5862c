"""A row is stored as the documented columns, or refused before it reaches a file."""

from __future__ import annotations

import pytest

from srs_ray.runs.schema import (
    BY_LOOKS_COLUMNS,
    EVIDENCE,
    LIPSCHITZ_COLUMNS,
    MISSES_COLUMNS,
    RESULT_COLUMNS,
    ROW_SCHEMA,
    STEPS_COLUMNS,
    check_row,
    rows_to_table,
)

COLUMNS = """
index int64, label int32, source string, class_name string, pixels string, status string, error string,
predicted int32, radius double, correct bool, selected int32,
p_lower double, n0 int64, n int64, selection_classes list<item: int32>, selection_counts list<item: int64>,
classes list<item: int32>, counts list<item: int64>, audited int64, disagreed int64, function_evaluations int64,
reference_evaluations int64, fallbacks int64, unconverged int64, method string, stopped string, audit_share double,
look_n list<item: int64>, look_hits list<item: int64>, look_audited list<item: int64>,
look_disagreed list<item: int64>, audited_misses int64, found int64, look_audited_misses list<item: int64>,
look_found list<item: int64>, steps int32, leading int32, runner_up int32, logit_margin double, allowance double,
pair_constant double, layer_evaluations int64, sigma double, seconds double, worker string, device string,
dtype string, batch int32, attempt int32, finished_at timestamp[us; tz=UTC]
"""


def test_columns_are_the_documented_ones_in_order_and_type() -> None:
    documented = [entry.strip().split(" ", 1) for entry in COLUMNS.replace("\n", " ").split(",")]
    found = [[field.name, str(field.type).replace("us, tz", "us; tz")] for field in ROW_SCHEMA]
    assert found == documented


def test_result_columns_run_from_the_prediction_to_the_audit_and_those_by_looks_of_misses_and_steps_follow() -> None:
    names = ROW_SCHEMA.names
    every = [*RESULT_COLUMNS, *BY_LOOKS_COLUMNS, *MISSES_COLUMNS, *STEPS_COLUMNS, *LIPSCHITZ_COLUMNS]
    assert every == names[names.index("predicted") : names.index("sigma")]
    assert BY_LOOKS_COLUMNS[0] == "method"


def test_error_row_may_leave_out_everything_else_and_reads_as_null(error_row) -> None:
    row = rows_to_table([error_row(7)]).to_pylist()[0]
    assert {row[name] for name in RESULT_COLUMNS} == {None}
    assert (row["index"], row["label"], row["worker"]) == (7, None, None)


@pytest.mark.parametrize("column", RESULT_COLUMNS)
def test_error_row_with_a_result_is_refused_by_name(error_row, ok_row, column) -> None:
    with pytest.raises(ValueError, match=rf"index 7: expected null in {column}$"):
        check_row(error_row(7, **{column: ok_row(7)[column]}))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("method", "srs"),
        ("stopped", "spent"),
        ("look_n", [150]),
        ("audited_misses", 0),
        ("found", 0),
        ("steps", 1),
        ("allowance", 0.0),
    ],
)
def test_error_row_with_anything_by_looks_or_of_misses_is_refused_by_name(error_row, column, value) -> None:
    with pytest.raises(ValueError, match=rf"index 7: expected null in {column}$"):
        check_row(error_row(7, **{column: value}))


@pytest.mark.parametrize("column", ["index", "label", "attempt", "finished_at", *RESULT_COLUMNS])
def test_ok_row_without_a_value_is_refused_by_name(ok_row, column) -> None:
    row = ok_row(7)
    del row[column]
    with pytest.raises(ValueError, match=f"no value for {column}$"):
        check_row(row)


def test_error_row_without_its_message_is_refused(error_row) -> None:
    with pytest.raises(ValueError, match="no value for error"):
        check_row(error_row(7, error=None))


def test_column_that_the_schema_does_not_have_is_refused_by_name(ok_row) -> None:
    with pytest.raises(ValueError, match="unknown column radios"):
        check_row(ok_row(7, radios=1.0))


def test_status_other_than_ok_and_error_is_refused(ok_row) -> None:
    with pytest.raises(ValueError, match="status is 'done'"):
        check_row(ok_row(7, status="done"))


def test_time_without_a_zone_is_refused_because_the_newest_row_is_found_by_it(ok_row) -> None:
    with pytest.raises(ValueError, match="no time with a time zone"):
        check_row(ok_row(7, finished_at=ok_row(7)["finished_at"].replace(tzinfo=None)))


@pytest.mark.parametrize(
    ("column", "value"), [("radius", "0.5"), ("batch", 2**31), ("n", 1.5), ("counts", 3), ("counts", [1.5])]
)
def test_value_of_another_type_is_refused(ok_row, column, value) -> None:
    with pytest.raises(ValueError, match="does not fit the schema"):
        check_row(ok_row(7, **{column: value}))


EVIDENCE_WITHOUT_SAMPLES = {
    "leading": 3, "runner_up": 5, "logit_margin": 1.0, "allowance": 0.1, "pair_constant": 3.0, "layer_evaluations": 40
}  # fmt: skip


def without_samples(row: dict, **changes) -> dict:
    return (
        {name: row.get(name) for name in row if name not in EVIDENCE["sampling"]} | EVIDENCE_WITHOUT_SAMPLES | changes
    )


def test_an_ok_row_has_evidence_of_one_kind_and_the_whole_of_it(ok_row) -> None:
    check_row(without_samples(ok_row(7)))
    with pytest.raises(ValueError, match=r"no value for allowance$"):
        check_row(without_samples(ok_row(7), allowance=None))
    with pytest.raises(ValueError, match="evidence of sampling and lipschitz, expected one of them"):
        check_row(ok_row(7) | EVIDENCE_WITHOUT_SAMPLES)
    with pytest.raises(ValueError, match="no evidence, expected that of sampling or lipschitz"):
        check_row(without_samples(ok_row(7), **dict.fromkeys(EVIDENCE_WITHOUT_SAMPLES)))
