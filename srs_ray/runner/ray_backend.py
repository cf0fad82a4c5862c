"""Points over a Ray cluster: what there is room for, and an actor that certifies."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from srs_ray.errors import JobError
from srs_ray.execution import ExecutionSettings
from srs_ray.runner.backend import Rows
from srs_ray.runner.carrying import Carried, carry
from srs_ray.runner.connection import attach, named_address, nodes_alive
from srs_ray.runner.metrics import RunMetrics
from srs_ray.runner.pool import WorkerPool
from srs_ray.runner.rehearsal import Rehearsal
from srs_ray.runner.worker import Cargo, PointWorker, Row, WorkerSpec, measure_batch
from srs_ray.smoothing.batch_size import MeasuredBatch

log = logging.getLogger(__name__)

MEASURE_SECONDS = 120.0  # a run does not wait longer for its batch to be measured
START_SECONDS = 1800.0  # a GPU that hangs in the rehearsal is given up
_MARK = "accelerator_type:"  # before the name, among a node's resources
_HOW_TO_WAIT = "to wait for nodes that join, name the cluster (--address) and set execution.workers to a number"


class CertifierActor:
    """A PointWorker in a process of its own, which `prepare` builds."""

    def __init__(self) -> None:
        self.worker: PointWorker | None = None

    def prepare(self, spec: WorkerSpec, carried: Carried, threads: int) -> tuple[str, Rehearsal]:
        """Where it is, and how its rehearsal went."""
        self.worker = spec.open(carried.open(), threads)
        return socket.gethostname(), self.worker.rehearse()

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def certify(self, index: int, attempt: int) -> Row:
        assert self.worker is not None
        return self.worker.certify(index, attempt)


def carried_cargo(cargo: Cargo) -> Carried:
    """The cargo on its way to workers, with the user's own code in it; JobError where it cannot be sent."""
    built = [each for each in (cargo.source.built, getattr(cargo.dataset, "built", None)) if each is not None]
    return carry(cargo, built, cargo.source.packages)


def in_a_process_of_its_own(function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """A Ray task that is tried once, in a process that ends with it and gives a GPU's memory back.

    Ray would end the process of a task with GPUs by itself only where `ray.remote` is told of these, not `options`.
    """
    return ray.remote(max_calls=1, max_retries=0, **options)(function)


def measure_carried(spec: WorkerSpec, carried: Carried, threads: int) -> MeasuredBatch:
    """`measure_batch` on a worker."""
    return measure_batch(spec, carried.open(), threads)


def _accelerators() -> tuple[str, ...]:
    """The GPUs of the nodes that are there now, by Ray's name of them, such as H200."""
    marks = (name for node in nodes_alive() for name in node["Resources"] if node["Resources"].get("GPU"))
    return tuple(sorted({name.removeprefix(_MARK) for name in marks if name.startswith(_MARK)}))


class RayBackend:
    """A running Ray cluster if there is one, else a local Ray that is started for this run."""

    def __init__(self, execution: ExecutionSettings, address: str | None = None, worker_logs: bool = False) -> None:
        """`address` names a cluster; `local` insists on a local Ray. SrsRayError if the cluster cannot be reached."""
        self.execution = execution
        self.rehearsed: dict[str, str] = {}
        self._pool: WorkerPool | None = None
        self.place = attach(address, worker_logs)
        gpus = sum(node["Resources"].get("GPU", 0.0) for node in nodes_alive())
        self.device: str = execution.device if execution.device != "auto" else ("cuda" if gpus else "cpu")
        self.accelerators = _accelerators() if self.device == "cuda" else ()
        # Nodes may join a cluster that was named; a local Ray stays what it is.
        self._waits = execution.workers != "auto" and named_address(address) not in (None, "local")
        if self.device == "cuda" and not gpus and not self._waits:
            self.close()
            raise JobError(f"the job asks for execution.device cuda, but {self.place} has no GPU; {_HOW_TO_WAIT}")

    def _needs(self) -> tuple[str, float]:
        """What one worker takes, by Ray's name of the resource."""
        if self.device == "cuda":
            return "GPU", self.execution.gpus_per_worker
        return "CPU", self.execution.cpus_per_worker

    def _room(self) -> int:
        """How many workers the nodes that are there now could hold."""
        resource, share = self._needs()
        return sum(int(node["Resources"].get(resource, 0.0) / share + 1e-9) for node in nodes_alive())

    def workers(self, points: int) -> int:
        resource, share = self._needs()
        room, wanted = self._room(), self.execution.workers
        if not room and not self._waits:
            raise JobError(f"no node of {self.place} has {share:g} {resource} for a worker; {_HOW_TO_WAIT}")
        return min(room if wanted == "auto" else wanted, points)

    def describe(self, workers: int) -> str:
        resource, share = self._needs()
        room = self._room()
        wait = f", {workers - room} of them waiting for nodes to join" if workers > room else ""
        return f"{self.place}, device {self.device}, {workers} workers with {share:g} {resource} each{wait}"

    def _options(self) -> dict[str, float]:
        """The same as Ray's options of an actor or a task."""
        resource, share = self._needs()
        return {"num_gpus": share, "num_cpus": 0} if resource == "GPU" else {"num_cpus": share}

    def fastest_batch(self, spec: WorkerSpec, cargo: Cargo) -> MeasuredBatch | None:
        if not self._room():  # and a run that waits for nodes need not wait for this besides
            return None
        measure = in_a_process_of_its_own(measure_carried, self._options())
        call = measure.remote(spec, carried_cargo(cargo), self.execution.cpus_per_worker)
        try:
            return ray.get(call, timeout=MEASURE_SECONDS)
        except RayError as error:
            reason = str(error).strip() or type(error).__name__
            log.warning("the batch could not be measured: %s", reason.splitlines()[-1])
            if isinstance(error, GetTimeoutError):  # to cancel a task that has ended can abort this process, by Ray
                ray.cancel(call, force=True)
            return None

    def rows(self, spec: WorkerSpec, cargo: Cargo, indices: Sequence[int]) -> Rows:
        wanted = self.execution.workers
        # A worker that dies is replaced by a new actor, which Ray places wherever there is room, and at once.
        actor_class = ray.remote(CertifierActor).options(**self._options(), max_restarts=0)
        self._pool = WorkerPool(
            actor_class.remote,
            (ray.put(spec), ray.put(carried_cargo(cargo)), self.execution.cpus_per_worker),
            indices,
            room=self._room if wanted == "auto" else lambda: wanted,
            attempts=self.execution.attempts,
            point_seconds=self.execution.seconds_of_a_point(self.device, spec.samples),
            start_seconds=START_SECONDS if self.device == "cuda" else None,
            failed_row=spec.failed_row,
            admit=self._admit,
        )
        metrics = RunMetrics(spec.job.output)
        try:
            for row in self._pool.rows():
                if row is not None:
                    metrics.record(row)
                yield row
        finally:
            self._pool.kill()

    def _admit(self, prepared: tuple[str, Rehearsal]) -> str | None:
        """Why a worker is not to work: the first of its kind gave other logits."""
        host, rehearsal = prepared
        first = self.rehearsed.setdefault(rehearsal.kind, rehearsal.logits)
        if first == rehearsal.logits:
            return None
        return (
            f"{host}: the model's logits on fixed noise are not those of another worker on {rehearsal.kind} "
            f"(digest {rehearsal.logits}, there {first}): its rows would be of another function"
        )

    @property
    def ready(self) -> int:
        return self._pool.ready if self._pool is not None else 0

    def close(self) -> None:
        ray.shutdown()
