"""Points over a Ray cluster: one actor per worker, two points in flight on each, rows back as they finish.

Scheduling, placement, restarts and the loss of nodes are Ray's; which points to do, and to do again, is decided here.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from srs_ray.errors import JobError, SrsRayError
from srs_ray.job import ExecutionSettings
from srs_ray.models.weights import Weights
from srs_ray.runner.backend import Rows
from srs_ray.runner.worker import PointWorker, Row, WorkerSpec, failed_row

log = logging.getLogger(__name__)

IN_FLIGHT = 2  # a worker never waits for the driver between two points
POLL_SECONDS = 0.5
_START_ATTEMPTS = 3
_CONNECT_SECONDS = 10.0


class CertifierActor:
    """A PointWorker in a process of its own, which `prepare` builds."""

    def __init__(self) -> None:
        self.worker: PointWorker | None = None

    def prepare(self, spec: WorkerSpec, weights: Weights, threads: int) -> None:
        self.worker = PointWorker(spec, weights, threads)

    def certify(self, index: int, attempt: int) -> Row:
        assert self.worker is not None
        return self.worker.certify(index, attempt)


@dataclass(eq=False)
class _Worker:
    actor: Any = None
    prepared: bool = False
    starts: int = 0  # in a row, without success
    points: deque[int] = field(default_factory=deque)


class RayBackend:
    """A running Ray cluster if there is one, else a local Ray that is started for this run."""

    def __init__(self, execution: ExecutionSettings, address: str | None = None, worker_logs: bool = False) -> None:
        """`address` names a cluster; `local` insists on a local Ray. SrsRayError if the cluster cannot be reached."""
        self.execution = execution
        self.place = _attach(address, worker_logs)
        gpus = sum(node["Resources"].get("GPU", 0.0) for node in _nodes())
        self.device: str = execution.device if execution.device != "auto" else ("cuda" if gpus else "cpu")
        if self.device == "cuda" and not gpus:
            self.close()
            raise JobError(f"the job asks for execution.device cuda, but {self.place} has no GPU")

    def _needs(self) -> tuple[str, float]:
        """What one worker takes, by Ray's name of the resource."""
        if self.device == "cuda":
            return "GPU", self.execution.gpus_per_worker
        return "CPU", self.execution.cpus_per_worker

    def workers(self, points: int) -> int:
        resource, share = self._needs()
        room = sum(int(node["Resources"].get(resource, 0.0) / share + 1e-9) for node in _nodes())
        wanted = self.execution.workers
        if not room:
            raise JobError(f"no node of {self.place} has {share:g} {resource} for a worker")
        return min(room if wanted == "auto" else wanted, points)

    def describe(self, workers: int) -> str:
        resource, share = self._needs()
        return f"{self.place}, device {self.device}, {workers} workers with {share:g} {resource} each"

    def rows(self, spec: WorkerSpec, weights: Weights, indices: Sequence[int], workers: int) -> Rows:
        resource, share = self._needs()
        options = {"num_gpus": share, "num_cpus": 0} if resource == "GPU" else {"num_cpus": share}
        # A worker that dies is replaced by a new actor, which Ray places wherever there is room, and at once.
        actor_class = ray.remote(CertifierActor).options(**options, max_restarts=0)
        arguments = ray.put(spec), ray.put(weights), self.execution.cpus_per_worker
        pool = _Pool(actor_class.remote, arguments, min(workers, len(indices)), spec, indices)
        try:
            yield from pool.rows()
        finally:
            pool.kill()

    def close(self) -> None:
        ray.shutdown()


