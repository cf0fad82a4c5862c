"""Lists the images of a folder that holds one folder per class; other files are left out."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srs_ray.errors import DataError

# As torchvision's ImageFolder has them.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# What file servers, archives, trash cans and interpreters put beside a user's files; hidden names begin with a dot.
MACHINE_MADE = frozenset(
    name.casefold()
    for name in (
        "@eaDir",
        "@tmp",
        "@Recycle",
        "@Recently-Snapshot",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "Network Trash Folder",
        "Temporary Items",
        "__MACOSX",
        "__pycache__",
        "Thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    )
)
NAMES_SHOWN = 20


@dataclass
class Listing:
    """Class folders by name; images as `class/.../file`, by class and then by path; and what was left out of them."""

    classes: list[str]
    files: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def is_data(name: str) -> bool:
    """Whether a file or folder of that name may belong to a data set: it is neither hidden nor made by a machine."""
    return not name.startswith(".") and name.casefold() not in MACHINE_MADE


def list_classes(root: Path) -> Listing:
    """The class folders under `root` alone, without their images, and what was left out beside them.

    Raises DataError where it cannot be read.
    """
    found = Listing([])
    itself = _identity_of(root)
    for entry in _entries(root):
        if not _is_folder(entry):
            continue
        if is_data(entry.name) and _identity_of(entry) != itself:
            found.classes.append(entry.name)
        else:
            found.left_out.append(entry.name)
    return found


def list_images(root: Path) -> Listing:
    """The images under `root`, in the order of torchvision's ImageFolder, whatever order the file system has.

    Hidden and machine-made entries are left out at every depth, and so are pipes, sockets and devices. Links are
    followed, but within a class each folder counts once, by the first path in order that leads to it; those that lead
    to the root are left out. Raises DataError where there is no class, a class has
    no image, or a folder cannot be read.
    """
    found = list_classes(root)
    itself = _identity_of(root)
    if not found.classes:
        raise DataError(f"{root} does not hold one folder of images per class: it has no folder")
    empty = []
    for name in found.classes:
        before = len(found.files)
        for folder, files in sorted(_walk(root, name, {itself}, found.left_out)):
            found.files += [f"{folder}/{file}" for file in files]
        if len(found.files) == before:
            empty.append(name)
    if empty:
        raise DataError(
            f"{root} does not hold one folder of images per class: no image in {', '.join(empty[:NAMES_SHOWN])} "
            f"(images end in {', '.join(EXTENSIONS)}): remove folders that are no classes, or add their images"
        )
    return found


def conspicuous_names(names: Sequence[str]) -> str:
    """In words, the names written unlike all others (n01440764, n01443537, ..., extra), or all of a few names, or ''.

    Letters count as one another, and so do digits.
    """
    shapes = [re.sub(r"\d+", "0", re.sub(r"[^\W\d_]+", "a", name)) for name in names]
    odd = [name for name, shape in zip(names, shapes, strict=True) if shapes.count(shape) == 1]
    if odd and len(odd) <= len(names) // 2:
        return f"unlike the others: {', '.join(odd[:NAMES_SHOWN])}"
    return f"there are {', '.join(names)}" if len(names) <= NAMES_SHOWN else ""


def _walk(root: Path, folder: str, seen: set[tuple[int, int]], left_out: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `folder` down that is not among `seen`, by its path from `root`, with the names of its images in
    order."""
    path = root / folder
    seen.add(_identity_of(path))
    files = []
    for entry in _entries(path):
        place = f"{folder}/{entry.name}"
        is_folder = _is_folder(entry)
        if not is_folder and not entry.name.lower().endswith(EXTENSIONS):
            continue
        if not is_data(entry.name) or (_identity_of(entry) in seen if is_folder else _is_special(entry)):
            left_out.append(place)
        elif is_folder:
            yield from _walk(root, place, seen, left_out)
        else:
            files.append(entry.name)
    yield folder, files


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, a socket or a device: to read one may never end. A link that leads nowhere is none."""
    try:
        return not entry.is_file() and not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _identity_of(place: Path | os.DirEntry[str]) -> tuple[int, int]:
    """What tells a folder from all others, by whichever link it is reached."""
    try:
        status = os.stat(place)
    except OSError as error:
        raise DataError(f"the folder {os.fspath(place)} cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino
