"""Storage: a folder, local or on any filesystem that pyarrow opens, in which a file appears whole or not at all."""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as fs

from srs_ray.errors import RunDirectoryError
from srs_ray.regular_files import open_regular
from srs_ray.runs.printable import printable
from srs_ray.settings import home_expanded

_NAMELESS = ""  # what a file is called here whose name is not UTF-8: none of ours
_TEMPORARY_PREFIX = ".srs-ray-"  # a leading dot: readers of Parquet folders (pandas, pyarrow) skip such names
_S3_PATIENCE = {"connect_timeout": 5.0, "request_timeout": 10.0}  # seconds without an answer, for each attempt
_S3_ATTEMPTS = 4
_LOCK_PATIENCE, _LOCK_PAUSE = 20.0, 0.02  # seconds
# What pyarrow takes in the query of a URI, less all that is or may be a credential (signatures and tokens among them).
_S3_OPTIONS = (
    "region",
    "scheme",
    "endpoint_override",
    "allow_bucket_creation",
    "allow_bucket_deletion",
    "allow_delayed_open",
    "tls_ca_file_path",
    "tls_ca_dir_path",
    "tls_verify_certificates",
)
_GCS_OPTIONS = ("scheme", "endpoint_override", "retry_limit_seconds", "project_id")
_AZURE_OPTIONS = (
    "blob_storage_authority",
    "dfs_storage_authority",
    "blob_storage_scheme",
    "dfs_storage_scheme",
    "enable_tls",
    "tenant_id",
    "client_id",
)
_HDFS_OPTIONS = ("user", "replication", "buffer_size", "default_block_size", "kerb_ticket")
_OPTIONS = {
    "s3": _S3_OPTIONS,
    **dict.fromkeys(("gs", "gcs"), _GCS_OPTIONS),
    **dict.fromkeys(("abfs", "abfss"), _AZURE_OPTIONS),
    **dict.fromkeys(("hdfs", "viewfs"), _HDFS_OPTIONS),
    **dict.fromkeys(("file", "local"), ("use_mmap",)),
}
_SECRET_OPTION = re.compile("key|secret|token|password", re.IGNORECASE)


class FileTooLargeError(OSError):
    """A file is larger than any of its kind."""


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
        """The place of `name` as the user would write it, without the options of a URI, for messages."""
        folder = self.location.partition("?")[0] if "://" in self.location else self.location
        return printable(f"{folder.rstrip('/')}/{name}")

    def file_sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by base name; none if there is no such folder.

        A file that is made or deleted meanwhile may be among them or not.
        """
        return {_name_of(info): info.size for info in self._list(folder) if info.type == fs.FileType.File}

    def is_unused(self, but_for: str) -> bool:
        """Whether the root is absent or empty, that file and what an interrupted `put` left aside."""
        names = [_name_of(info) for info in self._list("")]
        return all(name == but_for or name.startswith(_TEMPORARY_PREFIX) for name in names)

    def beside(self) -> list[str]:
        """The other folders in the folder that holds this one, as the user would write them; none that cannot be
        listed."""
        parent, _, own = self._root.rstrip("/").rpartition("/")
        try:
            found = self._filesystem.get_file_info(fs.FileSelector(parent or "/", allow_not_found=True))
        except OSError:
            return []
        place, mark, options = self.location.partition("?") if "://" in self.location else (self.location, "", "")
        above = place.rstrip("/").removesuffix(own)
        names = {_name_of(info) for info in found if info.type == fs.FileType.Directory} - {own, _NAMELESS}
        return [f"{above}{name}{mark}{options}" for name in sorted(names)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes that lock this folder out, where the filesystem can: an object store cannot."""
        yield

    def is_link(self, name: str) -> bool:
        """Whether a name stands for a file or folder elsewhere; an object store has no such names."""
        return False

    def read(self, name: str, at_most: int | None = None) -> pa.Buffer:
        """The whole file. FileTooLargeError, with nothing read, where it has more bytes than `at_most`."""
        with self._files.open_input_file(name) as file:
            if at_most is not None and file.size() > at_most:
                raise FileTooLargeError(f"it has {file.size():,} bytes, expected at most {at_most:,}")
            try:
                return file.read_buffer()
            except OSError as error:  # an object deleted after it was opened is reported like any other failure
                if self._files.get_file_info(name).type == fs.FileType.NotFound:
                    raise FileNotFoundError(f"{self.where(name)} is gone") from error
                raise

    def put(self, name: str, data: bytes | pa.Buffer) -> None:
        """Make or replace a file: on return it is durable, and nobody ever sees a part of it."""
        # The object appears when the stream is closed, and pyarrow closes it after an exception too. So the upload is
        # in a thread, where no Ctrl-C comes between opening and writing; a request that fails makes closing fail.
        # Should a store still keep the beginning of a part, it is no whole Parquet file: damaged, and quarantined.
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(self._upload, name, data).result()

    def delete(self, name: str) -> None:
        """Delete a file, unless it is gone already."""
        with suppress(FileNotFoundError):
            self._files.delete_file(name)

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

    def _upload(self, name: str, data: bytes | pa.Buffer) -> None:
        with self._files.open_output_stream(name) as stream:
            stream.write(data)

    def _list(self, folder: str) -> list[fs.FileInfo]:
        return self._files.get_file_info(fs.FileSelector(folder, allow_not_found=True))


