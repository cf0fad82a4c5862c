"""The lease: which process writes a run directory, so that a second one refuses while the first lives."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import TracebackType

from srs_ray.errors import RunDirectoryError
from srs_ray.runs.printable import printable
from srs_ray.runs.process import Process
from srs_ray.runs.storage import Storage, naming_errors, open_storage

log = logging.getLogger(__name__)

LEASE_JSON = "lease.json"
_HEARTBEAT_SECONDS = 10.0
_HEARTBEATS_TO_WATCH = 3
_LARGEST = 64 * 2**10  # bytes of lease.json


class Lease:
    """The right to write a run directory, renewed by a thread of its own and given back when the context is left.

    It is advisory: it keeps a second driver from doing the same points, and is not what keeps rows whole. `lost` is
    None for as long as the lease is ours, then a message that says who took it over: whoever writes should stop.
    """

    def __init__(self, storage: Storage, heartbeat_seconds: float) -> None:
        """Use `acquire`."""
        self.lost: str | None = None
        self._storage = storage
        self._heartbeat_seconds = heartbeat_seconds
        self._content = _Content(Process.current(), datetime.now(UTC).isoformat(timespec="seconds"), uuid.uuid4().hex)
        self._beats = 0
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="srs-ray-lease", daemon=True)

    @staticmethod
    def acquire(path: str | os.PathLike[str], heartbeat_seconds: float = _HEARTBEAT_SECONDS) -> Lease:
        """Take the lease of a run directory, which is made if it is not there; nothing else in it is touched.

        The lease of a process of this machine is judged by whether that process lives. Another's is watched for three
        heartbeats, and taken over where it did not change: clocks of two machines are never compared.
        Raises RunDirectoryError, naming the holder, where the lease is held, or where it cannot be written.
        """
        lease = Lease(open_storage(path), heartbeat_seconds)
        with naming_errors(lease._storage, f"cannot write {LEASE_JSON}"):
            lease._storage.make_folder("")
            lease._take()
        lease._thread.start()
        return lease

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._released.set()
        self._thread.join()
        try:
            with self._storage.locked():
                if self._is_ours(self._read()):
                    self._storage.delete(LEASE_JSON)
        except OSError as fault:
            log.warning("%s could not be deleted (%s)", self._storage.where(LEASE_JSON), printable(str(fault)))

    def _take(self) -> None:
        watched: bytes | None = None
        deadline = 0.0
        while True:
            # Locked, of two processes that find a lease free on one machine, the second sees what the first wrote. On
            # an object store the last to write has it, and the other finds that out at its next heartbeat.
            with self._storage.locked():
                found = self._read()
                holder = None if found is None else _Content.from_json(found)
                alive = holder.process.is_alive() if holder else None
                unchanged = found is not None and found == watched
                if found is None or alive is False or (unchanged and time.monotonic() >= deadline):
                    self._put()
                    return
            if alive or (watched is not None and not unchanged):
                raise RunDirectoryError(
                    f"{self._storage.location}: {_who(holder)} writes this run; "
                    "wait for it to end, stop it, or choose another output"
                )
            if watched is None:
                watched = found
                wait = _HEARTBEATS_TO_WATCH * self._heartbeat_seconds
                deadline = time.monotonic() + wait
                log.warning(
                    "%s: %s wrote this run, and cannot be asked from here; waiting %g s for a sign of life",
                    self._storage.location,
                    _who(holder),
                    wait,
                )
            time.sleep(self._heartbeat_seconds / 4)

    def _beat(self) -> None:
        outage = False
        while not self._released.wait(self._heartbeat_seconds):
            try:
                with self._storage.locked():
                    found = self._read()
                    if found is None or self._is_ours(found):
                        self._put()
                    else:
                        self.lost = (
                            f"{self._storage.location}: {_who(_Content.from_json(found))} has taken this run over, "
                            "having seen no sign of life of this process; it goes on there"
                        )
                        return
                outage = False
            except Exception as error:  # whatever it is, the next heartbeat may succeed
                if not outage:
                    where = self._storage.where(LEASE_JSON)
                    log.warning("%s cannot be renewed (%s); the run goes on", where, printable(str(error)))
                outage = True

    def _read(self) -> bytes | None:
        try:
            return self._storage.read(LEASE_JSON, _LARGEST).to_pybytes()
        except FileNotFoundError:
            return None

    def _put(self) -> None:
        self._beats += 1
        self._storage.put(LEASE_JSON, self._content.to_json(self._beats))

    def _is_ours(self, found: bytes | None) -> bool:
        content = None if found is None else _Content.from_json(found)
        return content is not None and content.token == self._content.token


@dataclass(frozen=True)
class _Content:
    """What lease.json says, but for the number of its heartbeat, which is there to change."""

    process: Process
    since: str
    token: str  # of one taking of the lease, by whichever process

    def to_json(self, beat: int) -> bytes:
        content = {**asdict(self.process), "since": self.since, "token": self.token, "beat": beat}
        return (json.dumps(content, indent=2) + "\n").encode()

    @staticmethod
    def from_json(text: bytes) -> _Content | None:
        """None where the text is no lease, whoever wrote it."""
        try:
            found = json.loads(text)
            process = Process(str(found["host"]), int(found["pid"]), found["pids"], found["started"])
            return _Content(process, str(found["since"]), str(found["token"]))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None


def _who(holder: _Content | None) -> str:
    if holder is None:
        return "somebody unknown"
    return printable(f"process {holder.process.pid} of host {holder.process.host} (since {holder.since})")
