"""Single changes of a job that make it cheaper: what they leave of the pilot's evaluations, and what they lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median_low

from srs_ray.job import Job
from srs_ray.planning.target_radius import hits_of, with_settings
from srs_ray.runner.feasibility import radius_cap
from srs_ray.runs.schema import Row
from srs_ray.smoothing.certificates import certified_radius, p_lower


@dataclass(frozen=True)
class Saving:
    """A change of one setting: the share of the evaluations that it leaves, and the largest radius that it allows.

    `median_radius` is what the pilot's median certified point earns with it, on its own counts in proportion, beside
    `median_radius_now`: None where the counts there will be are not known. Radii are in pixel units of [0, 1].
    """

    setting: str
    value: int | float
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
    cap, sampling, certificate = radius_cap(job), job.sampling, job.certificate
    median = _median_point(sample)
    now = None if median is None else median["radius"]
    found: list[Saving] = []

    def add(changed: Job, setting: str, value: int | float, cost: float) -> None:
        at_median = None if median is None or sampling.looks is not None else _scaled_radius(changed, median)
        found.append(Saving(setting, value, cost / total, radius_cap(changed), at_median, now))

    if sampling.n > 1:
        n = sampling.n // 2
        changed = with_settings(job, n)
        add(changed, "sampling.n", n, sum(_cost_of_fewer_samples(job, row, n) for row in sample))
    audits = sum(row["reference_evaluations"] for row in sample)
    if audits and certificate.audit > 1:
        audit = certificate.audit // 2
        kept = sum(row["reference_evaluations"] * min(1.0, audit / row["audited"]) for row in sample if row["audited"])
        add(with_settings(job, sampling.n, audit), "certificate.audit", audit, total - audits + kept)
    if audits and certificate.audit_share is not None:
        share = certificate.audit_share / 2
        changed = with_settings(job, sampling.n, audit_share=share)
        add(changed, "certificate.audit_share", share, total - audits / 2)
    if sampling.method != "standard" and sampling.steps > 1:
        steps = max(1, sampling.steps // 2)
        saved = sum(_cheap_samples(job, row) * (sampling.steps - steps) for row in sample)
        found.append(Saving("sampling.steps", steps, 1 - saved / total, cap, None, now))
    found.append(Saving("data.every", 2 * job.data.every, 0.5, cap, now, now))
    return tuple(sorted(found, key=lambda saving: abs(saving.evaluations - 0.5)))


def _cost(row: Row) -> int:
    return row["function_evaluations"] + row["reference_evaluations"]


def _cheap_samples(job: Job, row: Row) -> int:
    """Samples of chains that had begun, which cost the solver's steps each."""
    if job.sampling.method == "standard":
        return 0
    n = 0 if row["method"] == "standard" else row["n"]
    return row["n0"] + n - _begun(job, row["n0"], n)


def _begun(job: Job, n0: int, n: int) -> int:
    """Chains that n0 selection and n estimation samples begin; both go to chain 0 first."""
    assert job.sampling.method != "standard"
    return min(job.sampling.chains, max(n0, n))


def _cost_of_fewer_samples(job: Job, row: Row, n: int) -> float:
    """What the point costs with at most n samples, and audits in proportion where K does not fix them."""
    drawn = row["n"]
    if drawn <= n:
        return _cost(row)
    if row["method"] == "standard" or job.sampling.method == "standard":
        sampler = row["function_evaluations"] * (row["n0"] + n) / (row["n0"] + drawn)
    else:
        begun, fewer = _begun(job, row["n0"], drawn), _begun(job, row["n0"], n)
        cheap = drawn - n - (begun - fewer)
        sampler = row["function_evaluations"] - cheap * job.sampling.steps - (begun - fewer) * job.sampling.warmup_steps
    audits = row["reference_evaluations"]
    if job.sampling.looks is not None:
        audits = audits * n / drawn
    elif row["audited"]:
        audits = audits * min(row["audited"], hits_of(row) * n // drawn) / row["audited"]
    return sampler + audits


def _median_point(sample: Sequence[Row]) -> Row | None:
    """The point of the median radius among those that were certified."""
    certified = [row for row in sample if row["radius"] > 0]
    if not certified:
        return None
    radius = median_low(row["radius"] for row in certified)
    return next(row for row in certified if row["radius"] == radius)


def _scaled_radius(job: Job, row: Row) -> float:
    """The radius on the point's own counts brought to the job's n and K in proportion, rounded against it."""
    n, certificate = job.sampling.n, job.certificate
    hits = hits_of(row) * n // row["n"]
    audited = min(certificate.audit, hits)
    disagreed = ceil(row["disagreed"] * audited / row["audited"]) if row["audited"] else 0
    bound = p_lower(certificate.kind, hits, n, audited, disagreed, certificate.alpha)
    return certified_radius(bound, job.noise.sigma)
