"""Files of anybody's, read so that nothing waits for ever and nothing is larger than its kind can be."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO


def open_regular(path: str | os.PathLike[str], at_most: int | None = None) -> BinaryIO:
    """A file opened for reading. OSError, with nothing read and without waiting, for a pipe, a socket or a device,
    and for one of more bytes than `at_most`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a regular file", os.fspath(path))
        if at_most is not None and status.st_size > at_most:
            found = f"it has {status.st_size:,} bytes, expected at most {at_most:,}"
            raise OSError(errno.EFBIG, found, os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], at_most: int) -> bytes:
    """The bytes of a regular file. OSError as `open_regular` raises it, also for a file that grows meanwhile."""
    with open_regular(path, at_most) as file:
        data = file.read(at_most + 1)
    if len(data) > at_most:
        raise OSError(errno.EFBIG, f"it has more than {at_most:,} bytes", os.fspath(path))
    return data