class LocalStorage(Storage):
    """A folder of a mounted filesystem: a file is written under another name, synced, renamed, its folder synced."""

    def __init__(self, root: str | os.PathLike[str], location: str) -> None:
        """`location` is what the user called the folder, for messages."""
        self._folder = Path(root).absolute()
        super().__init__(fs.LocalFileSystem(), str(self._folder), location)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes that lock this folder out; the system ends a lock with the process that has it.

        OSError where another has it for longer than srs-ray ever does: whoever may read a folder may lock it.
        """
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)

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

    def read(self, name: str, at_most: int | None = None) -> pa.Buffer:
        """The whole file, if it is a regular one. FileTooLargeError where it has more bytes than `at_most`."""
        with open_regular(self._folder / name):
            pass  # pyarrow would wait for somebody to write into a pipe
        return super().read(name, at_most)

    def is_link(self, name: str) -> bool:
        """Whether a name stands for a file or folder elsewhere."""
        return (self._folder / name).is_symlink()

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
            if not _name_of(info).startswith(_TEMPORARY_PREFIX) or info.type != fs.FileType.File:
                continue
            if time.time() - info.mtime_ns / 1e9 > older_than_seconds:
                with suppress(FileNotFoundError):  # swept by another process
                    (self._folder / folder / _name_of(info)).unlink()


def open_storage(path: str | os.PathLike[str]) -> Storage:
    """Storage at a local path (~ is the home directory), or at a URI of a filesystem that pyarrow knows.

    Nothing is created or checked. Credentials come from where pyarrow looks for them (the environment, ~/.aws), never
    from the URI. The endpoint of an S3-compatible store comes from AWS_ENDPOINT_URL or the URI
    (?endpoint_override=host:port&scheme=http).
    Raises RunDirectoryError where pyarrow cannot open the URI, or it carries credentials, and for a path that is not
    UTF-8 or names a home directory that there is not.
    """
    location = os.fspath(path)
    if "://" not in location:
        return _local_storage(location)
    check_no_credentials(location)
    try:
        filesystem, root = fs.FileSystem.from_uri(location)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{location}: not a place that pyarrow can open ({error}); give a local path or a URI such as s3://..."
        ) from error
    if isinstance(filesystem, fs.LocalFileSystem):
        return LocalStorage(root, location)
    if filesystem.type_name == "s3":
        filesystem = _less_patient(filesystem)
    return Storage(filesystem, root, location)


def _local_storage(location: str) -> LocalStorage:
    if location.startswith("~"):
        location = str(home_expanded(location, RunDirectoryError))
    try:
        str(Path(location).absolute()).encode()
    except UnicodeEncodeError as error:
        raise RunDirectoryError(
            f"{location}: a run cannot lie at a path that is not UTF-8; choose another output, or rename the folder"
        ) from error
    return LocalStorage(location, location)


def _less_patient(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same S3 filesystem, giving a silent store up in a minute: from a URI, it would take some for each request."""
    # To be ended first of all: ended after Ray's threads, it now and then crashed a process at its exit.
    atexit.unregister(fs.ensure_s3_finalized)
    atexit.register(fs.ensure_s3_finalized)
    rebuild, (options,) = filesystem.__reduce__()  # as pickling does: all that the URI and the environment said
    strategy = fs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS)
    return rebuild({**options, **_S3_PATIENCE, "retry_strategy": strategy})


def check_no_credentials(uri: str) -> None:
    """Raise RunDirectoryError, without repeating them, where a URI holds what may be credentials."""
    parts = urlsplit(uri)
    user = parts.netloc.rpartition("@")[0]
    port = parts.netloc.rpartition("@")[2].partition(":")[2]
    options = unquote(parts.query)
    if (
        (user and (parts.scheme == "s3" or ":" in user))
        or not (port.isdigit() or not port)  # s3://key:sec/ret@bucket: a slash in a secret ends the host's part
        or "@" in options
        or any(_SECRET_OPTION.search(option.partition("=")[0]) for option in options.split("&"))
        or any(not _known(option.partition("=")[0], parts.scheme) for option in options.split("&") if option)
    ):
        raise RunDirectoryError(
            f"a URI of a run must not carry credentials, as the one given ({parts.scheme}://...) seems to; set them in "
            "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) or in ~/.aws/credentials. "
            f"Options that it may have: {', '.join(_OPTIONS.get(parts.scheme, ())) or 'none'}"
        )


def _known(option: str, scheme: str) -> bool:
    return option in _OPTIONS.get(scheme, ())


@contextmanager
def naming_errors(storage: Storage, what: str, advice: str = "check the path and your access to it") -> Iterator[None]:
    """Turn a filesystem's refusal into a message for the user."""
    try:
        yield
    except OSError as error:
        reason = printable(error.strerror or str(error))
        raise RunDirectoryError(f"{storage.location}: {what} ({reason}); {advice}") from error


def _lock(descriptor: int) -> None:
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                held = f"another process has had the folder locked for {_LOCK_PATIENCE:g} s, longer than srs-ray does"
                raise OSError(errno.EAGAIN, held) from error
            time.sleep(_LOCK_PAUSE)
        except OSError:
            return None  # some network mounts lock no folders


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, as fsync on the files alone does not (POSIX)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_of(info: fs.FileInfo) -> str:
    """The last part of its path; _NAMELESS where pyarrow cannot read it."""
    try:
        return str(info.base_name)
    except UnicodeDecodeError:
        return _NAMELESS
