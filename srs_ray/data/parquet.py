"""Encoded images in a Parquet file: columns image, label, and perhaps index."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from srs_ray.data.images import decode, preprocessing_name
from srs_ray.data.points import digest
from srs_ray.errors import DataError, PointError

ROWS_AT_ONCE = 32
BYTES_AT_ONCE = 1 << 20


class ParquetImages:
    """The rows of one Parquet file; a row's position is its index.

    `image` holds encoded images, as bytes or as Hugging Face's struct {bytes, path}; `label` whole numbers. An `index`
    column, if there is one, must count the rows from 0. Labels are held in memory, images are read when asked for, a
    few rows at a time, so that any file size will do; asking in rising order is the fast way. `class_count` None takes
    the largest label plus one, which is right if the last class occurs. Raises DataError for any other file.
    """

    def __init__(self, path: Path, input_shape: tuple[int, int, int], class_count: int | None) -> None:
        if not path.is_file():
            raise DataError(f"no Parquet file {path}: name the file itself")
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
            _check_columns(path, self._file.schema_arrow)
            # A missing label reads as -1, which `label` refuses: one bad row is no reason to refuse the file.
            labels = pc.fill_null(self._file.read(["label"])["label"].cast(pa.int64()), -1)
            self._check_index_column(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is not readable as Parquet: {error}") from error
        if len(labels) == 0:
            raise DataError(f"{path} has no rows: expected one per image")
        self._labels_N = labels.to_numpy()
        self._class_count = class_count if class_count is not None else int(max(self._labels_N.max(), 0)) + 1
        self._path = path
        self._input_shape = input_shape
        row_groups = (self._file.metadata.row_group(group) for group in range(self._file.num_row_groups))
        self._group_starts = [0, *accumulate(row_group.num_rows for row_group in row_groups)][:-1]
        self._group = -1  # the row group being read, its batches still to come, the current one and its first row
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.Array = pa.array([])
        self._batch_start = 0

    def __len__(self) -> int:
        return len(self._labels_N)

    @property
    def class_count(self) -> int:
        """The number of classes given, or the largest label plus one."""
        return self._class_count

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """See `PointDataset.identity`; the content digest is over the file's bytes, and so settles the classes."""
        with self._path.open("rb") as file:
            content = digest(iter(lambda: file.read(BYTES_AT_ONCE), b""))
        return {
            "kind": "parquet",
            "points": len(self),
            "content": content,
            "preprocessing": preprocessing_name(self._input_shape),
        }

    def label(self, index: int) -> int:
        """The row's label. Raises PointError if it is missing or no class."""
        label = int(self._labels_N[index])
        if not 0 <= label < self._class_count:
            found = "missing or -1" if label == -1 else label
            raise PointError(f"{self.name(index)}: label is {found}, expected 0 to {self._class_count - 1}")
        return label

    def image(self, index: int) -> Tensor:
        """x_CHW, float32 in [0, 1]."""
        try:
            cell = self._image_cell(index)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._group = -1
            raise PointError(f"{self.name(index)}: cannot be read ({error})") from error
        encoded = cell["bytes"] if isinstance(cell, dict) else cell
        if encoded is None:
            raise PointError(f"{self.name(index)}: the row holds no image")
        return decode(encoded, self._input_shape, self.name(index))

    def name(self, index: int) -> str:
        """Such as 'row 17 of cifar10-test.parquet'."""
        return f"row {index} of {self._path.name}"

    def _image_cell(self, row: int) -> Any:
        """The row's image column, decoding no more than its row group: forward if the row lies ahead, else from the
        group's start. A whole row group at once would not do: many writers put a whole file into one."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        group = bisect_right(self._group_starts, row) - 1
        if group != self._group or row < self._batch_start:
            self._group = group
            self._batches = self._file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=["image"])
            self._batch, self._batch_start = pa.array([]), self._group_starts[group]
        while row >= self._batch_start + len(self._batch):
            self._batch_start += len(self._batch)
            self._batch = next(self._batches)["image"]
        return self._batch[row - self._batch_start].as_py()

    def _check_index_column(self, path: Path) -> None:
        if "index" not in self._file.schema_arrow.names:
            return
        index_N = self._file.read(["index"])["index"].to_numpy()
        wrong = np.flatnonzero(index_N != np.arange(len(index_N)))
        if wrong.size:
            row = wrong[0]
            raise DataError(
                f"{path}: the index column says {index_N[row]} in row {row}, and points are counted by row: "
                "sort the file by index, or drop that column"
            )


def _check_columns(path: Path, schema: pa.Schema) -> None:
    for column in ("image", "label"):
        if column not in schema.names:
            raise DataError(f"{path} has the columns {', '.join(schema.names)}: expected image and label among them")
    image, label = schema.field("image").type, schema.field("label").type
    stored = image.field("bytes").type if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 else image
    if not (pa.types.is_binary(stored) or pa.types.is_large_binary(stored) or pa.types.is_binary_view(stored)):
        raise DataError(f"{path}: column image is {image}: expected encoded images, binary or struct<bytes: binary>")
    if not pa.types.is_integer(label):
        raise DataError(f"{path}: column label is {label}: expected whole numbers")
