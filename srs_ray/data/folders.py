"""Images in one folder per class."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from srs_ray.data.images import LARGEST_FILE, decode, preprocessing_name
from srs_ray.data.kind import Kind
from srs_ray.data.listing import NAMES_SHOWN, Listing, conspicuous_names, list_images
from srs_ray.data.points import class_label, class_list_digest, digest
from srs_ray.errors import DataError, PointError
from srs_ray.regular_files import open_regular, read_regular

if TYPE_CHECKING:
    from torch import Tensor

    from srs_ray.data.settings import DataSettings

log = logging.getLogger(__name__)

FILES_READ = 64
_BYTES_AT_ONCE = 2**20
"""So many files, evenly spaced, are read whole for the digest `sample`; of the others the size alone is looked at."""


class FolderImages:
    """The images under `root`, one folder per class, as torchvision's ImageFolder orders them: classes by name, then
    files by path. Hidden and machine-made entries and everything that is no file are left out, with a warning.

    Labels are the positions of the class names in that order, or in `classes`, which then has the names of exactly
    these folders. Raises DataError for anything else, and, without `classes`, where all names are whole numbers that
    the order of text would put in another order than that of numbers, or, without `split` too, where the folders look
    like splits.
    """

    def __init__(
        self,
        kind: str,
        root: Path,
        split: str,
        input_shape: tuple[int, int, int],
        classes: Sequence[str] | None = None,
    ) -> None:
        self._kind = kind
        self._split = split
        self._root = root
        self._input_shape = input_shape
        listing = list_images(root)
        if classes is None:
            _refuse_numbers_out_of_order(root, listing.classes)
            if not split:
                _refuse_splits(root, listing)
        else:
            _refuse_other_names(root, listing.classes, classes)
        self.class_names: tuple[str, ...] = tuple(classes or listing.classes)
        label_of = {name: label for label, name in enumerate(self.class_names)}
        self._files = listing.files
        self._labels = [label_of[file.partition("/")[0]] for file in listing.files]
        if listing.left_out:
            _tell_once(str(root), len(listing.left_out), listing.left_out[0])

    def __len__(self) -> int:
        return len(self._files)

    @property
    def class_count(self) -> int:
        """The number of class folders."""
        return len(self.class_names)

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """See `PointDataset.identity`. `content` is a digest of the ordered files' names and labels; `sample` one of
        the sizes of all files and the bytes of FILES_READ evenly spaced ones: reading all of ImageNet would take longer
        than many a run."""
        listing = (f"{label} {file}\0" for label, file in zip(self._labels, self._files, strict=True))
        return {
            "kind": self._kind,
            "split": self._split,
            "points": len(self),
            "classes": class_list_digest(self.class_names),
            "content": digest(entry.encode("utf-8", "surrogateescape") for entry in listing),
            "sample": self._sample_digest(),
            "preprocessing": preprocessing_name(self._input_shape),
        }

    def label(self, index: int) -> int:
        """The position of the image's folder among the class names."""
        return class_label(self._labels[index], self.class_count, self.name(index))

    def image(self, index: int) -> Tensor:
        """x_CHW, float32 in [0, 1]."""
        try:
            encoded = read_regular(self._root / self._files[index], LARGEST_FILE)
        except OSError as error:
            raise PointError(f"{self.name(index)}: cannot be read ({error.strerror})") from error
        return decode(encoded, self._input_shape, self.name(index))

    def name(self, index: int) -> str:
        """Such as 'val/n01440764/n01440764_tench.JPEG'."""
        return f"{self._root.name}/{self._files[index]}"

    def modified_at(self, index: int) -> float | None:
        """When the image's file was last modified, in seconds since the epoch; None if it cannot be told."""
        try:
            return os.stat(self._root / self._files[index]).st_mtime
        except OSError:
            return None

    def _sample_digest(self) -> str:
        count = min(FILES_READ, len(self))
        read = {number * len(self) // count for number in range(count)}
        total = hashlib.sha256()
        for index, file in enumerate(self._files):
            path = self._root / file
            total.update(f"{_size_of(path)} ".encode())
            if index in read:
                total.update(_bytes_digest(path).encode())
        return total.hexdigest()


def open_image_folder(
    path: Path, split: str, input_shape: tuple[int, int, int], classes: Sequence[str] | None = None
) -> FolderImages:
    """The images in path/<split>, or in `path` itself where `split` is ''. Raises DataError if there is no such folder.

    A split that is not there is refused: `path` itself would then pass its other splits off as classes.
    """
    root = path / split if split else path
    if not os.path.isdir(root):
        raise DataError(f"no folder {root}: name one that holds a folder of images per class" + _without(split))
    return FolderImages("imagefolder", root, split, input_shape, classes)


@lru_cache(maxsize=64)
def _tell_once(root: str, count: int, first: str) -> None:
    """A driver and its workers open the same data, often in one process."""
    log.warning(
        "%s: left out %d hidden or machine-made entries, pipes, devices or links that loop, such as %a",
        root,
        count,
        first,
    )


def _without(split: str) -> str:
    return ", or leave split out if path is that folder" if split else ""


def _refuse_numbers_out_of_order(root: Path, names: Sequence[str]) -> None:
    if not all(name.isascii() and name.isdecimal() for name in names):
        return
    by_number = sorted(names, key=int)
    if list(names) == by_number:
        return
    place = next(place for place, pair in enumerate(zip(names, by_number, strict=True)) if pair[0] != pair[1])
    raise DataError(
        f"{root}: the class folders are named by whole numbers, and sorted as text {names[place]} comes where "
        f"{by_number[place]} comes as a number, so labels would be mixed up: set data.classes to the names in the "
        f"order of the model's classes ([{', '.join(by_number[:3])}, ...], or a file with one name a line), or rename "
        "the folders with leading zeros"
    )


def _refuse_splits(root: Path, listing: Listing) -> None:
    """Raises DataError where no class folder holds an image of its own, and all hold the same folders, at least two."""
    within: dict[str, set[str]] = {name: set() for name in listing.classes}
    for file in listing.files:
        name, first, *deeper = file.split("/", 2)
        if not deeper:
            return
        within[name].add(first)
    same = within[listing.classes[0]]
    if len(same) > 1 and all(folders == same for folders in within.values()):
        raise DataError(
            f"{root}: {_some(listing.classes)} hold no image of their own, and all the same folders "
            f"({_some(sorted(same))}), so they look like splits, not classes: name one of them by data.split, or, if "
            "they are classes, all of them by data.classes"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _refuse_other_names(root: Path, found: Sequence[str], classes: Sequence[str]) -> None:
    missing = [name for name in classes if name not in found]
    extra = [name for name in found if name not in classes]
    if missing or extra:
        faults = [
            f"{what} {', '.join(map(repr, names[:8]))}" for what, names in (("no", missing), ("also", extra)) if names
        ]
        raise DataError(
            f"{root} holds {' and '.join(faults)}, while data.classes names {len(classes)} classes: name each folder "
            "there once, in the order of the model's classes"
        )


def _size_of(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _bytes_digest(path: Path) -> str:
    total = hashlib.sha256()
    try:
        with open_regular(path) as file:
            for chunk in iter(lambda: file.read(_BYTES_AT_ONCE), b""):
                total.update(chunk)
        return total.hexdigest()
    except OSError:
        return "unreadable"


def _open(
    section: DataSettings, input_shape: tuple[int, int, int], class_count: int | None, download: bool
) -> FolderImages:
    path, split = KIND.path_of(section), KIND.split_of(section)
    dataset = open_image_folder(path, split, input_shape, section.classes)
    if class_count is not None and dataset.class_count > class_count:
        named = conspicuous_names(dataset.class_names)
        raise DataError(
            f"the imagefolder data has {dataset.class_count} classes, the model tells {class_count} apart: choose the "
            f"data the model was trained on, or remove the folder that is no class{f' ({named})' if named else ''}"
        )
    return dataset


KIND = Kind("imagefolder", _open, takes=("split", "classes"))
