"""Storage: a folder, local or on any filesystem that pyarrow opens, in which a file appears whole or not at all."""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as fs

from srs_ray.errors import RunDirectoryError

_TEMPORARY_PREFIX = ".srs-ray-"  # a leading dot: readers of Parquet folders (pandas, pyarrow) skip such names


class Storage:
    """A folder on a filesystem where a finished upload is durable and appears at once, as in an object store.

    Names are relative to the folder, with slashes. Methods raise OSError (FileNotFoundError where a name is gone).
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, location: str) -> None:
        """`location` is what the user called the folder, for messages."""
        self.location = location
        self._filesystem = filesystem
        self._root = root
        self._files = fs.SubTreeFileSystem(root, filesystem)

    def where(self, name: str) -> str:
        """The place of `name` as the user would write it."""
        return f"{self.location.rstrip('/')}/{name}"

    def list_files(self, folder: str) -> list[str]:
        """Base names of the files in a folder, sorted; none if there is no such folder."""
        return sorted(info.base_name for info in self._list(folder) if info.type == fs.FileType.File)

    def is_unused(self) -> bool:
        """Whether the root is absent or empty, what an interrupted `put` left aside."""
        return all(info.base_name.startswith(_TEMPORARY_PREFIX) for info in self._list(""))

    def read(self, name: str) -> pa.Buffer:
        """The whole file."""
        with self._files.open_input_file(name) as file:
            return file.read_buffer()

    def put(self, name: str, data: bytes | pa.Buffer) -> None:
        """Make or replace a file: on return it is durable, and nobody ever sees a part of it."""
        with self._files.open_output_stream(name) as stream:  # an object store shows the object when it is closed
            stream.write(data)

    def make_folder(self, name: str) -> None:
        """Make a folder and those above it, unless they exist."""
        self._filesystem.create_dir(f"{self._root}/{name}".rstrip("/"), recursive=True)

    def set_aside(self, name: str, folder: str) -> str:
        """Move a file into a folder, beside whatever is there already, and return its new name."""
        self.make_folder(folder)
        base_name = name.rpartition("/")[2]
        moved = f"{folder}/{base_name}"
        if self._files.get_file_info(moved).type != fs.FileType.NotFound:
            moved = f"{folder}/{uuid.uuid4().hex}-{base_name}"
        self._files.move(name, moved)
        return moved

    def sweep_temporaries(self, folder: str, older_than_seconds: float) -> None:
        """Delete what interrupted writes left in a folder. An object store keeps no such files where we see them."""

    def _list(self, folder: str) -> list[fs.FileInfo]:
        return self._files.get_file_info(fs.FileSelector(folder, allow_not_found=True))


class LocalStorage(Storage):
    """A folder of a mounted filesystem: a file is written under another name, synced, renamed, its folder synced."""

    def __init__(self, root: str | os.PathLike[str], location: str) -> None:
        """`location` is what the user called the folder, for messages."""
        self._folder = Path(root).absolute()
        super().__init__(fs.LocalFileSystem(), str(self._folder), location)

    def put(self, name: str, data: bytes | pa.Buffer) -> None:
        """Make or replace a file: on return it is durable, and nobody ever sees a part of it."""
        target = self._folder / name
        temporary = target.with_name(f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)

    def make_folder(self, name: str) -> None:
        """Make a folder and those above it, unless they exist; each is synced into the one above."""
        folder = self._folder / name
        absent = []
        while not folder.is_dir():
            absent.append(folder)
            folder = folder.parent
        for folder in reversed(absent):
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)

    def sweep_temporaries(self, folder: str, older_than_seconds: float) -> None:
        """Delete what interrupted writes left in a folder; younger ones may be another process's at work."""
        for info in self._list(folder):
            if not info.base_name.startswith(_TEMPORARY_PREFIX) or info.type != fs.FileType.File:
                continue
            if time.time() - info.mtime_ns / 1e9 > older_than_seconds:
                with suppress(FileNotFoundError):  # swept by another process
                    (self._folder / folder / info.base_name).unlink()


def open_storage(path: str | os.PathLike[str]) -> Storage:
    """Storage at a local path, or at a URI of a filesystem that pyarrow knows; nothing is created or checked.

    Raises RunDirectoryError where pyarrow cannot open the URI.
    """
    location = os.fspath(path)
    if "://" not in location:
        return LocalStorage(location, location)
    try:
        filesystem, root = fs.FileSystem.from_uri(location)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{location}: not a place that pyarrow can open ({error}); give a local path or a URI such as s3://..."
        ) from error
    if isinstance(filesystem, fs.LocalFileSystem):
        return LocalStorage(root, location)
    return Storage(filesystem, root, location)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, as fsync on the files alone does not (POSIX)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
