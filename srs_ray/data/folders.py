"""Images in one folder per class."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from srs_ray.data.images import decode, preprocessing_name
from srs_ray.data.kind import Kind
from srs_ray.data.points import class_label, class_list_digest, digest
from srs_ray.errors import DataError, PointError

if TYPE_CHECKING:
    from srs_ray.data.settings import DataSettings


class FolderImages:
    """The images under `root`, one folder per class, as torchvision's ImageFolder orders them: classes by name, then
    files by path. Labels are the positions of the class names in that order. Raises DataError if there are none."""

    def __init__(self, kind: str, root: Path, split: str, input_shape: tuple[int, int, int]) -> None:
        from torchvision.datasets import ImageFolder

        self._kind = kind
        self._split = split
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
        return class_label(self._labels[index], self.class_count, self.name(index))

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


def open_image_folder(path: Path, split: str, input_shape: tuple[int, int, int]) -> FolderImages:
    """The images in path/<split>, or in `path` itself where `split` is ''. Raises DataError if there is no such folder.

    A split that is not there is refused: `path` itself would then pass its other splits off as classes.
    """
    root = path / split if split else path
    if not root.is_dir():
        raise DataError(f"no folder {root}: name one that holds a folder of images per class" + _without(split))
    return FolderImages("imagefolder", root, split, input_shape)


def _without(split: str) -> str:
    return ", or leave split out if path is that folder" if split else ""


def _open(
    section: DataSettings, input_shape: tuple[int, int, int], class_count: int | None, download: bool
) -> FolderImages:
    return open_image_folder(KIND.path_of(section), KIND.split_of(section), input_shape)


KIND = Kind("imagefolder", _open, takes=("split",))