class _Pool:
    """The actors of a run, the points that wait, and what is in flight."""

    def __init__(
        self,
        new_actor: Callable[[], Any],
        arguments: tuple[Any, ...],
        workers: int,
        spec: WorkerSpec,
        indices: Sequence[int],
    ) -> None:
        """`arguments` are those of `CertifierActor.prepare`."""
        self.new_actor = new_actor
        self.arguments = arguments
        self.workers = [_Worker() for _ in range(workers)]
        self.sigma = spec.job.noise.sigma
        self.attempts = spec.job.execution.attempts
        self.waiting = deque(indices)
        self.unfinished = len(indices)
        self.failures: Counter[int] = Counter()
        self.in_flight: dict[ray.ObjectRef, tuple[_Worker, int | None]] = {}

    def rows(self) -> Rows:
        for worker in self.workers:
            self._start(worker)
        while self.unfinished:
            ready, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=POLL_SECONDS)
            if not ready:
                yield None
                continue
            row = self._take(ready[0])
            self._feed()
            if row is not None:
                self.unfinished -= 1
                yield row

    def _take(self, ref: ray.ObjectRef) -> Row | None:
        """The row that came of this call, if one did."""
        worker, index = self.in_flight.pop(ref)
        try:
            value = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, SrsRayError):
                raise error.cause from None
            reason = f"{type(error.cause).__name__}: {error.cause}"
            if index is None:
                raise SrsRayError(f"a worker cannot be set up: {reason}") from error
            # The next point may fail likewise in this process, as after a CUDA error: it must not eat up the queue.
            worker.points.remove(index)
            worker.points.appendleft(index)
            return self._replace(worker, reason)
        except RayError as error:  # its process or node is gone, or out of reach
            return self._replace(worker, f"its worker died ({_first_line(error)})")
        if index is None:
            worker.prepared, worker.starts = True, 0
            return None
        worker.points.remove(index)
        return value

    def _start(self, worker: _Worker) -> None:
        """Gives the worker a new actor; it gets points when that is placed and prepared."""
        worker.starts += 1
        worker.actor = self.new_actor()
        self.in_flight[worker.actor.prepare.remote(*self.arguments)] = (worker, None)

    def _feed(self) -> None:
        """Hands waiting points to prepared workers, evenly."""
        for in_flight in range(IN_FLIGHT):
            for worker in self.workers:
                if self.waiting and worker.prepared and len(worker.points) == in_flight:
                    index = self.waiting.popleft()
                    worker.points.append(index)
                    self.in_flight[worker.actor.certify.remote(index, self.failures[index] + 1)] = (worker, index)

    def _replace(self, worker: _Worker, reason: str) -> Row | None:
        """Gives a worker that failed a new actor; of its points only the one that it had begun is charged for it."""
        begun, *queued = worker.points or [None]
        log.warning("a worker is replaced%s: %s", "" if begun is None else f" at point {begun}", reason)
        self.in_flight = {ref: task for ref, task in self.in_flight.items() if task[0] is not worker}
        worker.points.clear()
        worker.prepared = False
        self.waiting.extendleft(reversed([index for index in queued if index is not None]))
        row = None if begun is None else self._failed(begun, reason)
        ray.kill(worker.actor)  # it may only be out of reach: what it still does is done twice, and counted once
        if worker.starts < _START_ATTEMPTS:
            self._start(worker)
        else:
            self.workers.remove(worker)
        if not self.workers:
            raise SrsRayError(f"every worker failed while starting, {_START_ATTEMPTS} times each; the last: {reason}")
        return row

    def _failed(self, index: int, reason: str) -> Row | None:
        """Lets the point wait for another attempt, or gives it up."""
        self.failures[index] += 1
        if self.failures[index] < self.attempts:
            self.waiting.appendleft(index)
            return None
        return failed_row(index, self.sigma, self.attempts, reason)

    def kill(self) -> None:
        for worker in self.workers:
            if worker.actor is not None:
                ray.kill(worker.actor)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _attach(address: str | None, worker_logs: bool) -> str:
    """Connects to a cluster or starts a local Ray, and says which.

    Without an address Ray finds the cluster of RAY_ADDRESS or `ray start`, and else starts one; `auto` would also
    attach to the local Ray of another run, which ends with that run.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    named = address or os.environ.get("RAY_ADDRESS")
    try:
        if named is not None:
            _check_reachable(named)
        ray.init(address=address, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=worker_logs)
    except (OSError, ValueError, RuntimeError) as error:
        where = f"reach a Ray cluster at {named}" if named not in (None, "local") else "start a local Ray"
        raise SrsRayError(f"cannot {where}: {error}") from error
    nodes = len(_nodes())
    return f"Ray at {ray.get_runtime_context().gcs_address} ({nodes} node{'s' * (nodes != 1)})"


def _check_reachable(address: str) -> None:
    """Ray itself waits minutes for a cluster that is not there."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "//" not in address:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
