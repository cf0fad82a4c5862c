"""Single changes of a job that make it cheaper: what they leave of the pilot's evaluations, and what they lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median_low

from srs_ray.job import Job
from srs_ray.planning.fresh_seed import fresh_seed
from srs_ray.planning.target_radius import audited_of, with_settings
from srs_ray.runs.claims import hits_of
from srs_ray.runs.schema import Row
from srs_ray.smoothing.bounds import Evidence
from srs_ray.smoothing.radius import certified_radius


@dataclass(frozen=True)
class Saving:
    """A change of one setting: the share of the evaluations that it leaves, and the largest radius that it allows.

    `seed` is for the run with the change, None where that goes on in the same run. `median_radius` is what the pilot's
    median certified point earns with it, on its own counts in proportion, beside `median_radius_now`: None where the
    counts there will be are not known. Radii are in pixel units of [0, 1].
    """

    setting: str
    value: int | float
    seed: int | None
    evaluations: float
    radius_cap: float
    median_radius: float | None
    median_radius_now: float | None

    @property
    def assignment(self) -> str:
        """As --set takes it."""
        return f"{self.setting}={self.value}"


def savings(job: Job, sample: Sequence[Row]) -> tuple[Saving, ...]:
    """The changes that there are, the one that comes closest to half of the cost first.

    n or the audits halved; fewer solver steps, to half of them; every second point. By looks, points are taken to stop
    where they did or at the new n.
    """
    total = sum(_cost(row) for row in sample)
    if not total:
        return ()
    cap, sampling, audits = job.smoothing.radius_cap, job.sampling, job.certificate.audits
    median = _median_point(sample)
    now = None if median is None else median["radius"]
    found: list[Saving] = []

    def add(changed: Job, setting: str, value: int | float, cost: float) -> None:
        at_median = None if median is None or sampling.by_looks else _scaled_radius(changed, median)
        seed, cap_then = fresh_seed(job, {setting: value}), changed.smoothing.radius_cap
        found.append(Saving(setting, value, seed, cost / total, cap_then, at_median, now))

    if sampling.n > 1:
        n = sampling.n // 2
        add(with_settings(job, n), "sampling.n", n, sum(_cost_of_fewer_samples(job, row, n) for row in sample))
    fewer = audits.halved()
    spent = sum(row["reference_evaluations"] for row in sample)
    if spent and fewer is not None:
        kept = sum(row["reference_evaluations"] * audits.kept_by(fewer, audited_of(row)) for row in sample)
        changed_settings = {name: value for name, value in fewer.settings.items() if audits.settings[name] != value}
        for name, value in changed_settings.items():
            add(with_settings(job, sampling.n, fewer), f"certificate.{name}", value, total - spent + kept)
    of_a_sample = sampling.steps_of_a_sample
    if of_a_sample is not None and of_a_sample.steps > 1:
        steps = max(1, of_a_sample.steps // 2)
        left = spent + sum(sampling.evaluations_by_steps(row, steps) for row in sample)
        seed = fresh_seed(job, {"sampling.steps": steps})
        found.append(Saving("sampling.steps", steps, seed, left / total, cap, None, now))
    found.append(Saving("data.every", 2 * job.data.every, None, 0.5, cap, now, now))
    return tuple(sorted(found, key=lambda saving: abs(saving.evaluations - 0.5)))


def _cost(row: Row) -> int:
    return row["function_evaluations"] + row["reference_evaluations"]


def _cost_of_fewer_samples(job: Job, row: Row, n: int) -> float:
    """What the point costs with at most n samples, and audits in proportion where K does not fix them."""
    drawn, audits = row["n"], row["reference_evaluations"]
    if drawn <= n:
        return _cost(row)
    if job.sampling.by_looks:
        audits = audits * n / drawn
    elif audited_of(row):
        hits = hits_of(row)
        left = min(row["audited"], hits * n // drawn) + min(row["audited_misses"] or 0, (drawn - hits) * n // drawn)
        audits = audits * left / audited_of(row)
    return job.sampling.evaluations_of(row, n) + audits


def _median_point(sample: Sequence[Row]) -> Row | None:
    """The point of the median radius among those that were certified."""
    certified = [row for row in sample if row["radius"] > 0]
    if not certified:
        return None
    radius = median_low(row["radius"] for row in certified)
    return next(row for row in certified if row["radius"] == radius)


def _scaled_radius(job: Job, row: Row) -> float:
    """The radius on the point's own counts brought to the job's n and K in proportion, rounded against it."""
    n, plan = job.sampling.n, job.smoothing.plan
    hits = hits_of(row) * n // row["n"]
    audited, of_misses = plan.audit.expected(hits, n - hits)
    disagreed = ceil(row["disagreed"] * audited / row["audited"]) if row["audited"] else 0
    found = row["found"] * of_misses // row["audited_misses"] if row["audited_misses"] else 0
    evidence = Evidence(n, hits, audited, disagreed, of_misses, found)
    return certified_radius(plan.p_lower([evidence]), job.noise.sigma)
