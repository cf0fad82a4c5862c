"""Whether a run holds: its rows against their counts and settings, and some of its points certified again."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from srs_ray.analysis.points import points_of
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import certificate_line, guarantee_line
from srs_ray.errors import RunDirectoryError, SrsRayError
from srs_ray.runs.directory import RunDirectory
from srs_ray.runs.fingerprint import differences, not_compared
from srs_ray.runs.printable import printable
from srs_ray.runs.record import REHEARSED

if TYPE_CHECKING:
    from srs_ray.job import AnyJob
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
    "leading",
    "runner_up",
)
# Of a deterministic certificate: numbers that may round otherwise on another machine, and so relatively differ by this.
MEASURED = ("radius", "logit_margin", "pair_constant")
_RELATIVE = 1e-6
LARGEST_BATCH = 4096  # of samples at once, whatever a row says
# What two logits that tie within rounding can change, by how a sample falls and what follows from that.
ROUNDED = frozenset(COUNTED) - {"label", "pixels", "n0", "sigma"}


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
    points: str  # start:stop:every of those asked for
    model: str
    to_repeat: int  # points that were to be certified again
    faults: tuple[str, ...]  # a line for each part that does not hold, and each point whose rows contradict each other
    repeated: tuple[Repeated, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every row is what its counts say, none contradicts another, and every point that was to be certified
        again came out as it was; where there was none to certify again, not."""
        repeated = all(each.equal for each in self.repeated) and (bool(self.repeated) or not self.to_repeat)
        return not self.faults and repeated


def verify_run(
    run: str | os.PathLike[str] | RunDirectory,
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
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    job = stored_job(directory)
    faults = [*directory.faults(), *_contradictions(directory)]
    df = points_of(directory)
    info = RunInfo.of(df)
    done = df["status"] == "ok"
    notes = list(directory.notes)
    if info.outside:
        notes.append(f"{info.outside} more points have rows, and are not among those that were last asked for")
    repeated: Sequence[Repeated] = ()
    if not points and (weights is not None or data is not None):
        raise SrsRayError("weights and data are for points that are certified again: say how many (--points)")
    if points:
        if weights is not None:
            job = job.model_copy(update={"model": job.model.model_copy(update={"weights": weights})})
        if data is not None and job.data.path is None:
            raise SrsRayError(f"the run's data, {info.data}, have no path that another could take the place of")
        if data is not None:
            job = job.model_copy(update={"data": job.data.model_copy(update={"path": data})})
        refuse_code(job, run_code)
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
        points=f"{info.start}:{info.stop}:{info.every}",
        model=info.arch,
        to_repeat=points,
        faults=tuple(faults),
        repeated=tuple(repeated),
        notes=tuple(map(printable, notes)),
    )


def stored_job(directory: RunDirectory) -> AnyJob:
    """The run's job by the model of job files; RunDirectoryError for what is none. No file that it names is read."""
    from srs_ray.job import kind_of_job

    classes = directory.job.get("data", {}).get("classes")
    try:
        if isinstance(classes, str):
            raise ValueError("data.classes names a file, where a run keeps the names themselves")
        return kind_of_job(directory.job).model_validate(directory.job)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise RunDirectoryError(
            f"{directory.path}: run.json holds no job: {printable(f'{place}: {message}')}"
        ) from error
    except ValueError as error:
        raise RunDirectoryError(f"{directory.path}: run.json holds no job: {error}") from error


def refuse_code(
    job: AnyJob, run_code: bool, doing: str = "to certify points again", else_: str = "leave --points out"
) -> None:
    """SrsRayError where the job names code as its model or data, unless `run_code` says that it may be run."""
    imports = {"model.import": getattr(job.model, "import_", None), "data.import": job.data.import_}
    named = [f"{name}: {printable(value)}" for name, value in imports.items() if value is not None]
    if named and not run_code:
        raise SrsRayError(
            f"{doing} is to run the code that the run names ({', '.join(named)}), with your rights: "
            f"read that code, then allow it with --run-code, or {else_}"
        )


