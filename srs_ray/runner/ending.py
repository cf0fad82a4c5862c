"""The command that a job names for the end of its run (`execution.on_end`)."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from srs_ray.runner.signals import StopRequest
from srs_ray.runs.printable import printable

if TYPE_CHECKING:
    from srs_ray.runner.certification import RunSummary

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
LONGEST_FAULT = 1000


def shown_command(command: Sequence[str]) -> str:
    """The command as a shell would have it, printable."""
    return printable(shlex.join(command))


def ended(summary: RunSummary) -> dict[str, str]:
    """What a command is told of a run that ended, as environment variables.

    SRS_RAY_STATUS is `done` if every point asked for has a result, `stopped` by a signal, else `failed`.
    SRS_RAY_CERTIFIED_ACCURACY_0_5 and its like are shares of the points that ended, at the radii of the job's tables.
    """
    status = "stopped" if summary.signal is not None else "failed" if summary.missing else "done"
    shares = {
        f"SRS_RAY_CERTIFIED_ACCURACY_{re.sub('[^0-9A-Za-z]', '_', f'{radius:g}')}": f"{share:.6g}"
        for radius, share in summary.certified_accuracy.items()
    }
    return {
        "SRS_RAY_RUN": summary.path,
        "SRS_RAY_STATUS": status,
        "SRS_RAY_EXIT_CODE": str(summary.exit_code),
        "SRS_RAY_ASKED": str(summary.asked),
        "SRS_RAY_POINTS": str(summary.done),
        "SRS_RAY_ERRORS": str(summary.errors),
        **shares,
    }


def broken_off(output: str, error: BaseException) -> dict[str, str]:
    """The same for a run that an exception ended: SRS_RAY_FAULT says which, and there are no counts."""
    stopped = isinstance(error, KeyboardInterrupt)
    fault = printable(" ".join(f"{error}".split()) or type(error).__name__)[:LONGEST_FAULT]
    return {
        "SRS_RAY_RUN": output,
        "SRS_RAY_STATUS": "stopped" if stopped else "failed",
        **({} if stopped else {"SRS_RAY_FAULT": fault}),
    }


def run_command(command: Sequence[str], variables: Mapping[str, str], seconds: float) -> None:
    """Runs the command, without a shell, with these variables beside the driver's own; whatever it does, this returns.

    What it prints goes to standard error. A failure, and more than so many seconds, are a warning; then, and when a
    signal asks the driver to stop, the command and its children are killed.
    """
    shown = shown_command(command)
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **{name: value.replace("\0", "") for name, value in variables.items()}},
            stdin=subprocess.DEVNULL,
            stdout=_standard_error(),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        log.warning("execution.on_end (%s) could not be started: %s", shown, getattr(error, "strerror", None) or error)
        return
    with process, StopRequest() as stop:
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline and stop.received is None:
            time.sleep(POLL_SECONDS)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            reason = f"it took more than {seconds:g} s" if stop.received is None else "a signal asked to stop"
            log.warning("execution.on_end (%s) was ended: %s", shown, reason)
        elif process.returncode:
            log.warning("execution.on_end (%s) failed with exit code %d", shown, process.returncode)


def _standard_error() -> int:
    """The file descriptor of standard error, or nothing where there is none."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return subprocess.DEVNULL
