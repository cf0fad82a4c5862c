"""What rows of one kind are: their columns, versions and checks, and rows as a table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from numbers import Integral
from typing import Any, NamedTuple

import pyarrow as pa

Row = dict[str, Any]
Version = int | str


class Column(NamedTuple):
    """A column of a row: its name, its type in Parquet, and its meaning, one or two sentences of Markdown."""

    name: str
    type: pa.DataType
    meaning: str


@dataclass(frozen=True)
class RowFormat:
    """The rows of one kind of run directory.

    `made_by` is the command that writes them. `readable` are the versions of run.json and of parts that are read here,
    the last of them the one that is written; `added` are columns by the version that brought them. `check_columns`
    raises ValueError for a row with a null where none may be, or the other way round.
    """

    made_by: str
    columns: tuple[Column, ...]
    readable: tuple[Version, ...]
    added: Mapping[Version, tuple[Column, ...]]
    check_columns: Callable[[Row], None]

    @property
    def version(self) -> Version:
        """The version that is written."""
        return self.readable[-1]

    @cached_property
    def schema(self) -> pa.Schema:
        """That of the present version."""
        return pa.schema([(column.name, column.type) for column in self.columns])

    def schema_of(self, version: Version) -> pa.Schema:
        """The schema of that version, one of `readable`."""
        place = self.readable.index(version)
        later = {
            column.name
            for since, columns in self.added.items()
            if place < self.readable.index(since)
            for column in columns
        }
        return pa.schema([field for field in self.schema if field.name not in later])

    def check_row(self, row: Row) -> None:
        """Raise ValueError where `row` could not be stored as it is, or could not be told from another when read."""
        self.table([row])

    def table(self, rows: Sequence[Row]) -> pa.Table:
        """Rows as a table of the schema; missing columns become null. Raises ValueError as `check_row` does."""
        for row in rows:
            self.check_columns(row)
        try:
            table = pa.Table.from_pylist(rows, schema=self.schema)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(f"a row does not fit the schema: {error}") from error
        for row in rows:
            self._check_whole_numbers(row)
        return table

    def _check_whole_numbers(self, row: Row) -> None:
        """Refuse what pyarrow would cut to a whole number without a word."""
        for field in self.schema:
            listed = pa.types.is_list(field.type)
            if not pa.types.is_integer(field.type.value_type if listed else field.type):
                continue
            value = row.get(field.name)
            numbers = () if value is None else value if listed else (value,)
            if not all(isinstance(number, Integral) for number in numbers):
                raise ValueError(f"a row does not fit the schema: {field.name} is {value!r}, expected whole numbers")


def check_status(
    row: Row,
    known: Collection[str],
    needed: Mapping[str, Sequence[str]],
    forbidden: Mapping[str, Sequence[str]],
) -> None:
    """Raise ValueError for another status, a column that is not `known`, or nulls in wrong places for the status."""
    status: Any = row.get("status")
    if status not in needed:
        raise ValueError(f"row of index {row.get('index')}: status is {status!r}, expected 'ok' or 'error'")
    unknown = [name for name in row if name not in known]
    missing = [name for name in needed[status] if row.get(name) is None]
    excess = [name for name in forbidden[status] if row.get(name) is not None]
    for names, fault in ((unknown, "unknown column"), (missing, "no value for"), (excess, "expected null in")):
        if names:
            raise ValueError(f"{status} row of index {row.get('index')}: {fault} {', '.join(names)}")


def check_finished_at(row: Row) -> None:
    """Raise ValueError where the time of a row's end does not know its zone: the newest row is found by it."""
    finished_at = row["finished_at"]
    if not isinstance(finished_at, datetime) or finished_at.tzinfo is None:
        raise ValueError(f"row of index {row['index']}: finished_at {finished_at!r} is no time with a time zone")
