"""A pilot: some points of a job, spread evenly over all of them, certified into the job's own run directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from srs_ray.errors import RunDirectoryError
from srs_ray.job import Job
from srs_ray.runner.backend import Backend
from srs_ray.runner.certification import RunSummary, certify
from srs_ray.runner.preparation import JobInputs, begun_with, fingerprint_of
from srs_ray.runner.same_images import refuse_other_images
from srs_ray.runs import RunDirectory
from srs_ray.runs.schema import Row

_COLUMNS = (
    "index",
    "status",
    "error",
    "predicted",
    "radius",
    "selected",
    "n0",
    "n",
    "classes",
    "counts",
    "audited",
    "audited_misses",
    "found",
    "disagreed",
    "function_evaluations",
    "reference_evaluations",
    "method",
    "seconds",
    "device",
)


@dataclass(frozen=True)
class Pilot:
    """What a pilot leaves: the job as its model completes it, the points it asks for, those of the pilot, and rows.

    `rows` has the effective row of each of the job's points that ended; `workers` is how many the points still to do
    get, None where nothing was started to ask. `summary` is how sampling ended, None where nothing was to be sampled.
    """

    job: Job
    indices: range
    pilot: range
    rows: list[Row]
    workers: int | None = None
    summary: RunSummary | None = None


def pilot_indices(indices: range, points: int) -> range:
    """At most so many of the indices, evenly spread from the first on; none for 0."""
    return indices[:: -(-len(indices) // points)] if points else indices[:0]


def run_pilot(
    job: Job, open_backend: Callable[[], Backend], console: Console, points: int, download: bool = False
) -> Pilot:
    """Certifies at most so many points of the job as `certify` does, less those that its run directory holds.

    `certify` of the job continues from there. For 0 points nothing is started. Raises SrsRayError as `certify` does.
    """
    inputs = JobInputs.read(job, download)
    chosen = pilot_indices(inputs.indices, points)
    run = RunDirectory.find(job.output)
    if run is not None:
        _refuse_other(run, inputs)
    finished = set() if run is None else run.finished()
    todo = len(inputs.indices) - len(finished.intersection(inputs.indices))
    workers: int | None = None

    def open_and_ask() -> Backend:
        nonlocal workers
        backend = open_backend()
        try:
            workers = backend.workers(max(todo, 1))
        except BaseException:
            backend.close()
            raise
        return backend

    summary = None
    if finished.issuperset(chosen):
        # Nothing to sample: run.json keeps the points that were last asked for.
        if chosen and todo:
            open_and_ask().close()
    else:
        thinned = job.data.model_copy(update={"every": chosen.step})
        summary = certify(job.model_copy(update={"data": thinned}), open_and_ask, console, tell_end=False)
    assert isinstance(inputs.job, Job)
    return Pilot(inputs.job, inputs.indices, chosen, _rows(job.output, inputs.indices), workers, summary)


def _refuse_other(run: RunDirectory, inputs: JobInputs) -> None:
    """Refuses a run of other settings, whichever kind of device the job will have."""
    device = inputs.job.execution.device
    fingerprints = [
        fingerprint_of(inputs.resolve(kind, begun_with(run.path)), inputs.source)
        for kind in (("cpu", "cuda") if device == "auto" else (device,))
    ]
    verified = [refuse_other_images(run, fingerprint, inputs.dataset) for fingerprint in fingerprints]
    try:
        run.refuse_other(fingerprints[0], verified[0])
    except RunDirectoryError:
        if len(fingerprints) == 1:
            raise
        run.refuse_other(fingerprints[1], verified[1])


def _rows(path: str, indices: range) -> list[dict[str, Any]]:
    run = RunDirectory.find(path)
    rows: list[dict[str, Any]] = [] if run is None else run.rows(_COLUMNS).to_pylist()
    return [row for row in rows if row["index"] in indices]
