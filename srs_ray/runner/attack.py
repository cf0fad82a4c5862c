"""Attacks on a run's certified points: through a backend into a directory of their own, as certification has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from rich.console import Console
from rich.markup import escape

from srs_ray.attacks.point import Certified
from srs_ray.attacks.settings import AttackSettings
from srs_ray.errors import RunDirectoryError
from srs_ray.job import Job
from srs_ray.runner.attack_worker import AttackSpec
from srs_ray.runner.backend import Backend, Rows
from srs_ray.runner.certification import RunSummary, finish, recorded_rows, with_sources
from srs_ray.runner.preparation import JobInputs, fingerprint_of, session_record
from srs_ray.runner.progress import Tally
from srs_ray.runner.worker import WorkerSpec
from srs_ray.runs import Lease, RunDirectory
from srs_ray.runs.attack_schema import ATTACKS
from srs_ray.runs.fingerprint import differences, not_compared
from srs_ray.runs.printable import printable
from srs_ray.runs.record import Json
from srs_ray.runs.schema import Row
from srs_ray.smoothing.noise import generator_named

VERSION = 1  # of attacks: a change of the program that can change a row is a new one
CERTIFIED = "certified."  # before the run's settings in the fingerprint of an attack on it
_NOT_OF_THE_BASE_CLASSIFIER = ("data.sample", "sampling.version")
_SHOWN = 4


@dataclass(frozen=True)
class Contradiction:
    """A certified point whose smoothed classifier was broken inside the certified radius."""

    index: int
    predicted: int
    radius: float
    distance: float
    found_class: int

    def __str__(self) -> str:
        return (
            f"point {self.index}: certified as class {self.predicted} to radius {self.radius:.4f}, and the smoothed "
            f"classifier predicts class {self.found_class} at distance {self.distance:.4f}"
        )


@dataclass(frozen=True)
class AttackSummary:
    """How attacks ended, and the certificates that they contradict; `certified` counts points with a radius above 0."""

    run: RunSummary
    certified: int
    contradictions: tuple[Contradiction, ...]

    @property
    def exit_code(self) -> int:
        """That of the run; 3 also where an attack contradicts a certificate."""
        return self.run.exit_code or (3 if self.contradictions else 0)


@dataclass
class AttackTally(Tally):
    """Counts over the attacked points; `radius` is one to look at."""

    columns: ClassVar[tuple[str, ...]] = ("correct", "distance", "contradicts")
    unbroken: int = 0
    contradicted: int = 0

    def add(self, row: Row) -> None:
        """Counts one row."""
        if row["status"] != "ok":
            self.errors += 1
            return
        self.done += 1
        distance = row["distance"]
        self.unbroken += bool(row["correct"]) and (distance is None or distance > self.radius)
        self.contradicted += bool(row["contradicts"])

    @property
    def parts(self) -> list[str]:
        """What became of the points, each in words."""
        if not self.done + self.errors:
            return []
        parts = [f"right and not broken up to {self.radius:g}: {self.unbroken} of {self.done}"]
        if self.contradicted:
            parts.append(f"CERTIFICATES CONTRADICTED: {self.contradicted}")
        return [*parts, f"errors: {self.errors}"] if self.errors else parts


def attack(
    certified: str,
    job: Job,
    settings: AttackSettings,
    output: str,
    open_backend: Callable[[], Backend],
    console: Console,
) -> AttackSummary:
    """Attacks the points that the run at `certified` has certificates of, or goes on where that was stopped.

    `job` is that of the run, with places as they are here; weights, data and program must have the run's fingerprint.
    Rows are kept at `output` as they come, with the fault handling of certification. Raises SrsRayError for what the
    user can mend.
    """
    run = RunDirectory.open(certified)
    inputs = JobInputs.read(job)
    settings = settings.with_radii(job.report.radii)
    rows = _certified_rows(run)
    indices = [index for index in inputs.indices if index in rows]
    if not indices:
        raise RunDirectoryError(f"{run.path}: none of the points asked for has a certificate: certify them first")
    generator = generator_named(str(run.fingerprint.get("noise.generator")))
    with Lease.acquire(output) as lease:
        spec = inputs.resolve("cpu", generator)
        _refuse_another_program(run, fingerprint_of(spec, inputs.source))
        tally = AttackTally(max(settings.radii or (0.0,)))
        fingerprint = _attack_fingerprint(run, settings)
        before = RunDirectory.find(output, (ATTACKS,))
        if before is not None:
            before.refuse_other(fingerprint)
            if before.finished().issuperset(indices):
                summary = finish(before, lease, indices, _no_rows, lambda: 0, tally, console)
                return _summary(before, summary, indices, rows)
        backend = open_backend()
        try:
            spec = _spec(inputs.resolve(backend.device, generator), output, settings, rows)
            spec = replace(spec, batch=_batch_before(spec, before, run))
            workers = backend.workers(len(indices))
            directory = RunDirectory.create_or_continue(
                output,
                job={**job.model_dump(mode="json"), "attack": settings.model_dump(mode="json"), "output": output},
                fingerprint=fingerprint,
                points=inputs.points,
                session={**session_record(spec, workers, backend.accelerators), "certified": run.path},
                form=ATTACKS,
            )
            for note in directory.notes:
                console.print(f"[dim]note: {escape(printable(note))}[/]", highlight=False)
            described = backend.describe(workers)
            console.print(f"{escape(printable(directory.path))}: {described}, batch {spec.batch}", highlight=False)
            summary = finish(
                directory,
                lease,
                indices,
                lambda todo: with_sources(recorded_rows(directory, backend, spec, inputs.cargo, todo), inputs.dataset),
                lambda: backend.ready,
                tally,
                console,
                "attacking",
            )
        finally:
            backend.close()
    return _summary(directory, summary, indices, rows)


def _certified_rows(run: RunDirectory) -> dict[int, Certified]:
    """What the run says of each point that has a certificate or an abstention."""
    table = run.rows(["index", "status", "predicted", "radius", "pixels"])
    return {
        row["index"]: Certified(row["predicted"], row["radius"] if row["predicted"] >= 0 else 0.0, row["pixels"])
        for row in table.to_pylist()
        if row["status"] == "ok"
    }


def _refuse_another_program(run: RunDirectory, here: Json) -> None:
    """Raise RunDirectoryError where the base classifier, its noise or the images are others than the run's."""
    skipped = {*_NOT_OF_THE_BASE_CLASSIFIER, *not_compared(run.fingerprint, here)}
    others = [each for each in differences(run.fingerprint, here) if each[0] not in skipped]
    if others:
        said = "; ".join(f"{name}: {was} in the run, {now} here" for name, was, now in others[:_SHOWN])
        raise RunDirectoryError(
            f"{run.path}: its points cannot be attacked with what is here ({printable(said)}): give the weights, the "
            "data and the settings that it was certified with"
        )


