"""What does the points, in whatever process: a model, a data set and the settings of a job, ready to certify."""

from __future__ import annotations

import gc
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

import srs_ray
from srs_ray.data import PointDataset, open_data
from srs_ray.data.class_names import check_class_names, class_names_of
from srs_ray.errors import DataError, JobError, PointError
from srs_ray.job import AnyJob, Job, LipschitzJob, open_job_model
from srs_ray.lipschitz.judge import LipschitzJudge
from srs_ray.lipschitz.row import LipschitzRow
from srs_ray.lipschitz.settings import LIPSCHITZ_VERSION
from srs_ray.models.devices import device_name, keep_to_share, use_exact_float32
from srs_ray.models.opening import ModelSource
from srs_ray.models.out_of_memory import is_out_of_memory
from srs_ray.runner.allocator import keep_freed_memory
from srs_ray.runner.rehearsal import Rehearsal, rehearse
from srs_ray.runs.printable import printable
from srs_ray.smoothing.batch_size import MeasuredBatch, fastest_batch
from srs_ray.smoothing.judge import SmoothingJudge
from srs_ray.smoothing.noise import noise_generator, self_check
from srs_ray.smoothing.row import PointRow, pixel_digest
from srs_ray.smoothing.version import sampling_version

log = logging.getLogger(__name__)

Done = TypeVar("Done")
LONGEST_ERROR = 4000  # characters of an error row's line: a user's exception can hold a whole tensor

Row = dict[str, Any]  # the columns of a run directory by name


@dataclass(frozen=True)
class WorkerSpec:
    """A job with everything resolved that must be the same on every worker.

    `generator` is the noise generator's name; `noise_check` (drawn on a CPU), `data_identity` and `sampling_version`
    are what the driver sees: a worker that sees something else refuses to start.
    """

    job: AnyJob
    data_path: str | None
    device: str
    batch: int
    data_identity: Mapping[str, Any]
    generator: str
    noise_check: str
    sampling_version: int

    @property
    def samples(self) -> int:
        """How many noisy samples one point takes at most."""
        return self.job.samples

    def open(self, cargo: Cargo, threads: int) -> PointWorker:
        """What does the points, in this process."""
        return PointWorker(self, cargo, threads)

    def failed_row(self, index: int, attempts: int, reason: object) -> Row:
        """The row of a point that was tried `attempts` times and given up."""
        return failed_row(self.job.sigma, index, attempts, reason)


@dataclass(frozen=True)
class Cargo:
    """All that a worker gets besides the spec: the model, and the data set where that is the user's own object."""

    source: ModelSource
    dataset: PointDataset | None = None


def open_job_data(job: AnyJob, source: ModelSource, path: str | None, download: bool = False) -> PointDataset:
    """The job's data set, checked against its model: images' size, number of classes, and their names."""
    section = job.data.model_copy(update={"path": path})
    dataset = open_data(section, source.input_shape, source.classes, download)
    check_class_names(class_names_of(dataset), source.class_names, source.label)
    return dataset


