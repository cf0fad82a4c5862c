"""The estimation stage of one point: all n samples and one audit, or by looks, until what was asked for is known.

Proofs that the bounds hold are in docs/statistics.md; what they rest on here: a hit is audited if and only if its
permanent random number is below the plan's audit share, a bound is read only where all such hits are audited, and
nothing of an audit flows back into the sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from srs_ray.errors import PointError
from srs_ray.smoothing.audit import NO_AUDIT, Audit, audit_hits, audit_samples
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier
from srs_ray.smoothing.certificates import p_lower
from srs_ray.smoothing.looks import LookCounts, LookPlan, Verdict, design_effect
from srs_ray.smoothing.noise import NoisyPoint, Stage
from srs_ray.smoothing.samplers import Sampler


@dataclass(frozen=True)
class Estimation:
    """What the estimation stage came to: its bound, the classes that the sampler said, the audit, and the cost, summed.

    By looks there are also the counts of those at which a bound was read, why sampling ended, and the plan's audit
    share. `pilot` is an audit of selection samples, by which the way to sample was chosen.
    """

    p_lower: float
    classes_N: np.ndarray
    audit: Audit = NO_AUDIT
    evaluations: int = 0
    fallbacks: int = 0
    unconverged: int = 0
    looks: tuple[LookCounts, ...] | None = None
    stopped: Verdict | None = None
    audit_share: float | None = None
    pilot: Audit = NO_AUDIT


@dataclass(frozen=True)
class Goal:
    """What sampling by looks is after: the bounds to pass, and the risk of giving one up that n samples would pass."""

    p_targets: tuple[float, ...]
    futility: float


def estimate(
    sampler: Sampler, base: BaseClassifier, point: NoisyPoint, selected: int, n: int, max_nonfinite: float,
    kind: str, alpha: float, audit: int,
) -> Estimation:  # fmt: skip
    """All n samples, then an audit of `audit` hits (for `cohen` none, its samples are the base classifier's own)."""
    drawn = sampler.draw(Stage.ESTIMATION, n)
    refuse_nonfinite(Stage.ESTIMATION, drawn.classes_N, max_nonfinite)
    hits = np.flatnonzero(drawn.classes_N == selected)
    audited = NO_AUDIT if kind == "cohen" else audit_hits(base, point, hits, selected, audit)
    return Estimation(
        p_lower(kind, len(hits), n, audited.audited, audited.disagreed, alpha),
        drawn.classes_N,
        audited,
        drawn.evaluations,
        drawn.fallbacks,
        drawn.unconverged,
    )


def estimate_by_looks(
    sampler: Sampler, base: BaseClassifier, point: NoisyPoint, selected: int, max_nonfinite: float,
    plan: LookPlan, goal: Goal, chains: int,
) -> Estimation:  # fmt: skip
    """Samples up to one look after another, until each target is certified or futile, or n samples are spent.

    Audits wait until they can end it: at a look where sampling would go on even if all audits that are due agreed, none
    is made and no bound is read; where not even that would certify anything, sampling ends without them.
    """
    u_N = point.audit_uniforms(plan.sizes[-1])
    classes_N = np.empty(0, dtype=np.int64)
    evaluations = fallbacks = unconverged = 0
    audit = NO_AUDIT
    audited_N = np.empty(0, dtype=np.int64)
    read: list[LookCounts] = []
    verdict: Verdict | None = None
    for size in plan.sizes:
        drawn = sampler.draw(Stage.ESTIMATION, size - len(classes_N), len(classes_N))
        classes_N = np.concatenate([classes_N, drawn.classes_N])
        evaluations += drawn.evaluations
        fallbacks += drawn.fallbacks
        unconverged += drawn.unconverged
        refuse_nonfinite(Stage.ESTIMATION, classes_N, max_nonfinite)
        hit_N = classes_N == selected
        hits = int(hit_N.sum())
        effect = 1.0
        if plan.is_audited:
            effect = design_effect(hit_N, chains)
            due_N = np.flatnonzero(hit_N & (u_N[:size] < plan.audit_share))
            at_best = LookCounts(size, hits, len(due_N), audit.disagreed)
            verdict = plan.verdict([*read, at_best], goal.p_targets, goal.futility, effect)
            if verdict is None:
                continue
            if plan.p_lower([*read, at_best]) <= 0.5:
                break
            audit += audit_samples(base, point, np.setdiff1d(due_N, audited_N, assume_unique=True), selected)
            audited_N = due_N
        read.append(LookCounts(size, hits, audit.audited, audit.disagreed))
        verdict = plan.verdict(read, goal.p_targets, goal.futility, effect)
        if verdict is not None:
            break
    bound, share = plan.p_lower(read), plan.audit_share
    return Estimation(bound, classes_N, audit, evaluations, fallbacks, unconverged, tuple(read), verdict, share)


def refuse_nonfinite(stage: Stage, classes_N: Sequence[int] | np.ndarray, most: float) -> None:
    """PointError where more than a share `most` of a stage's samples have NO_CLASS: a model that mostly overflows."""
    broken = int((np.asarray(classes_N) == NO_CLASS).sum())
    if broken / len(classes_N) > most:
        raise PointError(
            f"{broken:,} of {len(classes_N):,} {stage.name.lower()} samples have no finite logits, and max_nonfinite "
            f"is {most:g}: check the weights, or compute in dtype float64"
        )
