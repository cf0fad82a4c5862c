"""A whole run: what is asked for, less what the run directory holds, through a backend and back into the directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from statistics import median_low
from typing import Any

from rich.console import Console
from rich.markup import escape

from srs_ray.data import PointDataset
from srs_ray.errors import RunDirectoryError
from srs_ray.job import AnyJob, Job
from srs_ray.runner.backend import Backend, Rows
from srs_ray.runner.ending import broken_off, ended, run_command, shown_command
from srs_ray.runner.feasibility import check_feasible
from srs_ray.runner.preparation import JobInputs, begun_with, fingerprint_of, session_record
from srs_ray.runner.progress import RunProgress, Tally
from srs_ray.runner.same_images import refuse_other_images
from srs_ray.runner.signals import StopRequest
from srs_ray.runner.worker import Cargo, WorkerSpec
from srs_ray.runs import Lease, RowWriter, RunDirectory, runs_on_the_same_noise
from srs_ray.runs.fingerprint import differences, not_compared
from srs_ray.runs.printable import printable
from srs_ray.runs.record import REHEARSED
from srs_ray.runs.schema import Row

log = logging.getLogger(__name__)

MEASURED_SAMPLES = 2**15  # of a run, from which on it is worth to measure the batch: that takes about a thousand
SETTINGS_SHOWN = 3


@dataclass(frozen=True)
class RunSummary:
    """How a run ended: points asked for, done in all, finished by this session, and failed ones among those asked for.

    `signal` is the number of the signal that stopped it, or None.
    """

    path: str
    asked: int
    done: int
    finished: int
    errors: int
    signal: int | None
    certified_accuracy: Mapping[float, float] = field(default_factory=dict)  # of the points that ended, by radius

    @property
    def missing(self) -> int:
        """Points that have no certificate yet, failed ones among them."""
        return self.asked - self.done

    @property
    def exit_code(self) -> int:
        """0 when all is done, 3 with failed or missing points, 129, 130 or 143 when a signal stopped it."""
        if self.signal is not None:
            return 128 + self.signal
        return 3 if self.missing else 0


def certify(
    job: AnyJob,
    open_backend: Callable[[], Backend],
    console: Console,
    download: bool = False,
    tell_end: bool = True,
) -> RunSummary:
    """Runs a job, or continues it: certifies the points that its run directory does not hold yet.

    Everything is read and checked before the backend is opened, and where nothing is to do it is not. Rows are kept as
    they come, through Ctrl-C, SIGTERM, SIGHUP and the loss of workers. Raises SrsRayError for what the user can mend.
    With `tell_end` the job's command `execution.on_end` runs when the run has ended, also by an exception; it changes
    nothing of how it ended.
    """
    for warning in check_feasible(job):
        console.print(f"[yellow]warning:[/] {escape(printable(warning))}", highlight=False)
    inputs = JobInputs.read(job, download)
    job = inputs.job
    trained_at = inputs.source.card.get("sigma")
    if isinstance(job, Job) and trained_at is not None and trained_at != job.noise.sigma:
        console.print(
            f"[yellow]warning:[/] the weights were trained at sigma {trained_at}, the job's noise.sigma is "
            f"{job.noise.sigma:g}: certificates are valid, but radii are usually best at the sigma of the training",
            highlight=False,
        )
    command = job.execution.on_end if tell_end else None
    if command is not None:
        console.print(f"execution.on_end: at its end the run starts: {escape(shown_command(command))}", highlight=False)
    begun = False
    try:
        with Lease.acquire(job.output) as lease:
            begun = True
            summary = _certified(inputs, open_backend, lease, console)
    except (Exception, KeyboardInterrupt) as error:
        if command is not None and begun:
            run_command(command, broken_off(job.output, error), job.execution.on_end_seconds)
        raise
    if command is not None:
        run_command(command, ended(summary), job.execution.on_end_seconds)
    return summary


def _certified(inputs: JobInputs, open_backend: Callable[[], Backend], lease: Lease, console: Console) -> RunSummary:
    done = _spec_of_a_finished_run(inputs)
    if done is not None:
        return _run_nothing(inputs, *done, lease, console)
    backend = open_backend()
    try:
        return _run(inputs, backend, lease, console)
    finally:
        backend.close()


def _run(inputs: JobInputs, backend: Backend, lease: Lease, console: Console) -> RunSummary:
    job = inputs.job
    spec, how = _with_batch(inputs, inputs.resolve(backend.device, begun_with(job.output)), backend, console)
    workers = backend.workers(len(inputs.indices))
    run = _started(inputs, spec, workers, console, backend.accelerators)
    console.print(f"{escape(printable(run.path))}: {backend.describe(workers)}, batch {how}", highlight=False)
    return finish(
        run,
        lease,
        inputs.indices,
        lambda indices: with_sources(recorded_rows(run, backend, spec, inputs.cargo, indices), inputs.dataset),
        lambda: backend.ready,
        _watched(job),
        console,
    )


def _spec_of_a_finished_run(inputs: JobInputs) -> tuple[WorkerSpec, int] | None:
    """Where the run holds every point that is asked for: how and by how many workers its last session would go on."""
    run = RunDirectory.find(inputs.job.output)
    if run is None or not run.sessions or not run.finished().issuperset(inputs.indices):
        return None
    last, asked = run.sessions[-1], inputs.job.execution.device
    device = last.get("device")
    if device not in ("cpu", "cuda") or asked not in ("auto", device):
        return None
    spec = inputs.resolve(device, begun_with(inputs.job.output))
    fingerprint = fingerprint_of(spec, inputs.source)
    changed = {name for name, _, _ in differences(run.fingerprint, fingerprint)}
    if changed.difference(not_compared(run.fingerprint, fingerprint)):
        return None
    batch = last.get("batch", spec.batch) if inputs.job.execution.batch == "auto" else spec.batch
    return replace(spec, batch=batch), int(last.get("workers", 0))


def _run_nothing(inputs: JobInputs, spec: WorkerSpec, workers: int, lease: Lease, console: Console) -> RunSummary:
    """A run with nothing to do, for which nothing is started."""
    run = _started(inputs, spec, workers, console)
    return finish(run, lease, inputs.indices, _no_rows, lambda: 0, _watched(inputs.job), console)


def _no_rows(indices: Sequence[int]) -> Rows:
    raise AssertionError(f"points {list(indices)} were to be finished")


def _watched(job: AnyJob) -> Tally:
    """What of the job's points is counted while it runs."""
    radii = job.report.radii
    return Tally(median_low(radii) if radii else 0.0, radii=radii, targets=job.report.targets or {})