def measure_batch(spec: WorkerSpec, cargo: Cargo, threads: int) -> MeasuredBatch:
    """The batch that is fastest here for the job's model and sampling, `spec.batch` or one near it."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    use_exact_float32()
    job = spec.job
    assert isinstance(job, Job)  # one without samples has no batch
    keep_to_share(spec.device, job.execution.gpus_per_worker)
    model = open_job_model(job, cargo.source, spec.device)
    generator = noise_generator(spec.generator, spec.device)
    return fastest_batch(model, job.sampling, job.noise.sigma, generator, spec.batch)


class PointWorker:
    """Certifies points of one job. A point that cannot be read becomes an error row."""

    error_row: Callable[..., Any] = PointRow

    def __init__(self, spec: WorkerSpec, cargo: Cargo, threads: int) -> None:
        job = spec.job
        torch.set_num_threads(threads)
        keep_freed_memory()
        if spec.device == "cuda" and not torch.cuda.is_available():
            raise JobError(f"{socket.gethostname()}: the job asks for CUDA, but torch finds none in this worker")
        keep_to_share(spec.device, job.execution.gpus_per_worker)
        self.dataset = cargo.dataset or open_job_data(job, cargo.source, spec.data_path)
        self._check_same(spec)
        self._class_names = class_names_of(self.dataset)
        self.sigma = job.sigma
        self.judge = judge_of(spec, job, cargo.source)

    def _check_same(self, spec: WorkerSpec) -> None:
        """Nodes with other files under one path, or a program that draws otherwise, must not share a table."""
        here = LIPSCHITZ_VERSION
        if isinstance(spec.job, Job):
            here = sampling_version(spec.generator, spec.job.sampling.version)
        if spec.sampling_version != here:
            raise JobError(
                f"{socket.gethostname()}: srs-ray {srs_ray.__version__} here samples by version {here}, "
                f"the driver's by version {spec.sampling_version}: install the same srs-ray on every node"
            )
        if self.dataset.identity != spec.data_identity:
            differing = sorted(
                key
                for key in self.dataset.identity.keys() | spec.data_identity.keys()
                if self.dataset.identity.get(key) != spec.data_identity.get(key)
            )
            place = spec.data_path or spec.job.data.import_
            raise DataError(
                f"{socket.gethostname()}: the data at {place} is not what the driver sees "
                f"({', '.join(differing)} differ): put the same files on every node"
            )
        if isinstance(spec.job, Job) and self_check(noise_generator(spec.generator, "cpu")) != spec.noise_check:
            raise JobError(
                f"{socket.gethostname()}: the noise generator draws other numbers here than on the driver: "
                "install the same numpy and torch on every node"
            )

    def rehearse(self) -> Rehearsal:
        """Runs every part of the model once, by a smaller batch where memory runs out. It raises what the device does.

        A JobError where even one sample is too much for the memory.
        """
        try:
            return self._in_memory("before the first point", lambda: rehearse(self.judge))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise JobError(
                f"{socket.gethostname()}: the memory of {device_name(self.judge.model.device)} does not hold the run "
                f"even with one sample at once: {_one_line(error)}"
            ) from error

    def certify(self, index: int, attempt: int = 1) -> Row:
        """The row of one point."""
        started = time.perf_counter()
        label: int | None = None
        try:
            label = self.dataset.label(index)
            row = self._done_in_memory(self.dataset.image(index), index, label)
        except PointError as error:
            seconds = time.perf_counter() - started
            error_line = _one_line(error)
            row = self.error_row(index, label, status="error", error=error_line, sigma=self.sigma, seconds=seconds)
        return asdict(replace(row, attempt=attempt, **self._image_of(index, label)))

    def _image_of(self, index: int, label: int | None) -> dict[str, Any]:
        """Where the point's image is from, and what its class is called, as text that any file and terminal takes."""
        names = self._class_names
        class_name = None if names is None or label is None else printable(names[label])
        return {"source": printable(self.dataset.name(index)), "class_name": class_name}

    def _done_in_memory(self, x_CHW: Tensor, index: int, label: int | None) -> Any:
        row = self._in_memory(f"point {index}", lambda: self.judge.certify(x_CHW, index, label))
        return replace(row, pixels=pixel_digest(x_CHW)) if isinstance(row, LipschitzRow) else row

    def _in_memory(self, name: str, do: Callable[[], Done]) -> Done:
        """What `do` gives; where memory runs out, the batch is halved for this and all later points."""
        while True:
            try:
                return do()
            except (MemoryError, RuntimeError) as error:
                batch = self.judge.batch
                if batch == 1 or not is_out_of_memory(error):
                    raise
                log.warning("%s: out of memory with batch %d, going on with %d", name, batch, batch // 2)
            self.judge = replace(self.judge, batch=batch // 2)
            gc.collect()  # only now that the error is gone: its traceback held the tensors of the whole point
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def judge_of(spec: WorkerSpec, job: AnyJob, source: ModelSource) -> SmoothingJudge | LipschitzJudge:
    """What judges the points of a job on this worker."""
    if isinstance(job, LipschitzJob):
        return LipschitzJudge(source.open("cpu", "float64"), job.certificate)
    return SmoothingJudge(
        model=open_job_model(job, source, spec.device),
        smoothing=job.smoothing,
        generator=noise_generator(spec.generator, spec.device),
        seed=job.execution.seed,
        batch=spec.batch,
    )


def failed_row(
    sigma: float | None, index: int, attempts: int, reason: object, error_row: Callable[..., Any] = PointRow
) -> Row:
    """The row of a point that was tried `attempts` times and given up."""
    times = "once" if attempts == 1 else f"{attempts} times"
    error = f"given up after it failed {times}: {_one_line(reason)}"
    return asdict(error_row(index, None, status="error", error=error, sigma=sigma, attempt=attempts))


def _one_line(reason: object) -> str:
    line = printable(" ".join(str(reason).split())) or type(reason).__name__
    return line if len(line) <= LONGEST_ERROR else f"{line[:LONGEST_ERROR]}..."
