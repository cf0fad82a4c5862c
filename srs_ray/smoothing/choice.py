"""Which way to certify a point, judged by its selection samples: standard sampling, or chains with which audit share.

Selection's noise is independent of estimation's, so whatever is chosen by it, the certificate holds at its full alpha
(docs/statistics.md). Only evaluations and lost radii depend on how well the guess here is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import betainc, ndtr

from srs_ray.smoothing.bounds import Evidence
from srs_ray.smoothing.plan import Goal, Plan

# Rates of hits and of disagreement among them that stand for all; those of hits by radii that are 0.15 sigma apart.
RATES = ndtr(np.arange(-1.0, 4.1, 0.15))
DISAGREEMENTS = np.array([0.0, 0.003, 0.01, 0.03, 0.1, 0.3])
# Disagreement before any audit has said more: 2 % with the weight of 25 audits.
PRIOR_DISAGREED, PRIOR_AUDITED = 0.5, 25


@dataclass(frozen=True)
class Way:
    """A way to certify a point, and what it costs in function evaluations: for each sample, for each audited hit.

    The first sample of each of `chains` costs `warm_up` more, in whichever stage it falls.
    """

    plan: Plan
    per_sample: float
    per_audit: float = 0.0
    warm_up: float = 0.0
    chains: int = 0


@dataclass(frozen=True)
class Forecast:
    """Of one way for one point: function evaluations expected, and how many targets it is expected to certify."""

    evaluations: float
    certified: float


def choose(ways: Sequence[Way], shown: Evidence, goal: Goal, most_lost: float) -> Way:
    """The way with the fewest expected evaluations among those that lose at most a share `most_lost` of the targets.

    A target is lost that the best of the ways is expected to certify.
    """
    misses = any(way.plan.bound.misses for way in ways)
    forecasts = [forecast(way, shown, goal, misses) for way in ways]
    enough = max(at.certified for at in forecasts) - most_lost * len(goal.p_targets)
    good = [(at.evaluations, number) for number, at in enumerate(forecasts) if at.certified >= enough]
    return ways[min(good)[1]]


def forecast(way: Way, shown: Evidence, goal: Goal, missed_too: bool = False) -> Forecast:
    """What sampling by looks comes to, on average over the rates that selection leaves likely.

    The rate of hits has the posterior of the prior Beta(1/2, 1/2). F hits where the sampler does, less disagreement;
    `missed_too`: and as many of its misses, so that its rate is the sampler's.
    """
    evaluations = certified = 0.0
    of_disagreements = _masses(
        shown.disagreed + PRIOR_DISAGREED,
        shown.audited - shown.disagreed + PRIOR_AUDITED - PRIOR_DISAGREED,
        (DISAGREEMENTS[1:] + DISAGREEMENTS[:-1]) / 2,
    )
    for weight, disagreement in zip(of_disagreements.tolist(), DISAGREEMENTS.tolist(), strict=True):
        rates_R = (RATES[1:] + RATES[:-1]) / 2
        if not way.plan.bound.audited:  # samples of F itself
            rates_R = rates_R if missed_too else np.minimum(rates_R / (1.0 - disagreement), 1.0)
            disagreement = 0.0
        weights_R = weight * _masses(shown.hits + 0.5, shown.n - shown.hits + 0.5, rates_R)
        samples_R, audits_R, certified_R = _courses(way.plan, disagreement, goal)
        warmed_up_R = np.maximum(np.minimum(samples_R, way.chains) - shown.n, 0.0)
        cost_R = way.per_sample * samples_R + way.per_audit * audits_R + way.warm_up * warmed_up_R
        evaluations += float(weights_R @ cost_R)
        certified += float(weights_R @ certified_R)
    return Forecast(evaluations, certified)


def _masses(a: float, b: float, between: np.ndarray) -> np.ndarray:
    """Of Beta(a, b) below, between and above these."""
    return np.diff(betainc(a, b, between), prepend=0.0, append=1.0)


@lru_cache(maxsize=256)
def _courses(plan: Plan, disagreement: float, goal: Goal) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of RATES samples, audits and certified targets, where counts grow as the rates have it."""
    courses = [_course(plan, rate, disagreement, goal) for rate in RATES.tolist()]
    samples_R, audits_R, certified_R = np.array(courses, dtype=float).T
    return samples_R, audits_R, certified_R


def _course(plan: Plan, rate: float, disagreement: float, goal: Goal) -> tuple[int, int, int]:
    best = 0.0
    for n in plan.sizes:
        hits = round(n * rate)
        audited = round(hits * plan.audit.share)
        misses = round((n - hits) * plan.audit.share) if plan.bound.misses else 0
        found = round(misses * min(1.0, disagreement * rate / (1.0 - rate)))
        counts = Evidence(n, hits, audited, round(audited * disagreement), misses, found)
        best = max(best, plan.p_lower([counts]))
        if plan.verdict([counts], goal.p_targets, goal.futility) is not None:
            break
    if best <= 0.5:
        audited = misses = 0  # sampling ends without an audit where nothing can be certified
    return n, audited + misses, sum(best > target for target in goal.p_targets)
