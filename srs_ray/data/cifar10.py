"""CIFAR-10 in its authors' own files (Krizhevsky 2009), in torchvision's layout on disk."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from srs_ray.data.images import preprocessing_name, to_input
from srs_ray.data.kind import Kind
from srs_ray.data.points import class_label, class_list_digest, digest
from srs_ray.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from srs_ray.data.settings import DataSettings


class Cifar10:
    """One split, train or test, of CIFAR-10: 50,000 training or 10,000 test images of 32x32."""

    def __init__(self, path: Path, split: str, input_shape: tuple[int, int, int], download: bool) -> None:
        from torchvision.datasets import CIFAR10

        if input_shape[1:] != (32, 32):
            raise DataError(f"CIFAR-10 images are 32x32, the model takes {input_shape[2]}x{input_shape[1]}")
        self._split = split
        self._input_shape = input_shape
        try:
            self._files = CIFAR10(root=str(path), train=split == "train", download=download)
        except (RuntimeError, OSError) as error:  # torchvision: missing or damaged; no connection, no space
            raise DataError(_what_is_missing(path / CIFAR10.base_folder, error, download)) from error

    def __len__(self) -> int:
        return len(self._files)

    @property
    def class_count(self) -> int:
        """Ten classes."""
        return len(self._files.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """airplane to truck."""
        return tuple(self._files.classes)

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """See `PointDataset.identity`; the content digest is over pixels and labels."""
        return {
            "kind": "cifar10",
            "split": self._split,
            "points": len(self),
            "classes": class_list_digest(self._files.classes),
            "content": digest([self._files.data.tobytes(), np.asarray(self._files.targets, "<i8").tobytes()]),
            "preprocessing": preprocessing_name(self._input_shape),
        }

    def label(self, index: int) -> int:
        """The class, 0 (airplane) to 9 (truck). Raises PointError if the files say anything else."""
        return class_label(self._files.targets[index], self.class_count, self.name(index))

    def image(self, index: int) -> Tensor:
        """x_CHW, float32 in [0, 1]."""
        return to_input(Image.fromarray(self._files.data[index]), self._input_shape, self.name(index))

    def name(self, index: int) -> str:
        """Such as 'CIFAR-10 test image 17'."""
        return f"CIFAR-10 {self._split} image {index}"


def _what_is_missing(folder: Path, error: Exception, download: bool) -> str:
    if download:
        return f"CIFAR-10 could not be downloaded into {folder}: {error}"
    if folder.is_dir():
        return f"CIFAR-10 in {folder} is incomplete or damaged: remove that folder and fetch it again with --download"
    return f"no CIFAR-10 at {folder}: give the folder that holds {folder.name}, or fetch it with --download"


def _open(section: DataSettings, input_shape: tuple[int, int, int], class_count: int | None, download: bool) -> Cifar10:
    return Cifar10(KIND.path_of(section), KIND.split_of(section), input_shape, download)


KIND = Kind("cifar10", _open, takes=("split",), splits=("train", "test"), default_split="test", downloads=True)
