"""`mixture`: a bound on a Bernoulli rate that holds at every sample size at once: a Beta mixture, read as a bet."""

from __future__ import annotations

from math import inf, lgamma, log, log1p

from scipy.special import betaincc

from srs_ray.smoothing.bounds.bound import Bound
from srs_ray.smoothing.bounds.tails import SLACK, check_counts

PRIOR = 0.5  # measured in docs/statistics.md


def mixture_p_lower(hits: int, n: int, alpha: float, prior: float = PRIOR) -> float:
    """With probability at least 1 - alpha, below the rate of i.i.d. samples at every n = 1, 2, ... simultaneously.

    Against p0, stake the share 1 - v of a capital of 1 on a hit at the odds of p0: a miss leaves v of it, a hit makes
    it v + (1 - v) / p0 times as large. For a rate p <= p0 a bet changes it on average by v + (1 - v) p / p0 <= 1, so
    the capital is a nonnegative supermartingale, and so is its mean over stakes,

        M(p0) = E (v + (1 - v) / p0)^hits v^(n - hits),  v ~ Beta(prior, 1).

    It ever reaches 1 / alpha with probability at most alpha (Ville). M falls in p0, so what is rejected at n are the
    rates below one number, sup{p0 : M(p0) >= 1 / alpha}: the bound, 0 where nothing was hit. With q = 1 - (1 - p0) v
    this is the likelihood ratio of q to p0, mixed over the prior Beta(1, prior) cut off at q > p0: one-sided by
    construction, and in closed form.
    Raises ValueError unless 0 <= hits <= n, 0 < alpha < 1 and prior > 0. Sources: Ville 1939; Robbins, Ann. Math. Stat.
    1970; Howard, Ramdas, McAuliffe, Sekhon, Ann. Stat. 2021; Waudby-Smith and Ramdas, JRSS B 2024 (as bets).
    """
    hits, n, _, _ = check_counts(hits, n, 0, 0, alpha)
    if not 0.0 < prior < inf:
        raise ValueError(f"the prior's parameter must be positive and finite, found {prior}")
    if hits == 0:
        return 0.0
    log_needed = SLACK * n - log(alpha)
    low, high = 0.0, hits / n  # M <= 1 from hits / n on, where p0 is at least as likely as any q above it
    while low < (middle := 0.5 * (low + high)) < high:
        if _log_capital(hits, n, middle, prior) >= log_needed:
            low = middle
        else:
            high = middle
    return low


def _log_capital(hits: int, n: int, p0: float, prior: float) -> float:
    """ln M(p0): with q as above, prior times the integral of q^hits (1 - q)^(misses + prior - 1) over q > p0, over
    p0^hits (1 - p0)^(misses + prior)."""
    a, b = hits + 1, n - hits + prior
    log_beta = lgamma(a) + lgamma(b) - lgamma(a + b)
    above = float(betaincc(a, b, p0))
    return log(prior) + log(above) + log_beta - hits * log(p0) - b * log1p(-p0) if above > 0.0 else -inf


def _p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    if audited:
        raise ValueError(f"bound 'mixture' is for samples of F itself, which need no audit; found audited = {audited}")
    return mixture_p_lower(hits, n, alpha)


MIXTURE = Bound("mixture", _p_lower, audited=False, anytime=True)
