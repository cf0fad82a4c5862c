"""What a whole job will cost and can earn, expected from the rows of a pilot: numbers in, a plan out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from scipy.special import stdtrit

from srs_ray.job import Job
from srs_ray.planning.savings import Saving, savings
from srs_ray.planning.target_radius import TargetPlan, plan_target
from srs_ray.runs.schema import Row


@dataclass(frozen=True)
class Expected:
    """What is expected, and the ends of its 95 % interval: None where a single point tells nothing of the spread."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Cost:
    """What a point costs on average, the points still to do, and all of them, those that are done as they were."""

    per_point: float
    todo: Expected
    all: Expected


@dataclass(frozen=True)
class Costs:
    """`worker_hours` are GPU-hours where a GPU did the points; evaluations are calls of the layer, summed over samples.

    `wall_hours` is of the points still to do, None where it is not known how many workers there are.
    """

    worker_hours: Cost
    wall_hours: Expected | None
    evaluations: Cost
    sampler_evaluations: Cost
    audit_evaluations: Cost


@dataclass(frozen=True)
class JobPlan:
    """A job's plan. Radii are in pixel units of [0, 1]; `costs` and `savings` need a point that was certified.

    `points` and `done` count the job's; `pilot` the points that the expectations rest on, and `errors` those among
    the pilot's that ended in one. `samples` is the mean drawn to estimate, and `methods` how many points were sampled
    in which way.
    """

    run: str
    points: int
    done: int
    pilot: int
    errors: int
    first_error: str | None
    workers: int | None
    devices: tuple[str, ...]
    costs: Costs | None
    samples: float | None
    most_samples: int
    by_looks: bool
    methods: dict[str, int]
    limits: str
    radius_cap: float
    radius_cap_in_sigma: float
    target: TargetPlan | None
    savings: tuple[Saving, ...]

    @property
    def todo(self) -> int:
        """Points that have no certificate yet."""
        return self.points - self.done

    @property
    def on_gpu(self) -> bool:
        """Whether worker hours are those of GPUs."""
        return any(device != "cpu" for device in self.devices)


def plan_job(
    job: Job, indices: range, pilot: range, rows: Sequence[Row], workers: int | None, target: float | None
) -> JobPlan:
    """The plan of a job that asks for `indices`, from `rows` of some of them.

    Expectations rest on the points `pilot`, or on all that there are rows of where that is empty. `workers` is how many
    will do the rest, where that is known; `target` a radius to propose settings for.
    """
    asked = [row for row in rows if row["index"] in indices]
    chosen = [row for row in asked if not pilot or row["index"] in pilot]
    done = [row for row in asked if row["status"] == "ok"]
    sample = [row for row in chosen if row["status"] == "ok"]
    errors = [row["error"] for row in chosen if row["status"] != "ok"]
    if workers is None and isinstance(job.execution.workers, int):
        workers = min(job.execution.workers, len(indices))
    smoothing = job.smoothing
    cap = smoothing.radius_cap
    return JobPlan(
        run=job.output,
        points=len(indices),
        done=len(done),
        pilot=len(sample),
        errors=len(errors),
        first_error=errors[0] if errors else None,
        workers=workers,
        devices=tuple(sorted({row["device"] for row in sample})),
        costs=_costs(job, sample, done, len(indices) - len(done), workers) if sample else None,
        samples=fmean(row["n"] for row in sample) if sample else None,
        most_samples=job.sampling.n,
        by_looks=job.sampling.by_looks,
        methods=dict(Counter(row["method"] for row in sample if row["method"] is not None)),
        limits=smoothing.limits,
        radius_cap=cap,
        radius_cap_in_sigma=cap / job.noise.sigma,
        target=None if target is None else plan_target(job, sample, target),
        savings=savings(job, sample) if sample else (),
    )


def expected_cost(sample: Sequence[float], done: Sequence[float], todo: int) -> Cost:
    """From the costs of an even sample of points, and of all that are done, what `todo` further points will cost.

    The interval is Student's for a sum over points that the sample does not hold, drawn like those that it does: its
    variance is s^2 todo^2 (1 / m + 1 / todo), for m + todo points in all that of a finite population's sum.
    """
    mean, m, spent = fmean(sample), len(sample), sum(done)
    if not todo:
        return Cost(mean, Expected(0.0, 0.0, 0.0), Expected(spent, spent, spent))
    if m == 1:
        return Cost(mean, Expected(todo * mean, None, None), Expected(spent + todo * mean, None, None))
    half = float(stdtrit(m - 1, 0.975)) * stdev(sample) * todo * sqrt(1 / m + 1 / todo)
    low, high = max(0.0, todo * mean - half), todo * mean + half
    return Cost(mean, Expected(todo * mean, low, high), Expected(spent + todo * mean, spent + low, spent + high))


def _costs(job: Job, sample: Sequence[Row], done: Sequence[Row], todo: int, workers: int | None) -> Costs:
    share = job.execution.gpus_per_worker if any(row["device"] != "cpu" for row in sample) else 1.0

    def cost(*columns: str, unit: float = 1.0) -> Cost:
        of_sample, of_done = ([sum(row[name] for name in columns) * unit for row in rows] for rows in (sample, done))
        return expected_cost(of_sample, of_done, todo)

    return Costs(
        worker_hours=cost("seconds", unit=share / 3600),
        wall_hours=cost("seconds", unit=1 / 3600 / max(1, min(workers, todo))).todo if workers else None,
        evaluations=cost("function_evaluations", "reference_evaluations"),
        sampler_evaluations=cost("function_evaluations"),
        audit_evaluations=cost("reference_evaluations"),
    )
