"""The estimation stage of one point: samples up to one look after another, audits, and the bound.

Proofs that the bounds hold are in docs/statistics.md. They rest on this: which hits are audited is decided by numbers
that are independent of the noise, a bound is read only where all audits that are due are made, and nothing of an audit
flows back into the sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from srs_ray.errors import PointError
from srs_ray.smoothing.audit import NO_AUDIT, Audit, audit_misses, audit_samples
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier
from srs_ray.smoothing.bounds import Evidence
from srs_ray.smoothing.noise import Domain, NoisyPoint
from srs_ray.smoothing.plan import Goal, Plan, Verdict
from srs_ray.smoothing.prediction import design_effect
from srs_ray.smoothing.samplers.sampler import Sampler


@dataclass(frozen=True)
class Estimation:
    """The outcome of the estimation stage: bound, classes that the sampler said, audit, and the cost, summed.

    `read` has the evidence at the looks at which a bound was read, and `stopped` says why sampling ended.
    """

    p_lower: float
    classes_N: np.ndarray
    audit: Audit = NO_AUDIT
    evaluations: int = 0
    fallbacks: int = 0
    unconverged: int = 0
    read: tuple[Evidence, ...] = ()
    stopped: Verdict | None = None


NOTHING_ESTIMATED = Estimation(0.0, np.empty(0, dtype=np.int64))


def estimate(
    sampler: Sampler,
    base: BaseClassifier,
    point: NoisyPoint,
    selected: int,
    max_nonfinite: float,
    plan: Plan,
    goal: Goal,
) -> Estimation:
    """Samples up to one look of the plan after another, until each target is certified or futile, or all are drawn.

    With targets, audits wait until they can end it: at a look where sampling would go on even if all audits that are
    due agreed (of misses: found a hit), none is made and no bound is read; where not even that would certify anything,
    sampling ends without them. Without targets the audit is made of all samples, as it is the point's record.
    """
    classes_N = np.empty(0, dtype=np.int64)
    evaluations = fallbacks = unconverged = 0
    audit = NO_AUDIT
    audited_N = missed_N = np.empty(0, dtype=np.int64)
    read: list[Evidence] = []
    verdict: Verdict | None = None
    for size in plan.sizes:
        drawn = sampler.draw(Domain.ESTIMATION, size - len(classes_N), len(classes_N))
        classes_N = np.concatenate([classes_N, drawn.classes_N])
        evaluations += drawn.evaluations
        fallbacks += drawn.fallbacks
        unconverged += drawn.unconverged
        refuse_nonfinite(Domain.ESTIMATION, classes_N, max_nonfinite)
        hit_N = classes_N == selected
        hits = int(hit_N.sum())
        effect = 1.0
        if plan.bound.audited:
            effect = design_effect(hit_N, sampler.chains)
            due_N = plan.audit.due(point, hit_N)
            due_misses_N = plan.audit.due_misses(point, hit_N) if plan.bound.misses else missed_N
            found = audit.found + len(due_misses_N) - audit.audited_misses
            at_best = [*read, Evidence(size, hits, len(due_N), audit.disagreed, len(due_misses_N), found)]
            if plan.verdict(at_best, goal.p_targets, goal.futility, effect) is None:
                continue
            if goal.p_targets and plan.p_lower(at_best) <= 0.5:
                verdict = plan.verdict(at_best, goal.p_targets, goal.futility, effect)
                break
            audit += audit_samples(base, point, np.setdiff1d(due_N, audited_N, assume_unique=True), selected)
            audit += audit_misses(base, point, np.setdiff1d(due_misses_N, missed_N, assume_unique=True), selected)
            audited_N, missed_N = due_N, due_misses_N
        read.append(Evidence(size, hits, audit.audited, audit.disagreed, audit.audited_misses, audit.found))
        verdict = plan.verdict(read, goal.p_targets, goal.futility, effect)
        if verdict is not None:
            break
    return Estimation(plan.p_lower(read), classes_N, audit, evaluations, fallbacks, unconverged, tuple(read), verdict)


def refuse_nonfinite(domain: Domain, classes_N: Sequence[int] | np.ndarray, most: float) -> None:
    """PointError where more than a share `most` of a stage's samples have NO_CLASS: a model that mostly overflows."""
    broken = int((np.asarray(classes_N) == NO_CLASS).sum())
    if broken / len(classes_N) > most:
        raise PointError(
            f"{broken:,} of {len(classes_N):,} {domain.name.lower()} samples have no finite logits, and max_nonfinite "
            f"is {most:g}: check the weights, or compute in dtype float64"
        )