def _started(
    inputs: JobInputs, spec: WorkerSpec, workers: int, console: Console, accelerators: Sequence[str] = ()
) -> RunDirectory:
    """The run directory, open for writing, after its warnings are printed."""
    job = inputs.job
    fingerprint = fingerprint_of(spec, inputs.source)
    for warning in _chosen_on_this_noise(job.output, fingerprint):
        console.print(f"[yellow]warning:[/] {escape(printable(warning))}", highlight=False)
    before = RunDirectory.find(job.output)
    run = RunDirectory.create_or_continue(
        job.output,
        job=job.model_dump(mode="json"),
        fingerprint=fingerprint,
        points=inputs.points,
        session=session_record(spec, workers, accelerators),
        verified=() if before is None else refuse_other_images(before, fingerprint, inputs.dataset),
    )
    for note in run.notes:
        console.print(f"[dim]note: {escape(printable(note))}[/]", highlight=False)
    return run


def recorded_rows(run: RunDirectory, backend: Backend, spec: WorkerSpec, cargo: Cargo, indices: Sequence[int]) -> Rows:
    """The backend's rows; what its workers' rehearsals say is kept in run.json before the rows that follow them."""
    kept: dict[str, str] = {}
    with closing(backend.rows(spec, cargo, indices)) as rows:
        for row in rows:
            if backend.rehearsed != kept:
                kept = dict(backend.rehearsed)
                run.add_to_session(REHEARSED, kept)
            yield row


