"""`two-sided`: samples, an audit of the hits and one of the misses, combined by Fisher's method."""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, log, log1p

from numpy import logaddexp

from srs_ray.smoothing.bounds.bound import Bound
from srs_ray.smoothing.bounds.tails import (
    SLACK,
    beta_quantile,
    check_counts,
    log_binomial_mass,
    log_hypergeometric,
    log_threshold,
)


def two_sided_p_lower(
    hits: int, n: int, audited: int, disagreed: int, alpha: float, audited_misses: int = 0, found: int = 0
) -> float:
    """p <= p_A with probability at least 1 - alpha, whatever the correlation between the sampler's predictions.

    d of the hits are false and u of the misses are hits of F, so F has hits - d + u hits in all. Three tests are
    combined: P1(d, u; p0) = P(Binomial(n, p0) >= hits - d + u), P2(d) = P(Hypergeometric(hits, d, audited) <=
    disagreed) and P3(u) = P(Hypergeometric(n - hits, u, audited_misses) >= found). The bound is sup{p0 : max_{d,u} P1
    P2 P3 <= t}, t (1 - ln t + (ln t)^2 / 2) = alpha, over all d and u that the audits leave possible. 0 where F may
    have no hit at all. Raises ValueError for counts that cannot be.
    """
    hits, n, audited, disagreed = check_counts(hits, n, audited, disagreed, alpha)
    audited_misses, found = _check_misses(n - hits, audited_misses, found)
    return least_of_three(hits, n, audited, disagreed, audited_misses, found, log_threshold_of_three(alpha))


def least_of_three(
    hits: int, n: int, audited: int, disagreed: int, audited_misses: int, found: int, log_t: float
) -> float:
    """sup{p0 : max_{d,u} (ln P1 + ln P2 + ln P3) <= log_t}, rounded down.

    P1 depends on d and u by the number of F's hits alone. With u' = n - hits - u misses that F misses too, P3 is
    P(Hypergeometric(n - hits, u', audited_misses) <= audited_misses - found), so P2 and P3 are tails of one kind,
    which fall and are log-concave in d and in u'. So is, in s, the largest product at d + u' = s: its steps are those
    of both tails, the smaller losses first. As in `exact`, bisection finds the s of the least bound.
    """
    log_t -= SLACK * n
    of_hits = _Tail(hits, audited, disagreed)
    of_misses = _Tail(n - hits, audited_misses, audited_misses - found)
    fewest = disagreed + audited_misses - found
    least = inf
    low, high = 0, of_hits.steps + of_misses.steps
    x_low, x_high = 0, of_hits.steps  # steps of P2 among the first `low` and `high` of both
    while low <= high:
        middle = (low + high) // 2
        x = _steps_of_first(of_hits, of_misses, middle, x_low, x_high)
        log_budget = log_t - of_hits.log_tail(x) - of_misses.log_tail(middle - x)
        if log_budget >= 0.0:  # P2 P3 <= t: no constraint from here on
            high, x_high = middle - 1, x
            continue
        of_f = n - fewest - middle
        p = beta_quantile(of_f, n, exp(log_budget))
        least = min(least, p)
        if p == 0.0:
            break
        # At p0 = p, P1 = t / (P2 P3). One step further, P1 gains its next term and one of P2 and P3 its next loss.
        log_gain = float(logaddexp(0.0, log_binomial_mass(n, of_f - 1, p) - log_budget))
        if log_gain > min(of_hits.loss(x), of_misses.loss(middle - x)):
            low, x_low = middle + 1, x
        else:
            high, x_high = middle - 1, x
    return least


class _Tail:
    """P(Hypergeometric(size, d, draws) <= k) for d = k + step, step from 0 to `steps`."""

    def __init__(self, size: int, draws: int, k: int) -> None:
        self.size, self.draws, self.k = size, draws, k
        self.steps = size - draws
        self._known: dict[int, tuple[float, float]] = {}

    def log_tail(self, step: int) -> float:
        """ln of it."""
        return self._at(step)[0]

    def loss(self, step: int) -> float:
        """How much less the logarithm is one step further; infinite after the last."""
        return self._at(step)[1]

    def _at(self, step: int) -> tuple[float, float]:
        if step not in self._known:
            self._known[step] = self._computed(self.k + step)
        return self._known[step]

    def _computed(self, d: int) -> tuple[float, float]:
        if self.k == self.draws:
            return 0.0, 0.0 if d < self.size else inf
        log_tail, log_mass = log_hypergeometric(self.size, d, self.draws, self.k)
        share = exp(log_mass - log_tail + log((self.draws - self.k) / (self.size - d)))  # as in `exact`
        return log_tail, -log1p(-share) if share < 1.0 and d < self.size - self.draws + self.k else inf


def _steps_of_first(one: _Tail, other: _Tail, steps: int, low: int, high: int) -> int:
    """How many of the `steps` steps with the smallest losses are of the first tail, given that it is low to high."""
    low, high = max(low, steps - other.steps), min(high, steps)
    while low < high:
        middle = (low + high + 1) // 2
        if one.loss(middle - 1) <= other.loss(steps - middle):
            low = middle
        else:
            high = middle - 1
    return low


@lru_cache
def log_threshold_of_three(alpha: float) -> float:
    """ln t with t (1 - ln t + (ln t)^2 / 2) <= alpha: P(product of three independent p-values <= t)."""
    return log_threshold(alpha, 3, lambda log_t: log1p(-log_t + 0.5 * log_t * log_t))


def _check_misses(misses: int, audited: int, found: int) -> tuple[int, int]:
    counts = int(audited), int(found)
    if counts != (audited, found) or not 0 <= counts[1] <= counts[0] <= misses:
        raise ValueError(
            "counts must be integers with 0 <= found <= audited misses <= n - hits, found "
            f"found = {found}, audited misses = {audited}, n - hits = {misses}"
        )
    return counts


TWO_SIDED = Bound("two-sided", two_sided_p_lower, audited=True, misses=True)
