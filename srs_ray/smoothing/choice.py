"""Which way to certify a point, judged by its selection samples: standard sampling, or how many steps from its anchor.

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
DISAGREEMENTS = np.array([0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3])
# Disagreement before anything has said more, with the weight of 50 comparisons: 4 % after one step from the anchor, and
# a fifth of that with each step more. It was chosen on recorded points of the shipped model; no bound rests on it.
PRIOR_DISAGREEMENT, PRIOR_COMPARED, PER_STEP = 0.04, 50, 0.2
_ROUNDING = 1e-9
NEGLIGIBLE = 0.03  # what is less likely than this is not looked at


@dataclass(frozen=True)
class Way:
    """A way to certify a point: `steps` from its anchor (0: F itself), and what it costs in function evaluations, for
    each sample and for each audited one.
    """

    plan: Plan
    per_sample: float
    per_audit: float = 0.0
    steps: int = 0


@dataclass(frozen=True)
class Shown:
    """What is seen of a point before estimation: `hits` of F among n samples.

    Of `compared[k - 1]` samples on which F or k steps from the anchor said the candidate, each counted, on
    `differed[k - 1]` the other did not.
    """

    n: int
    hits: int
    compared: tuple[int, ...] = ()
    differed: tuple[int, ...] = ()

    def disagreement_masses(self, steps: int) -> np.ndarray:
        """How likely each of DISAGREEMENTS is, for that many steps from the anchor."""
        prior = PRIOR_DISAGREEMENT * PER_STEP ** (steps - 1) * PRIOR_COMPARED
        # A sample on which both agree was counted twice: halves are worth a comparison each.
        differed = self.differed[steps - 1] / 2 if steps <= len(self.differed) else 0.0
        compared = self.compared[steps - 1] / 2 if steps <= len(self.compared) else 0.0
        between = (DISAGREEMENTS[1:] + DISAGREEMENTS[:-1]) / 2
        return _masses(differed + prior, compared - differed + PRIOR_COMPARED - prior, between)


@dataclass(frozen=True)
class Forecast:
    """Of one way for one point: function evaluations expected, and how many targets it is expected to certify."""

    evaluations: float
    certified: float


def choose(ways: Sequence[Way], shown: Shown, goal: Goal, most_lost: float) -> Way:
    """The way with the fewest expected evaluations among those that lose at most a share `most_lost` of the targets.

    A target is lost that the best of the ways is expected to certify. What differs by rounding is equal, and of equals
    the first is taken.
    """
    forecasts = [forecast(way, shown, goal) for way in ways]
    enough = max(at.certified for at in forecasts) - (most_lost + _ROUNDING) * len(goal.p_targets)
    good = [number for number, at in enumerate(forecasts) if at.certified >= enough]
    fewest = min(forecasts[number].evaluations for number in good)
    return ways[next(number for number in good if forecasts[number].evaluations <= (1 + _ROUNDING) * fewest)]


def forecast(way: Way, shown: Shown, goal: Goal) -> Forecast:
    """What sampling by looks comes to, on average over the rates that are likely after what is shown.

    F's rate of hits has the posterior of the prior Beta(1/2, 1/2). Few steps from the anchor are taken to miss as many
    of F's hits as they hit where F does not, so that their rate is F's.
    """
    of_rates = _masses(shown.hits + 0.5, shown.n - shown.hits + 0.5, (RATES[1:] + RATES[:-1]) / 2)
    of_disagreements = shown.disagreement_masses(way.steps) if way.steps else np.array([1.0])
    evaluations = certified = 0.0
    for weight, disagreement in _likely(of_disagreements, DISAGREEMENTS):
        for share, rate in _likely(of_rates, RATES):
            samples, audits, passed = _course(way.plan, rate, disagreement, goal)
            evaluations += weight * share * (way.per_sample * samples + way.per_audit * audits)
            certified += weight * share * passed
    return Forecast(evaluations, certified)


def _masses(a: float, b: float, between: np.ndarray) -> np.ndarray:
    """Of Beta(a, b) below, between and above these."""
    return np.diff(betainc(a, b, between), prepend=0.0, append=1.0)


def _likely(masses: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    """The values that are not negligible, each with its mass among them."""
    kept = np.flatnonzero(masses >= min(NEGLIGIBLE, masses.max()))
    return list(zip((masses[kept] / masses[kept].sum()).tolist(), values[kept].tolist(), strict=True))


@lru_cache(maxsize=1 << 14)
def _course(plan: Plan, rate: float, disagreement: float, goal: Goal) -> tuple[int, int, int]:
    """Samples, audits and certified targets where counts grow as the rates have it.

    Where one look would end it, later ones would: the first is found by bisection.
    """
    low, high = 0, len(plan.sizes) - 1
    while low < high:
        middle = (low + high) // 2
        if plan.verdict([_counts(plan, plan.sizes[middle], rate, disagreement)], goal.p_targets, goal.futility):
            high = middle
        else:
            low = middle + 1
    counts = _counts(plan, plan.sizes[low], rate, disagreement)
    bound = plan.p_lower([counts])
    audits = counts.audited + counts.audited_misses if bound > 0.5 else 0  # none where nothing can be certified
    return counts.n, audits, sum(bound > target for target in goal.p_targets)


def _counts(plan: Plan, n: int, rate: float, disagreement: float) -> Evidence:
    hits = round(n * rate)
    if not plan.bound.audited:
        return Evidence(n, hits)
    audited = round(hits * plan.audit.share)
    misses = round((n - hits) * plan.audit.share) if plan.bound.misses else 0
    found = round(misses * min(1.0, disagreement * rate / (1.0 - rate)))
    return Evidence(n, hits, audited, round(audited * disagreement), misses, found)
