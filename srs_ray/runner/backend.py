"""How the points of a run get done: a backend hands them to its workers and yields rows as they finish."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from typing import Protocol

import torch

from srs_ray.errors import JobError, SrsRayError, UserCodeError, reason_of
from srs_ray.execution import ExecutionSettings
from srs_ray.models.device_failure import is_device_failure
from srs_ray.models.devices import device_name
from srs_ray.runner.worker import Cargo, PointWorker, Row, WorkerSpec, measure_batch
from srs_ray.smoothing.batch_size import MeasuredBatch

log = logging.getLogger(__name__)

Rows = Generator[Row | None, None, None]


class Backend(Protocol):
    """Where points are certified. `device` is the kind that was chosen, `cpu` or `cuda`; `accelerators` are the GPUs by
    name, each once, as far as they are known before workers start; `rehearsed` has the digests of the workers'
    rehearsals by their kind, as they come."""

    device: str
    accelerators: tuple[str, ...]
    rehearsed: dict[str, str]

    @property
    def ready(self) -> int:
        """How many workers are ready to certify, or at it."""
        ...

    def workers(self, points: int) -> int:
        """How many workers that many points get, as things are now."""
        ...

    def describe(self, workers: int) -> str:
        """In words, what was chosen."""
        ...

    def fastest_batch(self, spec: WorkerSpec, cargo: Cargo) -> MeasuredBatch | None:
        """The fastest batch on one of the workers to be; None where that cannot be measured now."""
        ...

    def rows(self, spec: WorkerSpec, cargo: Cargo, indices: Sequence[int]) -> Rows:
        """One row for each point, in the order they finish; None now and then while there is nothing new."""
        ...

    def close(self) -> None:
        """Gives back what the backend holds."""
        ...


def device_here(execution: ExecutionSettings) -> str:
    """The kind of device, `cpu` or `cuda`, that this process takes for the job; JobError where there is none such."""
    available = torch.cuda.is_available()
    if execution.device == "cuda" and not available:
        raise JobError("the job asks for execution.device cuda, but torch finds no CUDA device on this machine")
    return "cuda" if available and execution.device != "cpu" else "cpu"


class InProcess:
    """This process, one point after another: for debugging, and where Ray is not installed.

    Points end where a GPU fails: each later one would fail in this process too.
    """

    def __init__(self, execution: ExecutionSettings) -> None:
        if execution.point_seconds not in (None, "unlimited"):
            raise JobError("execution.point_seconds needs workers that can be ended: set it to null, or run with Ray")
        self.device: str = device_here(execution)
        gpu = [device_name(torch.device("cuda"))] if self.device == "cuda" else []
        self.accelerators: tuple[str, ...] = tuple(gpu)
        self.rehearsed: dict[str, str] = {}

    @property
    def ready(self) -> int:
        return 1

    def workers(self, points: int) -> int:
        return 1

    def describe(self, workers: int) -> str:
        return f"this process, device {self.device}"

    def fastest_batch(self, spec: WorkerSpec, cargo: Cargo) -> MeasuredBatch | None:
        return measure_batch(spec, cargo, spec.job.execution.cpus_per_worker)

    def rows(self, spec: WorkerSpec, cargo: Cargo, indices: Sequence[int]) -> Rows:
        worker = spec.open(cargo, spec.job.execution.cpus_per_worker)
        try:
            rehearsal = worker.rehearse()
        except Exception as error:
            if not is_device_failure(error):
                raise
            raise JobError(f"the device cannot run the model: {reason_of(error)}") from error
        self.rehearsed[rehearsal.kind] = rehearsal.logits
        for index in indices:
            try:
                yield _certify(worker, spec, index)
            except Exception as error:
                if not is_device_failure(error):
                    raise
                log.error("point %d: the device failed, and serves this process no more: %s", index, reason_of(error))
                return

    def close(self) -> None:
        pass


def _certify(worker: PointWorker, spec: WorkerSpec, index: int) -> Row:
    attempts = spec.job.execution.attempts
    reason: Exception | None = None
    for attempt in range(1, attempts + 1):
        try:
            return worker.certify(index, attempt)
        except SrsRayError:
            raise
        except Exception as error:
            if is_device_failure(error):
                raise
            told = isinstance(error, UserCodeError) and not log.isEnabledFor(logging.DEBUG)
            log.warning("point %d, attempt %d of %d: %s", index, attempt, attempts, reason_of(error), exc_info=not told)
            reason = error
    return spec.failed_row(index, attempts, reason_of(reason))