def _attack_fingerprint(run: RunDirectory, settings: AttackSettings) -> Json:
    certified = {f"{CERTIFIED}{name}": value for name, value in run.fingerprint.items()}
    return {**certified, **settings.fingerprint(), "attack.version": VERSION}


def _spec(spec: WorkerSpec, output: str, settings: AttackSettings, rows: dict[int, Certified]) -> AttackSpec:
    known = {each.name: getattr(spec, each.name) for each in fields(spec)}
    known["job"] = spec.job.model_copy(update={"output": output})
    return AttackSpec(**known, attack=settings, certified=rows)


def _batch_before(spec: WorkerSpec, *runs: RunDirectory | None) -> int:
    """The batch of the last session on such a device, of the attack or else of the run; where none is, that of the
    rule. A job that names one has it."""
    if spec.job.execution.batch == "auto":
        for run in runs:
            for session in reversed(run.sessions if run is not None else []):
                if session.get("device") == spec.device and isinstance(session.get("batch"), int):
                    return max(1, session["batch"])
    return spec.batch


def _summary(
    directory: RunDirectory, summary: RunSummary, indices: Sequence[int], rows: dict[int, Certified]
) -> AttackSummary:
    columns = ["index", "status", "contradicts", "predicted", "radius", "distance", "found_class"]
    asked = set(indices)
    found = [row for row in directory.rows(columns).to_pylist() if row["index"] in asked and row["contradicts"]]
    names = [each.name for each in fields(Contradiction)]
    return AttackSummary(
        run=summary,
        certified=sum(rows[index].radius > 0 for index in indices),
        contradictions=tuple(Contradiction(**{name: row[name] for name in names}) for row in found),
    )


def _no_rows(indices: Sequence[int]) -> Rows:
    raise AssertionError(f"points {list(indices)} were to be finished")
