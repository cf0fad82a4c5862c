"""A process as another one knows it: on which machine, and which of all that had its number."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process; the last two are None on systems without /proc, where its number alone says too little."""

    host: str
    pid: int
    pids: str | None  # what `pid` is unique in: this boot of the machine and this pid namespace of it
    started: str | None  # clock ticks since boot, which tell it from a later process of the same number

    @staticmethod
    def current() -> Process:
        """The process that asks."""
        pid = os.getpid()
        return Process(socket.gethostname(), pid, _pids(), _started(pid))

    def is_alive(self) -> bool | None:
        """Whether it runs still, or None where that cannot be known from this process: on another host, say."""
        here = Process.current()
        if here.pids is None or self.started is None or (self.host, self.pids) != (here.host, here.pids):
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass  # another user's, whose entry in /proc may be hidden from us
        return _started(self.pid) in (self.started, None)


def _pids() -> str | None:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """The process's start; "ended" for one that only waits for its parent to notice, None where /proc does not say."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return "ended" if fields[0] in "ZX" else fields[19]  # state and starttime of proc_pid_stat(5)
