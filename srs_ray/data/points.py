"""What every data set gives: points by index, and which indices a run covers."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from srs_ray.errors import DataError, PointError

if TYPE_CHECKING:
    from torch import Tensor


class PointDataset(Protocol):
    """Labelled images in a fixed order, 0 <= index < len; the order never depends on a machine or a file system."""

    def __len__(self) -> int: ...

    @property
    def class_count(self) -> int:
        """How many classes a label chooses from."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """The classes by their labels, None where the data do not name them."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What makes an index mean an image: kind, split, number of points, sha256 digests of class list and content,
        preprocessing. JSON values by name, the same wherever the files lie. Computed when first asked for: it may read
        every byte."""

    def label(self, index: int) -> int:
        """The true class. Raises PointError where the data gives none in [0, class_count)."""

    def image(self, index: int) -> Tensor:
        """x_CHW, float32 in [0, 1], of exactly the input shape. Raises PointError naming the point and the reason."""

    def name(self, index: int) -> str:
        """The point in words for messages, such as 'row 17 of cifar10-test.parquet'."""


def modified_at(dataset: PointDataset, index: int) -> float | None:
    """When the point's own file was last modified, in seconds since the epoch; None where the data set does not say."""
    tell = getattr(dataset, "modified_at", None)
    return None if tell is None else tell(index)


def class_label(label: object, class_count: int, name: str) -> int:
    """The label as a class, 0 <= label < class_count. Raises PointError, which starts with `name`, for anything else.

    Whole numbers are taken as int, as a numpy integer, or as an array or tensor of no dimension. True and 1.0 are not:
    they mean that something else than a label was returned.
    """
    boolean = isinstance(label, bool) or str(getattr(label, "dtype", "")) in ("bool", "torch.bool")
    try:
        found = None if boolean or getattr(label, "ndim", 0) else operator.index(label)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None:
        raise PointError(
            f"{name}: label is {label!r} ({type(label).__name__}), expected a whole number, 0 to {class_count - 1}"
        )
    if not 0 <= found < class_count:
        raise PointError(f"{name}: label is {found}, expected 0 to {class_count - 1}")
    return found


def refuse_labels_from_one(labels_N: np.ndarray, class_count: int, name: str) -> None:
    """Raises DataError where labels count from 1: some are `class_count`, none is 0.

    Missing ones, below 0, say nothing, and fewer labels than there are classes too little: one wrong label among them
    is an error of its point.
    """
    known_N = labels_N[labels_N >= 0]
    if len(known_N) >= class_count and known_N.min() >= 1 and known_N.max() == class_count:
        raise DataError(
            f"{name}: labels are {known_N.min()} to {class_count}, and the {class_count} classes have the labels 0 to "
            f"{class_count - 1}: subtract 1 from every label, or choose the data the model was trained on"
        )


def point_indices(length: int, start: int = 0, stop: int | None = None, every: int = 1) -> range:
    """Indices start, start + every, ... below stop (None: `length`). Raises DataError if they do not fit `length`."""
    end = length if stop is None else stop
    if every < 1:
        raise DataError(f"every is {every}: expected 1 (each point) or more")
    if not 0 <= start < length:
        raise DataError(f"start is {start}, but the data set has points 0 to {length - 1}: choose a start among them")
    if end > length:
        raise DataError(f"stop is {end}, but the data set has {length} points: give at most {length}, or leave it out")
    if end <= start:
        raise DataError(f"stop is {end} and start is {start}, which leaves no point: give a stop above {start}")
    return range(start, end, every)


def load_all(dataset: PointDataset) -> tuple[Tensor, Tensor]:
    """The whole data set in memory: x_NCHW float32 in [0, 1], y_N int64. Raises PointError at the first bad point."""
    import torch

    indices = range(len(dataset))
    y_N = torch.tensor([dataset.label(index) for index in indices], dtype=torch.int64)
    # Filled in place: a list of images to stack would hold everything twice.
    x_NCHW = torch.empty(len(dataset), *dataset.image(0).shape)
    for index in indices:
        x_NCHW[index] = dataset.image(index)
    return x_NCHW, y_N


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """sha256 of the parts one after another, in hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def class_list_digest(names: Iterable[str]) -> str:
    """sha256 of the class names in the order of their labels; each name ends in NUL, which none can contain."""
    return digest(name.encode("utf-8", "surrogateescape") + b"\0" for name in names)
