"""Of all attempts at a point, the newest that succeeded counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from srs_ray.runs.effective import effective_rows

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("status", pa.string()),
        ("finished_at", pa.timestamp("us", tz="UTC")),
        ("attempt", pa.int32()),
        ("worker", pa.string()),
    ]
)


def attempts(*rows: tuple[int, str, int, int, str]) -> pa.Table:
    """Rows of (index, status, second of finishing, attempt, worker)."""
    start = datetime(2025, 1, 1, tzinfo=UTC)
    timed = [(index, status, start + timedelta(seconds=second), *rest) for index, status, second, *rest in rows]
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in timed], schema=SCHEMA)


def winners(table: pa.Table) -> list[tuple[int, str]]:
    found = effective_rows(table)
    return list(zip(found["index"].to_pylist(), found["worker"].to_pylist(), strict=True))


def test_newest_ok_wins_over_older_ok_and_newer_error() -> None:
    table = attempts((5, "ok", 10, 1, "old"), (5, "ok", 20, 1, "new"), (5, "error", 30, 2, "broken"))
    assert winners(table) == [(5, "new")]


def test_newest_error_stands_where_no_attempt_succeeded() -> None:
    assert winners(attempts((5, "error", 20, 2, "new"), (5, "error", 10, 3, "old"))) == [(5, "new")]


def test_attempt_decides_between_rows_of_one_time() -> None:
    assert winners(attempts((5, "ok", 10, 1, "first"), (5, "ok", 10, 2, "second"))) == [(5, "second")]


def test_rows_come_sorted_by_index() -> None:
    assert winners(attempts((9, "ok", 1, 1, "c"), (-1, "ok", 2, 1, "a"), (4, "error", 3, 1, "b"))) == [
        (-1, "a"),
        (4, "b"),
        (9, "c"),
    ]


def test_no_rows_give_no_rows_of_the_same_columns() -> None:
    assert effective_rows(SCHEMA.empty_table()).equals(SCHEMA.empty_table())


rows_of_any_history = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["ok", "error"]), st.integers(0, 4), st.integers(1, 4), st.text("w")),
    unique_by=lambda row: row[:4],
)


@settings(deadline=None)
@given(rows_of_any_history, st.integers(1, 4))
def test_any_history_in_any_number_of_parts_gives_each_index_its_best_row(rows, parts) -> None:
    best = {}
    for row in sorted(rows, key=lambda row: (row[1] == "ok", row[2], row[3])):
        best[row[0]] = row
    table = pa.concat_tables([attempts(*rows[part::parts]) for part in range(parts)])
    expected = attempts(*(best[index] for index in sorted(best)))
    assert effective_rows(table).equals(expected)
