"""Whether a run holds: its rows against their counts and settings, and some of its points certified again."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from srs_ray.analysis.points import points_of
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import certificate_line, guarantee_line
from srs_ray.errors import RunDirectoryError, SrsRayError
from srs_ray.runs.directory import RunDirectory
from srs_ray.runs.printable import printable
from srs_ray.runs.record import REHEARSED

if TYPE_CHECKING:
    from srs_ray.job import Job
    from srs_ray.runner.worker import PointWorker

# What certifying a point again must give. Bounds and radii follow from it, and are held against it for every row.
COUNTED = (
    "label",
    "pixels",
    "predicted",
    "selected",
    "n0",
    "n",
    "selection_classes",
    "selection_counts",
    "classes",
    "counts",
    "audited",
    "disagreed",
    "function_evaluations",
    "reference_evaluations",
    "fallbacks",
    "unconverged",
    "stopped",
    "audit_share",
    "look_n",
    "look_hits",
    "look_audited",
    "look_disagreed",
    "audited_misses",
    "found",
    "look_audited_misses",
    "look_found",
    "steps",
    "sigma",
)


@dataclass(frozen=True)
class Repeated:
    """A point that was certified again: the columns in which its row is another, and why it has none, if it has none.

    `explained`: what on this machine may explain a difference by rounding; '' where nothing does.
    """

    index: int
    differing: tuple[str, ...] = ()
    error: str = ""
    explained: str = ""

    @property
    def equal(self) -> bool:
        """Whether it came out as it was."""
        return not self.differing and not self.error

    def __str__(self) -> str:
        if self.equal:
            return f"point {self.index}: as in its row"
        said = self.error or f"another {', '.join(self.differing)} than in its row"
        return f"point {self.index}: {said}{f' ({self.explained})' if self.explained else ''}"


@dataclass(frozen=True)
class Verification:
    """What was checked of a run, and what does not hold; counts are of points, of those that were asked for."""

    run: str
    setting: str
    certificate: str
    guarantee: str
    asked: int
    done: int
    in_error: int
    faults: tuple[str, ...]  # parts with rows that are not what their counts say, or that cannot be read
    repeated: tuple[Repeated, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether every row is what its counts say, and every point that was certified again came out as it was."""
        return not self.faults and all(each.equal for each in self.repeated)


def verify_run(
    run: str | os.PathLike[str],
    points: int = 0,
    weights: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    run_code: bool = False,
) -> Verification:
    """Checks all that a run directory claims, and certifies so many of its points again, in this process.

    Nothing is written. Every row's bound, radius, class and correctness are computed from its counts by the
    certificate of the fingerprint. Points to repeat are drawn at random, by `seed` where it is given; model, data and
    program must have the run's fingerprint. `weights` and `data` say where they are here (None: where the run had
    them). On the kind of processor and the batch that a row was made with, it comes out bit for bit.
    Raises RunDirectoryError where there is no readable run, its job is none, or model, data or program are others;
    SrsRayError where the run's model or data are code, unless `run_code` says that this code may be run.
    """
    directory = RunDirectory.open(run)
    job = stored_job(directory)
    faults = directory.faults()
    df = points_of(directory)
    info = RunInfo.of(df)
    done = df["status"] == "ok"
    notes = list(directory.notes)
    if info.outside:
        notes.append(f"{info.outside} more points have rows, and are not among those that were last asked for")
    repeated: Sequence[Repeated] = ()
    if points:
        if weights is not None:
            job = job.model_copy(update={"model": job.model.model_copy(update={"weights": weights})})
        if data is not None:
            job = job.model_copy(update={"data": job.data.model_copy(update={"path": data})})
        _refuse_code(job, run_code)
        certified = df["index"][done].tolist()
        chosen = random.Random(seed) if seed is not None else random.SystemRandom()
        repeated = _repeat(directory, job, sorted(chosen.sample(certified, min(points, len(certified)))))
    return Verification(
        run=info.name,
        setting=f"{info.setting} on {info.data}",
        certificate=certificate_line(info),
        guarantee=guarantee_line(info),
        asked=info.asked,
        done=int(done.sum()),
        in_error=int((~done).sum()),
        faults=tuple(faults),
        repeated=tuple(repeated),
        notes=tuple(map(printable, notes)),
    )


def stored_job(directory: RunDirectory) -> Job:
    """The run's job by the model of job files; RunDirectoryError for what is none. No file that it names is read."""
    from srs_ray.job import Job

    classes = directory.job.get("data", {}).get("classes")
    try:
        if isinstance(classes, str):
            raise ValueError("data.classes names a file, where a run keeps the names themselves")
        return Job.model_validate(directory.job)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise RunDirectoryError(
            f"{directory.path}: run.json holds no job: {printable(f'{place}: {message}')}"
        ) from error
    except ValueError as error:
        raise RunDirectoryError(f"{directory.path}: run.json holds no job: {error}") from error


def _refuse_code(job: Job, run_code: bool) -> None:
    imports = {"model.import": getattr(job.model, "import_", None), "data.import": job.data.import_}
    named = [f"{name}: {printable(value)}" for name, value in imports.items() if value is not None]
    if named and not run_code:
        raise SrsRayError(
            f"to certify points again is to run the code that the run names ({', '.join(named)}), with your rights: "
            "read that code, then allow it with --run-code, or leave --points out"
        )


def _repeat(directory: RunDirectory, job: Job, indices: Sequence[int]) -> list[Repeated]:
    """Certifies the points again, each by the batch of its row."""
    from srs_ray.runner.backend import device_here
    from srs_ray.runner.preparation import JobInputs, fingerprint_of
    from srs_ray.runner.worker import PointWorker
    from srs_ray.smoothing.noise import generator_named

    execution = job.execution.model_copy(update={"device": "auto", "batch": "auto"})
    inputs = JobInputs.read(job.model_copy(update={"execution": execution}))
    generator = generator_named(str(directory.fingerprint.get("noise.generator")))
    spec = inputs.resolve(device_here(execution), generator)
    directory.refuse_other(fingerprint_of(spec, inputs.source), ("data.sample",))
    rows = {row["index"]: row for row in directory.rows().to_pylist()}
    worker = PointWorker(spec, inputs.cargo, execution.cpus_per_worker)
    kinds = {kind for session in directory.sessions for kind in session.get(REHEARSED) or {}}
    return [_compared(worker, rows[index], kinds) for index in indices]


def _compared(worker: PointWorker, row: Mapping[str, Any], kinds: Iterable[str]) -> Repeated:
    from srs_ray.runner.rehearsal import processor

    index, batch = row["index"], row["batch"]
    if batch is not None:
        worker.judge = replace(worker.judge, batch=batch)
    again = worker.certify(index)
    if again["status"] != "ok":
        return Repeated(index, error=printable(str(again["error"])))
    differing = tuple(name for name in COUNTED if row[name] is not None and row[name] != again[name])
    here = processor(worker.judge.model.device)
    explained = ""
    if differing and not any(kind.startswith(f"{here}, batch ") for kind in kinds):
        explained = f"this processor is none of the run's, so it may be rounding: {here}"
    elif differing and again["batch"] != batch:
        explained = f"by batch {again['batch']} instead of {batch}, so it may be rounding"
    return Repeated(index, differing, explained=explained)
