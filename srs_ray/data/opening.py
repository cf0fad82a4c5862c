"""Opening the data that a job names."""

from __future__ import annotations

import os

from srs_ray.data.points import PointDataset
from srs_ray.data.registry import KINDS, kind_named
from srs_ray.data.rounding import RoundedPixels
from srs_ray.data.settings import DataSettings
from srs_ray.errors import DataError


def open_data(
    section: DataSettings, input_shape: tuple[int, int, int], class_count: int | None = None, download: bool = False
) -> PointDataset:
    """The data set that the section names, its images as a model with this input (channels, height, width) takes them.

    All of its points: start, stop and every are for `point_indices`. `download` fetches the data into `path` if it is
    not there yet. `class_count` is how many classes the model tells apart: a data set with another class list is
    refused, and a label beyond it makes its point a PointError. Raises DataError if there is no such data set, or it is
    not what was asked for.
    """
    try:
        kind = kind_named(section.kind)
    except ValueError as error:
        raise DataError(f"data kind is {section.kind!r}: {error}") from None
    if kind.channels is not None and input_shape[0] not in kind.channels:
        raise DataError(
            f"the model takes {input_shape[0]} channels: images of kind {kind.name} can be given to models with "
            f"{' or '.join(map(str, kind.channels))}"
        )
    if download and not kind.downloads:
        able = " and ".join(other.name for other in KINDS.values() if other.downloads)
        raise DataError(f"data kind {kind.name} cannot be downloaded, only {able} can: leave download out")
    dataset = kind.open(section, input_shape, class_count, download)
    if class_count is not None and dataset.class_count != class_count:
        raise DataError(
            f"the {section.import_ or kind.name} data has {dataset.class_count} classes, the model tells {class_count} "
            "apart: choose the data the model was trained on"
        )
    return RoundedPixels(dataset) if section.pixels == "rounded" else dataset


def open_dataset(
    kind: str,
    path: str | os.PathLike[str] | None,
    split: str | None,
    input_shape: tuple[int, int, int],
    download: bool = False,
    class_count: int | None = None,
) -> PointDataset:
    """`open_data` for a kind that a path and a split are all there is to say of. Raises DataError as it does."""
    place = None if path is None else os.fspath(path)
    # Unvalidated: what is wrong is a DataError of the opening here, not one of a job's section.
    section = DataSettings.model_construct(kind=kind, path=place, split=split)
    return open_data(section, input_shape, class_count, download)
