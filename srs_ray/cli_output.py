"""Standard output and error of the command line: what is printed never ends the work that it tells of."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.ECONNRESET)  # a pipe's end, a terminal that is gone, a socket's end


def keep_printing() -> None:
    """Has text printed to whatever there is: characters that an encoding lacks as escapes such as \\xe9, and nothing
    more to a pipe whose reader, or a terminal, has gone. A full disk still raises OSError."""
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
    """A file descriptor, until nobody reads it any more: then it takes everything and passes nothing on."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._gone = False

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
                if error.errno not in _NOBODY_READS:
                    raise
                self._gone = True
        return len(data)
