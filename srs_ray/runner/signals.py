"""Ctrl-C, SIGTERM and SIGHUP end a run in order: the first asks it to stop, a second one stops it at once, with a
deadline for what is kept and given back on the way out; a third one does not wait for that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_ASKING_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS_TO_END = 60.0  # of a stop at once: a store that does not answer is given up in less


class StoppedAtOnce(KeyboardInterrupt):
    """A second signal came; `number` is the first one's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopRequest:
    """While entered, `received` is the number of the signal that asked to stop, or None.

    A terminal that closes sends SIGHUP; a process that was started to ignore it (nohup) goes on.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._again = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in _ASKING_TO_STOP:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        elif self._again:
            end_now(self.received)
        else:
            self._again = True
            end_later(self.received)
            raise StoppedAtOnce(self.received)


def end_later(number: int) -> None:
    """Ends the process by that signal's exit code in a minute, whatever it still waits for then."""
    timer = threading.Timer(_SECONDS_TO_END, end_now, [number])
    timer.daemon = True
    timer.start()


def end_now(number: int) -> None:
    """Ends the process by that signal's exit code. What was not kept yet will be done again."""
    print("stopped without waiting for what was still being kept or given back", file=sys.stderr, flush=True)
    os._exit(128 + number)
