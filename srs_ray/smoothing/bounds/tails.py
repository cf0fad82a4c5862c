"""Tails of the binomial and hypergeometric laws as the bounds need them: what is rounded is rounded down."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import exp, lgamma, log, log1p

from scipy.special import betainc, betaincinv

# Every tail probability is made this much smaller, relatively and per sample, than the certificate needs: several
# times what log-gamma loses in the binomial and hypergeometric terms (2e-15 ln n per sample, ten terms, summed over a
# search) and far more than the incomplete beta function does. It costs about 1e-9 of p at n = 100,000.
SLACK = 1e-12


def clopper_pearson_lower(k: float, n: float, alpha: float) -> float:
    """One-sided lower confidence bound on the rate behind k of n: above the truth with probability at most alpha.

    The alpha-quantile of Beta(k, n - k + 1), 0 at k = 0. Only `released` gives it counts that are not integers.
    Raises ValueError unless 0 <= k <= n and 0 < alpha < 1. Source: Clopper and Pearson, Biometrika 1934.
    """
    check_alpha(alpha)
    if not 0 <= k <= n:
        raise ValueError(f"counts must satisfy 0 <= k <= n, found k = {k}, n = {n}")
    return beta_quantile(k, n, alpha)


def beta_quantile(k: float, n: float, alpha: float) -> float:
    """The alpha-quantile of Beta(k, n - k + 1), rounded down; 0 where k is."""
    if k <= 0:
        return 0.0
    a, b, tail = k, n - k + 1, alpha * (1.0 - SLACK * n)
    p = float(betaincinv(a, b, tail))
    # The inverse is wrong at isolated parameters (SciPy 1.17, b = 1000: 0.977 for 0.876 at a = 8800, tail 1.1e-11)
    # and nan for extreme tails. The forward function is right there, so it has the last word.
    if abs(float(betainc(a, b, p)) - tail) <= 0.5 * SLACK * n * tail:
        return p
    low, high = 0.0, 1.0
    while low < (middle := 0.5 * (low + high)) < high:
        if betainc(a, b, middle) <= tail:
            low = middle
        else:
            high = middle
    return low


@lru_cache
def log_fisher_threshold(alpha: float) -> float:
    """ln t with t (1 - ln t) <= alpha, to the last bit: P(product of two independent p-values <= t) = t (1 - ln t)."""
    return log_threshold(alpha, 2, lambda log_t: log1p(-log_t))


def log_threshold(alpha: float, tests: int, log_factor: Callable[[float], float]) -> float:
    """The largest ln t with ln t + log_factor(ln t) <= ln alpha: the level at which so many p-values are combined.

    P(their combination <= t) = t exp(log_factor(ln t)), which rises with t, and the factor is at least 1.
    """
    log_alpha = log(alpha)
    low, high = tests * (log_alpha - 2.0), log_alpha
    while low < (middle := 0.5 * (low + high)) < high:
        if middle + log_factor(middle) <= log_alpha:
            low = middle
        else:
            high = middle
    return low


def log_hypergeometric(size: int, d: int, draws: int, k: int) -> tuple[float, float]:
    """ln P(X <= k) and ln P(X = k) for X ~ Hypergeometric(size, d marked, draws), k <= d <= size - draws + k."""
    log_mass = log_choose(d, k) + log_choose(size - d, draws - k) - log_choose(size, draws)
    term = 1.0
    if k * size < d * draws:  # below the mean: the tail's own terms, falling from P(X = k)
        tail = 1.0
        for j in range(k, 0, -1):
            term *= j * (size - d - draws + j) / ((d - j + 1) * (draws - j + 1))
            tail += term
            if term < 1e-18 * tail:
                break
        return min(0.0, log_mass + log(tail)), log_mass
    beyond = 0.0
    for j in range(k, min(d, draws)):
        term *= (d - j) * (draws - j) / ((j + 1) * (size - d - draws + j + 1))
        beyond += term
        if term < 1e-18 * beyond:
            break
    return log1p(-exp(log_mass) * beyond), log_mass


def log_binomial_mass(n: int, k: int, p: float) -> float:
    """ln P(Binomial(n, p) = k)."""
    return log_choose(n, k) + k * log(p) + (n - k) * log1p(-p)


def log_choose(n: int, k: int) -> float:
    """ln of n choose k."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless alpha lies between 0 and 1."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")


def check_counts(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> tuple[int, int, int, int]:
    """The counts as integers; ValueError unless 0 <= disagreed <= audited <= hits <= n."""
    check_alpha(alpha)
    counts = int(hits), int(n), int(audited), int(disagreed)
    if counts != (hits, n, audited, disagreed) or not 0 <= counts[3] <= counts[2] <= counts[0] <= counts[1]:
        raise ValueError(
            "counts must be integers with 0 <= disagreed <= audited <= hits <= n, found "
            f"disagreed = {disagreed}, audited = {audited}, hits = {hits}, n = {n}"
        )
    return counts
