"""One Parquet file of encoded images: its columns, its labels, and its images as they are asked for."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from srs_ray.errors import DataError, PointError

ROWS_AT_ONCE = 32
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")  # not coarse_label: CIFAR-100's superclasses


@dataclass(frozen=True)
class Columns:
    """The names of the columns of images and of labels."""

    image: str
    label: str


def read_schema(path: Path) -> pa.Schema:
    """The file's columns. Raises DataError if it is no Parquet file."""
    with _readable(path), pq.ParquetFile(path, memory_map=True) as file:
        return file.schema_arrow


def choose_columns(path: Path, schema: pa.Schema, image: str | None = None, label: str | None = None) -> Columns:
    """The columns named, and for None the one there is of `IMAGE_COLUMNS` or `LABEL_COLUMNS`. Raises DataError if there
    is none or more than one, and for columns that hold anything but encoded images and whole numbers.

    Encoded images are bytes, or Hugging Face's struct {bytes, path}.
    """
    columns = Columns(
        _the_column(path, schema, image, IMAGE_COLUMNS, "image_column"),
        _the_column(path, schema, label, LABEL_COLUMNS, "label_column"),
    )
    found = schema.field(columns.image).type
    stored = found.field("bytes").type if pa.types.is_struct(found) and found.get_field_index("bytes") >= 0 else found
    if not (pa.types.is_binary(stored) or pa.types.is_large_binary(stored) or pa.types.is_binary_view(stored)):
        raise DataError(
            f"{path}: column {columns.image} is {found}: expected encoded images, binary or struct<bytes: binary>"
        )
    found = schema.field(columns.label).type
    if not pa.types.is_integer(found):
        raise DataError(f"{path}: column {columns.label} is {found}: expected whole numbers")
    return columns


def named_classes(schema: pa.Schema, columns: Columns) -> list[str] | None:
    """The class names that Hugging Face's metadata give the column of labels, None without them."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        names = stored["info"]["features"][columns.label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


class Shard:
    """A Parquet file with the columns of `schema`, its first row the point `first_index` of the whole data set.

    An `index` column, if there is one, must count the data set's points. Labels are read at once (missing ones as -1),
    images as they are asked for: the file is only open from the first of them to `close`. Raises DataError for a file
    that cannot be read, has other columns, or counts otherwise.
    """

    def __init__(self, path: Path, schema: pa.Schema, columns: Columns, first_index: int) -> None:
        self.path = path
        self._columns = columns
        with _readable(path), pq.ParquetFile(path, memory_map=True) as file:
            _check_same_columns(path, file.schema_arrow, schema)
            # A missing label is refused when it is asked for: one bad row is no reason to refuse the file.
            self.labels_N: np.ndarray = pc.fill_null(_column(file, columns.label).cast(pa.int64()), -1).to_numpy()
            if "index" in schema.names:
                _check_index_column(path, _column(file, "index").to_numpy(), first_index)
            row_groups = (file.metadata.row_group(group) for group in range(file.num_row_groups))
            self._group_starts = [0, *accumulate(row_group.num_rows for row_group in row_groups)][:-1]
        self._file: pq.ParquetFile | None = None
        self.close()

    def name(self, row: int) -> str:
        """Such as 'row 17 of cifar10-test.parquet'."""
        return f"row {row} of {self.path.name}"

    def encoded(self, row: int) -> bytes:
        """The bytes of the row's image. Raises PointError if it has none, or they cannot be read."""
        try:
            cell = self._image_cell(row)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self.close()
            raise PointError(f"{self.name(row)}: cannot be read ({error})") from error
        encoded = cell["bytes"] if isinstance(cell, dict) else cell
        if encoded is None:
            raise PointError(f"{self.name(row)}: the row holds no image")
        return encoded

    def close(self) -> None:
        """Lets go of the file and of the rows in memory; the next image opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._group = -1  # the row group being read, its batches still to come, the current one and its first row
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.Array = pa.array([])
        self._batch_start = 0

    def _image_cell(self, row: int) -> Any:
        """The row's image column, decoding no more than its row group: forward if the row lies ahead, else from the
        group's start. A whole row group at once would not do: many writers put a whole file into one."""
        if self._file is None:
            self._file = pq.ParquetFile(self.path, memory_map=True)
        group = bisect_right(self._group_starts, row) - 1
        if group != self._group or row < self._batch_start:
            self._group = group
            self._batches = self._file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[self._columns.image])
            self._batch, self._batch_start = pa.array([]), self._group_starts[group]
        while row >= self._batch_start + len(self._batch):
            self._batch_start += len(self._batch)
            self._batch = next(self._batches)[self._columns.image]
        return self._batch[row - self._batch_start].as_py()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not readable as Parquet: {error}") from error


def _column(file: pq.ParquetFile, name: str) -> pa.ChunkedArray:
    return file.read([name])[name]


def _the_column(path: Path, schema: pa.Schema, name: str | None, candidates: tuple[str, ...], setting: str) -> str:
    there = f"{path} has the columns {', '.join(schema.names)}"
    if name is not None:
        if schema.names.count(name) != 1:
            raise DataError(f"{there}: data.{setting} is {name!r}, expected one of them")
        return name
    found = [column for column in schema.names if column in candidates]
    if not found:
        raise DataError(f"{there}: expected image and label among them, or data.{setting} with the name of one")
    if len(found) > 1:
        raise DataError(f"{there}: both {' and '.join(found)} could be meant, choose by data.{setting}")
    return found[0]


def _check_same_columns(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    if not found.equals(expected):
        raise DataError(
            f"{path} has the columns {_described(found)}; the first shard has {_described(expected)}: "
            "bring shards together that agree"
        )


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _check_index_column(path: Path, index_N: np.ndarray, first_index: int) -> None:
    wrong = np.flatnonzero(index_N != np.arange(first_index, first_index + len(index_N)))
    if wrong.size:
        row = wrong[0]
        raise DataError(
            f"{path}: the index column says {index_N[row]} in row {first_index + row}, and points are counted by row, "
            "over all shards in the order of their names: sort by index, or drop that column"
        )
