"""`exact`: the binomial and the audit's hypergeometric test combined by Fisher's method."""

from __future__ import annotations

from math import exp, inf, log, log1p

from numpy import logaddexp

from srs_ray.smoothing.bounds.bound import Bound
from srs_ray.smoothing.bounds.tails import (
    SLACK,
    beta_quantile,
    check_counts,
    log_binomial_mass,
    log_fisher_threshold,
    log_hypergeometric,
)


def exact_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """p <= p_A with probability at least 1 - alpha, whatever the correlation between the sampler's predictions.

    The test "p_A <= p0" by the binomial tail P1 and the test "d of the hits are false" by the audit's hypergeometric
    tail P2, combined by Fisher's method: sup{p0 : max_d P1(d; p0) P2(d) <= t}, t (1 - ln t) = alpha, d over every
    number of false hits that the audit leaves possible. 0 where nothing was audited or nothing audited agreed.
    """
    counts = check_counts(hits, n, audited, disagreed, alpha)
    return least_combined(*counts, log_fisher_threshold(alpha), 1.0)


def least_combined(hits: int, n: int, audited: int, disagreed: int, log_t: float, weight: float) -> float:
    """sup{p0 : max_d (ln P2(d) + weight ln P1(d; p0)) <= log_t}, rounded down; 0 where no audited hit agreed.

    For each d the condition is p0 <= ClopperPearsonLower(hits - d, n, (t / P2(d))^(1 / weight)), so the supremum is
    the least of these over d. P1 is log-concave in d (a tail of a log-concave law), and so is P2 (the tail, in d, of
    the negative hypergeometric waiting time for the (k+1)-th disagreement). Hence for fixed p0 the sum is concave in
    d: where it stops rising it has its maximum, and bisection on its slope finds the least bound, plateaus included.
    """
    if disagreed == audited:
        return 0.0  # all hits may be false: P2 = 1 at d = hits
    log_t -= SLACK * n
    least = inf
    low, high = disagreed, hits - (audited - disagreed)
    while low <= high:
        d = (low + high) // 2
        log_tail, log_mass = log_hypergeometric(hits, d, audited, disagreed)
        log_budget = (log_t - log_tail) / weight
        if log_budget >= 0.0:  # P2(d) <= t: no constraint from this d, nor from any larger one
            high = d - 1
            continue
        p = beta_quantile(hits - d, n, exp(log_budget))
        least = min(least, p)
        if p == 0.0:
            break
        # At p0 = p, P1(d)^weight = t / P2(d). From d to d + 1, P1 gains its next term and P2 loses P(the wait ends at
        # d + 1).
        log_gain = log_binomial_mass(n, hits - d - 1, p) - log_budget
        loss = exp(log_mass - log_tail + log((audited - disagreed) / (hits - d)))
        if loss < 1.0 and weight * float(logaddexp(0.0, log_gain)) + log1p(-loss) > 0.0:
            low = d + 1
        else:
            high = d - 1
    return least


EXACT = Bound("exact", exact_p_lower, audited=True)
