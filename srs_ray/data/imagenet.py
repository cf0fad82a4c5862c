"""ImageNet (ILSVRC 2012) in its 1,000 class folders."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from srs_ray.data.folders import FolderImages
from srs_ray.data.kind import Kind
from srs_ray.data.listing import list_classes
from srs_ray.errors import DataError

if TYPE_CHECKING:
    from srs_ray.data.settings import DataSettings

IMAGENET_CLASSES = 1000


def open_imagenet(path: Path, split: str, input_shape: tuple[int, int, int]) -> FolderImages:
    """ImageNet (ILSVRC 2012): 1,000 folders named by WordNet id in path/<split>, or in `path` itself; labels in sorted
    order of the ids. Hidden and machine-made entries are left out. Raises DataError, saying what was found, for
    anything else."""
    root = path / split if os.path.isdir(path / split) else path
    if not os.path.isdir(root):
        raise DataError(f"no ImageNet at {path}: give a folder that holds {split}/n01440764 and the other classes")
    folders = list_classes(root).classes
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


def _open(
    section: DataSettings, input_shape: tuple[int, int, int], class_count: int | None, download: bool
) -> FolderImages:
    return open_imagenet(KIND.path_of(section), KIND.split_of(section), input_shape)


KIND = Kind("imagenet", _open, takes=("split",), default_split="val")