def _chosen_on_this_noise(path: str, fingerprint: dict[str, Any]) -> list[str]:
    """What to say of runs beside this one whose results, on its noise, may have led to its settings."""
    warnings = []
    for other in runs_on_the_same_noise(path, fingerprint):
        shown = [f"{name} {was} there, {now} here" for name, was, now in other.differing[:SETTINGS_SHOWN]]
        more = len(other.differing) - len(shown)
        warnings.append(
            f"{other.path} has results of the same model, data and seed, by other settings ({'; '.join(shown)}"
            + (f"; {more} more" if more else "")
            + "): if they led to the settings here, certificates are wrong more often than alpha; then take another "
            "--seed and --output"
        )
    return warnings


def with_sources(rows: Rows, dataset: PointDataset) -> Rows:
    """The rows, each with its image's source: one of a worker that died has none."""
    with closing(rows):
        for row in rows:
            if row is not None and row.get("source") is None:
                row = {**row, "source": printable(dataset.name(row["index"]))}
            yield row


def _with_batch(inputs: JobInputs, spec: WorkerSpec, backend: Backend, console: Console) -> tuple[WorkerSpec, str]:
    """The spec with the batch of the run, and what to say of it.

    Where the job leaves it open: the batch that the run had before on such GPUs, or on CPUs; at its first start the one
    that is measured to be fastest, if the run is long enough to be worth that, else the rule's.
    """
    job = inputs.job
    if isinstance(job, Job) and job.execution.batch == "auto":
        run = RunDirectory.find(job.output)
        for session in reversed(run.sessions if run is not None else []):
            same = session.get("accelerators", list(backend.accelerators)) == list(backend.accelerators)
            if session.get("device") == spec.device and same and "batch" in session:
                return replace(spec, batch=session["batch"]), f"{session['batch']} as before"
        if len(inputs.indices) * job.sampling.n >= MEASURED_SAMPLES:
            with console.status("measuring how many samples at once are fastest"):
                measured = backend.fastest_batch(spec, inputs.cargo)
            if measured is not None:
                return replace(spec, batch=measured.batch), str(measured)
    return spec, str(spec.batch)


def finish(
    run: RunDirectory,
    lease: Lease,
    indices: Sequence[int],
    rows_of: Callable[[Sequence[int]], Rows],
    workers: Callable[[], int],
    tally: Tally,
    console: Console,
    verb: str = "certifying",
) -> RunSummary:
    """Does what a run directory lacks of the points `indices`, and keeps each row that `rows_of` yields.

    `workers()` is how many are at work, and `tally`, empty, counts points for who looks on. Raises RunDirectoryError
    where rows cannot be kept, or another process has taken the lease over.
    """
    finished_before = run.finished()
    todo = [index for index in indices if index not in finished_before]
    counted(run, set(indices), tally)
    console.print(f"{len(todo)} of {len(indices)} points to do", highlight=False)
    finished = 0
    with StopRequest() as stop, RowWriter(run) as writer, RunProgress(console, len(indices), tally, verb) as progress:
        if todo:
            with closing(rows_of(todo)) as rows:
                for row in rows:
                    if row is not None:
                        writer.add(row)
                        progress.add(row)
                        finished += row["status"] == "ok"
                        _report(row)
                    writer.tick()
                    progress.tick(workers())
                    if lease.lost is not None:
                        raise RunDirectoryError(lease.lost)
                    if stop.received is not None:
                        break
    return RunSummary(
        path=run.path,
        asked=len(indices),
        done=len(indices) - len(todo) + finished,
        finished=finished,
        errors=tally.errors,
        signal=stop.received,
        certified_accuracy=tally.shares,
    )


def _report(row: Row) -> None:
    if row["status"] == "ok":
        log.debug("point %d: %s, radius %.3g, %.3g s", row["index"], row["predicted"], row["radius"], row["seconds"])
    else:
        log.warning("point %d: %s", row["index"], row["error"])


def counted(run: RunDirectory, asked: set[int], tally: Tally) -> Tally:
    """The tally with the points asked for that earlier sessions finished, in the order in which they ended."""
    rows = run.rows(list(dict.fromkeys(["index", "status", "finished_at", *tally.columns])))
    for row in rows.sort_by("finished_at").to_pylist():
        if row["index"] in asked and row["status"] == "ok":
            tally.add(row)
    return tally
