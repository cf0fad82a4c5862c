"""Opening a data set by its kind."""

from __future__ import annotations

import os
from pathlib import Path

from srs_ray.data.points import PointDataset
from srs_ray.errors import DataError

KINDS = ("cifar10", "imagenet", "imagefolder", "parquet", "digits")


def open_dataset(
    kind: str,
    path: str | os.PathLike[str] | None,
    split: str | None,
    input_shape: tuple[int, int, int],
    download: bool = False,
    class_count: int | None = None,
) -> PointDataset:
    """The data set of that kind, its images as a model with this input (channels, height, width) takes them.

    `split` None is the kind's own: test for cifar10 and digits, val for imagenet; the others have none. `download`
    fetches CIFAR-10 into `path` if it is not there yet. `class_count` is how many classes the model tells apart: a data
    set with another class list is refused, and a Parquet label beyond it makes that point a PointError. Raises
    DataError if there is no such data set, or it is not what was asked for.
    """
    # Imports are local so that a kind's library (torchvision, scikit-learn, pyarrow) is only loaded where it is used.
    if input_shape[0] not in (1, 3):
        raise DataError(f"the model takes {input_shape[0]} channels: images can be given to models with 1 or 3")
    if download and kind != "cifar10":
        raise DataError(f"data kind {kind} cannot be downloaded, only cifar10 can: leave download out")
    dataset: PointDataset
    if kind == "digits":
        from srs_ray.data.digits import Digits

        dataset = Digits(split or "test", input_shape)
    elif kind == "cifar10":
        from srs_ray.data.cifar10 import Cifar10

        dataset = Cifar10(_path(kind, path), split or "test", input_shape, download)
    elif kind == "imagenet":
        from srs_ray.data.folders import open_imagenet

        dataset = open_imagenet(_path(kind, path), split or "val", input_shape)
    elif kind == "imagefolder":
        from srs_ray.data.folders import open_image_folder

        dataset = open_image_folder(_path(kind, path), split, input_shape)
    elif kind == "parquet":
        from srs_ray.data.parquet import ParquetImages

        if split is not None:
            raise DataError(
                f"split is {split!r}, but a Parquet file has no splits: name the file to use, without split"
            )
        dataset = ParquetImages(_path(kind, path), input_shape, class_count)
    else:
        raise DataError(f"data kind is {kind!r}: expected one of {', '.join(KINDS)}")
    if class_count is not None and dataset.class_count != class_count:
        raise DataError(
            f"the {kind} data has {dataset.class_count} classes, the model tells {class_count} apart: "
            "choose the data the model was trained on"
        )
    return dataset


def _path(kind: str, path: str | os.PathLike[str] | None) -> Path:
    if path is None:
        raise DataError(f"data kind {kind} needs a path: say where the data lies")
    return Path(path).expanduser()
