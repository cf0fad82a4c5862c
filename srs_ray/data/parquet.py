"""Encoded images in Parquet: one file, or a folder of shards, with a column of images and one of labels."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from srs_ray.data.class_names import check_class_names
from srs_ray.data.images import decode, preprocessing_name
from srs_ray.data.kind import Kind
from srs_ray.data.points import class_label, digest, refuse_labels_from_one
from srs_ray.errors import DataError, PointError
from srs_ray.regular_files import open_regular

if TYPE_CHECKING:
    from torch import Tensor

    from srs_ray.data.parquet_shard import Shard
    from srs_ray.data.settings import DataSettings

BYTES_AT_ONCE = 1 << 20
NAMES_SHOWN = 8
_COUNTED = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.parquet")


class ParquetImages:
    """The rows of one Parquet file, or of a folder's shards by their names' order; a row's position is its index.

    The columns of images and labels are those named, or else the ones that `parquet_shard.choose_columns` finds. Labels
    are held in memory, images are read when asked for, a few rows at a time, from one shard at a time, so that any size
    will do; asking in rising order is the fast way. Classes are named by `classes`, else as Hugging Face's metadata
    name them; `class_count` must be their number. None takes that number, and without names the largest label plus one,
    which is right if the last class occurs. Raises DataError for any other file or folder, naming the shard.
    """

    def __init__(
        self,
        path: Path,
        input_shape: tuple[int, int, int],
        class_count: int | None,
        image_column: str | None = None,
        label_column: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        from srs_ray.data.parquet_shard import Shard, choose_columns, named_classes, read_schema

        files = _shard_files(path)
        schema = read_schema(files[0])
        self._columns = choose_columns(files[0], schema, image_column, label_column)
        self._shards: list[Shard] = []
        self._starts: list[int] = []  # the index of each shard's first row
        rows = 0
        for file in files:
            shard = Shard(file, schema, self._columns, rows)
            self._shards.append(shard)
            self._starts.append(rows)
            rows += len(shard.labels_N)
        if rows == 0:
            raise DataError(f"{path} has no rows: expected one per image")
        self._labels_N = np.concatenate([shard.labels_N for shard in self._shards])
        names = named_classes(schema, self._columns)
        if class_count is None:
            largest = int(max(self._labels_N.max(), 0)) + 1
            class_count = next((len(given) for given in (classes, names) if given is not None), largest)
        self._class_count = class_count
        refuse_labels_from_one(self._labels_N, class_count, str(path))
        self.class_names = _class_names(path, classes, names, class_count)
        self._input_shape = input_shape
        self._reading = self._shards[0]

    def __len__(self) -> int:
        return len(self._labels_N)

    @property
    def class_count(self) -> int:
        """The number of classes given, else of their names, else the largest label plus one."""
        return self._class_count

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """See `PointDataset.identity`; the content digest is over the shards' bytes one after another, and so settles
        the classes, but not how the files are called. Columns are entries where they are not image and label."""
        identity: dict[str, str | int] = {
            "kind": KIND.name,
            "points": len(self),
            "content": digest(chunk for shard in self._shards for chunk in _chunks(shard.path)),
            "preprocessing": preprocessing_name(self._input_shape),
        }
        if self._columns.image != "image":
            identity["image_column"] = self._columns.image
        if self._columns.label != "label":
            identity["label_column"] = self._columns.label
        return identity

    def label(self, index: int) -> int:
        """The row's label. Raises PointError if it is missing or no class."""
        label = int(self._labels_N[index])
        if label == -1:
            raise PointError(f"{self.name(index)}: label is missing or -1, expected 0 to {self._class_count - 1}")
        return class_label(label, self._class_count, self.name(index))

    def image(self, index: int) -> Tensor:
        """x_CHW, float32 in [0, 1]."""
        shard, row = self._place(index)
        if shard is not self._reading:
            self._reading.close()
            self._reading = shard
        return decode(shard.encoded(row), self._input_shape, shard.name(row))

    def name(self, index: int) -> str:
        """Such as 'row 17 of cifar10-test.parquet'."""
        shard, row = self._place(index)
        return shard.name(row)

    def _place(self, index: int) -> tuple[Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        return self._shards[number], index - self._starts[number]


def _class_names(
    path: Path, given: Sequence[str] | None, stored: Sequence[str] | None, class_count: int
) -> tuple[str, ...] | None:
    """The names given, else those of the file. Raises DataError where they are not as many as there are classes, or
    contradict each other."""
    if given is None:
        if stored is not None and len(stored) != class_count:
            raise DataError(
                f"{path}: the data name {len(stored)} classes, the model tells {class_count} apart: choose the data "
                "the model was trained on, or, if the labels are the model's, name its classes in their order by "
                "data.classes"
            )
        return None if stored is None else tuple(stored)
    if len(given) != class_count:
        raise DataError(f"data.classes has {len(given)} names, and there are {class_count} classes: give as many")
    check_class_names(stored, given, "data.classes")
    return tuple(given)


def _shard_files(path: Path) -> list[Path]:
    """The file itself, or a folder's Parquet files by name, hidden ones apart. Raises DataError if there are none."""
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise DataError(f"no Parquet file {path}: name the file itself, or a folder of shards")
    files = sorted(
        (file for file in path.glob("*.parquet") if file.is_file() and not file.name.startswith(".")),
        key=lambda file: file.name,
    )
    if not files:
        raise DataError(f"no Parquet file in {path}: name a file, or the folder that holds the shards, *.parquet")
    _check_complete(path, [file.name for file in files])
    return files


def _check_complete(path: Path, names: list[str]) -> None:
    """Shards that say of how many they are one (train-00000-of-00002.parquet) must be of one split and one count, each
    there once and nothing beside them: an index would mean another image. Raises DataError. Other names say nothing."""
    shards = {name: match for name, match in ((name, _COUNTED.fullmatch(name)) for name in names) if match}
    if not shards:
        return
    uncounted = [name for name in names if name not in shards]
    if uncounted:
        raise DataError(
            f"{path} holds {next(iter(shards))}, which counts its shards, and {_some(uncounted)}, which is none of "
            "them: leave the shards of one data set there alone, or name the file instead of the folder"
        )
    splits = sorted({match["split"] for match in shards.values()})
    if len(splits) > 1:
        raise DataError(f"{path} holds shards of {' and '.join(splits)}: name a folder that holds one of them alone")
    one_of_each = {match["count"]: name for name, match in shards.items()}
    if len(one_of_each) > 1:
        raise DataError(
            f"{path} holds shards of several data sets, which count them otherwise: {_some([*one_of_each.values()])}: "
            "keep those of one there alone, or name the file instead of the folder"
        )
    numbered: dict[int, list[str]] = {}
    for name, match in shards.items():
        numbered.setdefault(int(match["number"]), []).append(name)
    twice = next((same for same in numbered.values() if len(same) > 1), None)
    if twice is not None:
        raise DataError(
            f"{path} holds the same shard more than once: {_some(twice)}: keep one of each number, or name the file "
            "instead of the folder"
        )
    count = int(next(iter(one_of_each)))
    missing = sorted({*range(count)} - numbered.keys())
    if missing:
        raise DataError(
            f"{path} lacks {len(missing)} of the {count} shards that {names[0]} is one of, the first of them number "
            f"{missing[0]:05}: bring them all together"
        )
    beyond = sorted(numbered.keys() - {*range(count)})
    if beyond:
        raise DataError(f"{path} holds {numbered[beyond[0]][0]}, a shard more than it counts: remove it, or rename it")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if names[NAMES_SHOWN:] else "")


def _chunks(path: Path) -> Iterator[bytes]:
    with open_regular(path) as file:
        yield from iter(lambda: file.read(BYTES_AT_ONCE), b"")


def _open(
    section: DataSettings, input_shape: tuple[int, int, int], class_count: int | None, download: bool
) -> ParquetImages:
    if section.split is not None:
        raise DataError(
            f"split is {section.split!r}, but a Parquet file has no splits: name the file to use, without split"
        )
    path = KIND.path_of(section)
    return ParquetImages(path, input_shape, class_count, section.image_column, section.label_column, section.classes)


KIND = Kind("parquet", _open, takes=("image_column", "label_column", "classes"))
