"""`weighted`: the two tests of `exact`, with a weight on the binomial one: larger radii where audits cap them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import expm1, log1p

from srs_ray.smoothing.bounds.bound import Bound
from srs_ray.smoothing.bounds.exact import least_combined
from srs_ray.smoothing.bounds.tails import check_counts, log_threshold

WEIGHT = 0.75  # measured in docs/statistics.md


def weighted_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float, weight: float = WEIGHT) -> float:
    """p <= p_A with probability at least 1 - alpha, whatever the correlation between the sampler's predictions.

    The two tests of `exact`, P1 by the samples and P2 by the audit, combined with the weight lambda on the first:
    sup{p0 : max_d P1(d; p0)^lambda P2(d) <= t} with (t - lambda t^(1/lambda)) / (1 - lambda) = alpha. `weight` is
    lambda, above 0 and at most 1 (which gives `exact`), and fixed before the run. Raises ValueError for another one.
    Source: weighted combinations of p-values, Good, JRSS B 1955.
    """
    check_weight(weight)
    counts = check_counts(hits, n, audited, disagreed, alpha)
    return least_combined(*counts, log_weighted_threshold(alpha, weight), weight)


def check_weight(weight: float) -> None:
    """Raise ValueError unless the weight is above 0 and at most 1."""
    if not 0.0 < weight <= 1.0:
        raise ValueError(f"the weight must be above 0 and at most 1, found {weight}")


@lru_cache
def log_weighted_threshold(alpha: float, weight: float) -> float:
    """ln t with P(U1^weight U2 <= t) <= alpha for independent uniform U1 and U2.

    That is (t - weight t^(1 / weight)) / (1 - weight), and t (1 - ln t) for the weight 1. With x = ln t and
    y = x (1 - weight) / weight it is t (1 - x (e^y - 1) / y), which needs no division by 1 - weight.
    """

    def log_factor(log_t: float) -> float:
        y = log_t * (1.0 - weight) / weight
        return log1p(-log_t * (expm1(y) / y if y else 1.0))

    return log_threshold(alpha, 2, log_factor)


@dataclass(frozen=True)
class _Weighted:
    """`weighted_p_lower` of one weight, equal to another of the same one."""

    weight: float

    def __call__(self, hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
        return weighted_p_lower(hits, n, audited, disagreed, alpha, self.weight)


def weighted_bound(weight: float) -> Bound:
    """The bound of that weight; ValueError unless it is above 0 and at most 1."""
    check_weight(weight)
    return Bound("weighted", _Weighted(weight), audited=True, detail=f"lambda = {weight:g}")


WEIGHTED = weighted_bound(WEIGHT)