def _repeat(directory: RunDirectory, job: AnyJob, indices: Sequence[int]) -> list[Repeated]:
    """Certifies the points again, each by the batch of its row."""
    from srs_ray.runner.backend import device_here
    from srs_ray.runner.preparation import JobInputs, fingerprint_of
    from srs_ray.runner.worker import PointWorker
    from srs_ray.smoothing.noise import generator_named

    execution = job.execution.model_copy(update={"device": "auto" if job.samples else "cpu", "batch": "auto"})
    inputs = JobInputs.read(job.model_copy(update={"execution": execution}))
    generator = generator_named(str(directory.fingerprint.get("noise.generator")))
    spec = inputs.resolve(device_here(execution), generator)
    here = fingerprint_of(spec, inputs.source)
    skipped = {"data.sample", *not_compared(directory.fingerprint, here)}
    others = [each for each in differences(directory.fingerprint, here) if each[0] not in skipped]
    if others:
        said = "; ".join(f"{printable(name)}: {was} in the run, {now} here" for name, was, now in others[:4])
        raise RunDirectoryError(
            f"{directory.path}: its points cannot be certified again with what is here ({printable(said)}): give the "
            "weights, the data and the srs-ray that it was made with"
        )
    table = directory.rows()
    lacking = {name for name in COUNTED if table[name].null_count == len(table)}  # of an older program, in all rows
    rows = {row["index"]: row for row in table.to_pylist()}
    worker = PointWorker(spec, inputs.cargo, min(execution.cpus_per_worker, os.cpu_count() or 1))
    rehearsed = [session.get(REHEARSED) for session in directory.sessions]
    kinds = {str(kind) for each in rehearsed if isinstance(each, dict) for kind in each}
    compared = [name for name in COUNTED if name not in lacking]
    return [_compared(worker, rows[index], compared, kinds) for index in indices]


def _contradictions(directory: RunDirectory) -> list[str]:
    """One line for each point with two `ok` rows that were sampled alike and differ: samples are a function of the
    run's settings, so one of the rows was not sampled."""
    columns = [*COUNTED, "device", "dtype", "batch"]
    first: dict[int, dict[str, Any]] = {}
    found: dict[int, str] = {}
    for row in directory.attempts().select(["index", "status", *columns]).to_pylist():
        if row["status"] != "ok":
            continue
        other = first.setdefault(row["index"], row)
        alike = all(row[name] == other[name] for name in ("device", "dtype", "batch"))
        differing = [name for name in COUNTED if None not in (row[name], other[name]) and row[name] != other[name]]
        if differing and (alike or {"pixels", "label"} & {*differing}):
            found[row["index"]] = f"point {row['index']}: two rows of it differ in {', '.join(differing)}"
    return [found[index] for index in sorted(found)]


def _compared(worker: PointWorker, row: Mapping[str, Any], columns: Sequence[str], kinds: Collection[str]) -> Repeated:
    from srs_ray.runner.rehearsal import processor

    index, batch = row["index"], row["batch"]
    if batch is not None:
        worker.judge = replace(worker.judge, batch=min(batch, LARGEST_BATCH))
    again = worker.certify(index)
    if again["status"] != "ok":
        return Repeated(index, error=printable(str(again["error"])))
    differing = tuple(name for name in columns if row[name] != again.get(name))
    if row["pair_constant"] is not None:
        differing += tuple(
            name for name in MEASURED if not isclose(row[name], again[name], rel_tol=_RELATIVE, abs_tol=1e-5)
        )
    here = processor(worker.judge.model.device)
    explained = ""
    if not differing or not {*differing} <= ROUNDED:
        pass
    elif not kinds:
        explained = "the run does not say which processors made it, so it may be rounding"
    elif not any(kind.startswith(f"{here}, batch ") for kind in kinds):
        explained = f"this processor is none of the run's, so it may be rounding: {here}"
    elif again["batch"] != batch:
        explained = f"by batch {again['batch']} instead of {batch}, so it may be rounding"
    return Repeated(index, differing, explained=explained)
