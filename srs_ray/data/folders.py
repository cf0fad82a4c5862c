"""Images in one folder per class: any such folder, and ImageNet."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from torch import Tensor
from torchvision.datasets import ImageFolder

from srs_ray.data.images import decode, preprocessing_name
from srs_ray.data.points import class_list_digest, digest
from srs_ray.errors import DataError, PointError

IMAGENET_CLASSES = 1000


class FolderImages:
    """The images under `root`, one folder per class, as torchvision's ImageFolder orders them: classes by name, then
    files by path. Labels are the positions of the class names in that order. Raises DataError if there are none."""

    def __init__(self, kind: str, root: Path, split: str | None, input_shape: tuple[int, int, int]) -> None:
        self._kind = kind
        self._split = split or ""
        self._root = root
        self._input_shape = input_shape
        try:
            folder = ImageFolder(str(root))
        except OSError as error:
            raise DataError(f"{root} does not hold one folder of images per class: {error}") from error
        above = os.path.join(root, "")
        self._files = [file.removeprefix(above).replace(os.sep, "/") for file, _ in folder.samples]
        self._labels = folder.targets
        self._classes = folder.classes

    def __len__(self) -> int:
        return len(self._files)

    @property
    def class_count(self) -> int:
        """The number of class folders."""
        return len(self._classes)

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """See `PointDataset.identity`; the content digest is over the ordered files' names and labels, not their bytes:
        reading all of ImageNet would take longer than many a run."""
        listing = (f"{label} {file}\0" for label, file in zip(self._labels, self._files, strict=True))
        return {
            "kind": self._kind,
            "split": self._split,
            "points": len(self),
            "classes": class_list_digest(self._classes),
            "content": digest(entry.encode("utf-8", "surrogateescape") for entry in listing),
            "preprocessing": preprocessing_name(self._input_shape),
        }

    def label(self, index: int) -> int:
        """The position of the image's folder among the class folders, sorted by name."""
        return self._labels[index]

    def image(self, index: int) -> Tensor:
        """x_CHW, float32 in [0, 1]."""
        try:
            encoded = (self._root / self._files[index]).read_bytes()
        except OSError as error:
            raise PointError(f"{self.name(index)}: cannot be read ({error.strerror})") from error
        return decode(encoded, self._input_shape, self.name(index))

    def name(self, index: int) -> str:
        """Such as 'val/n01440764/n01440764_tench.JPEG'."""
        return f"{self._root.name}/{self._files[index]}"


def open_image_folder(path: Path, split: str | None, input_shape: tuple[int, int, int]) -> FolderImages:
    """The images in path/<split>, or in `path` without a split. Raises DataError if there is no such folder.

    A split that is not there is refused: `path` itself would then pass its other splits off as classes.
    """
    root = path / split if split else path
    if not root.is_dir():
        raise DataError(f"no folder {root}: name one that holds a folder of images per class" + _without(split))
    return FolderImages("imagefolder", root, split, input_shape)


def _without(split: str | None) -> str:
    return ", or leave split out if path is that folder" if split else ""


def open_imagenet(path: Path, split: str, input_shape: tuple[int, int, int]) -> FolderImages:
    """ImageNet (ILSVRC 2012): 1,000 folders named by WordNet id in path/<split>, or in `path` itself; labels in sorted
    order of the ids. Raises DataError, saying what was found, for anything else."""
    root = path / split if (path / split).is_dir() else path
    if not root.is_dir():
        raise DataError(f"no ImageNet at {path}: give a folder that holds {split}/n01440764 and the other classes")
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    strange = [name for name in folders if not re.fullmatch(r"n\d{8}", name)]
    if len(folders) != IMAGENET_CLASSES or strange:
        found = f"{len(folders)} folders" + (
            f", {len(strange)} named otherwise, such as {strange[0]!r}" if strange else ""
        )
        raise DataError(
            f"{root} is not ImageNet: it holds {found}; expected {IMAGENET_CLASSES:,} named like n01440764, "
            f"there or in {split}/ (for other classes: kind imagefolder)"
        )
    return FolderImages("imagenet", root, split, input_shape)
