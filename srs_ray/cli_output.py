"""Standard output and error of the command line: what is printed never ends the work that it tells of."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

from srs_ray.errors import SrsRayError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.ECONNRESET)  # a pipe's end, a terminal that is gone, a socket's end


def keep_printing() -> None:
    """Has text printed to whatever there is: characters that an encoding lacks as escapes such as \\xe9, and nothing
    more to a pipe whose reader, or a terminal, has gone, or to a file whose disk is full."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__") and _is_a_file(stream):
            setattr(sys, name, _unbroken(stream))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _is_a_file(stream: Any) -> bool:
    if not isinstance(stream, io.TextIOWrapper):
        return False
    return isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO)  # unbuffered, it is its own raw stream


def _unbroken(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Outlet(stream.fileno())),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Outlet(io.RawIOBase):
    """A file descriptor, until nobody reads it any more: then it takes everything and passes nothing on.

    `full` says that it was for want of room.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._gone = False
        self.full = False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        while not self._gone:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError as error:
                if error.errno not in (*_NOBODY_READS, *_FULL):
                    raise
                self._gone, self.full = True, error.errno in _FULL
        return len(data)


def refuse_lost_output() -> None:
    """SrsRayError where what was printed to standard output did not all fit on its disk: for commands that do nothing
    but print."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Outlet) and raw.full:
        raise SrsRayError("standard output goes to a disk that is full: what was printed is not complete")
