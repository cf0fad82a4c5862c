"""Certificates: from counts of noisy predictions to a lower bound on p_A and an l2 radius.

The counts of one point, with the class `c` fixed beforehand by the selection samples:

    hits        |S|, estimation samples on which the sampler said c
    n           estimation samples drawn (one without a prediction is no hit and still counts here)
    audited     K', hits on which the base classifier F was run from zero on the same noise; drawn from S uniformly
                without replacement, by randomness independent of everything else
    disagreed   k, audited hits on which F did not say c (a failed solve disagrees)

What is bounded is p_A = P(F(x + e) = c), e ~ N(0, sigma^2 I). What is rounded is rounded down, see `_SLACK`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import exp, floor, inf, lgamma, log, log1p

from scipy.special import betainc, betaincinv, ndtri

# Every tail probability is made this much smaller, relatively and per sample, than the certificate needs: several
# times what log-gamma loses in the binomial and hypergeometric terms (2e-15 ln n per sample, ten terms, summed over a
# search) and far more than the incomplete beta function does. It costs about 1e-9 of p at n = 100,000.
_SLACK = 1e-12
_LARGEST_N = 10**9


def clopper_pearson_lower(k: float, n: float, alpha: float) -> float:
    """One-sided lower confidence bound on the rate behind k of n: above the truth with probability at most alpha.

    The alpha-quantile of Beta(k, n - k + 1), 0 at k = 0. Only `released` gives it counts that are not integers.
    Raises ValueError unless 0 <= k <= n and 0 < alpha < 1. Source: Clopper and Pearson, Biometrika 1934.
    """
    _check_alpha(alpha)
    if not 0 <= k <= n:
        raise ValueError(f"counts must satisfy 0 <= k <= n, found k = {k}, n = {n}")
    return _beta_quantile(k, n, alpha)


def cohen_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """p <= p_A with probability at least 1 - alpha, if F itself made the n predictions (the standard sampler).

    Clopper-Pearson on the hits. Raises ValueError for counts with an audit: those are another sampler's predictions.
    Source: Cohen, Rosenfeld, Kolter, ICML 2019, `LowerConfBound`.
    """
    hits, n, audited, disagreed = _check_counts(hits, n, audited, disagreed, alpha)
    if audited:
        raise ValueError(
            f"certificate 'cohen' is for samples of F itself, which need no audit; found audited = {audited}"
        )
    return _beta_quantile(hits, n, alpha)


def exact_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """p <= p_A with probability at least 1 - alpha, whatever the correlation between the sampler's predictions.

    The test "p_A <= p0" by the binomial tail P1 and the test "d of the hits are false" by the audit's hypergeometric
    tail P2, combined by Fisher's method: sup{p0 : max_d P1(d; p0) P2(d) <= t}, t (1 - ln t) = alpha, d over every
    number of false hits that the audit leaves possible. 0 where nothing was audited or nothing audited agreed.

    For each d the condition is p0 <= ClopperPearsonLower(hits - d, n, t / P2(d)), so the supremum is the least of
    these over d. P1 is log-concave in d (a tail of a log-concave law), and so is P2 (the tail, in d, of the negative
    hypergeometric waiting time for the (k+1)-th disagreement). Hence for fixed p0 ln P1 + ln P2 is concave in d:
    where it stops rising it has its maximum, and bisection on its slope finds the least bound, plateaus included.
    """
    hits, n, audited, disagreed = _check_counts(hits, n, audited, disagreed, alpha)
    if disagreed == audited:
        return 0.0  # all hits may be false: P2 = 1 at d = hits
    log_t = _log_fisher_threshold(alpha) - _SLACK * n
    least = inf
    low, high = disagreed, hits - (audited - disagreed)
    while low <= high:
        d = (low + high) // 2
        log_tail, log_mass = _log_hypergeometric(hits, d, audited, disagreed)
        log_budget = log_t - log_tail
        if log_budget >= 0.0:  # P2(d) <= t: no constraint from this d, nor from any larger one
            high = d - 1
            continue
        p = _beta_quantile(hits - d, n, exp(log_budget))
        least = min(least, p)
        if p == 0.0:
            break
        # At p0 = p, P1(d) = t / P2(d); going to d + 1, P1 gains its next term and P2 loses P(the wait ends at d + 1).
        log_gain = _log_binomial_mass(n, hits - d - 1, p) - log_budget
        log_loss = log_mass - log_tail + log((audited - disagreed) / (hits - d))
        loss = exp(log_loss)
        if loss < 1.0 and log_gain + log1p(-loss) > log_loss:  # (1 + gain) (1 - loss) > 1
            low = d + 1
        else:
            high = d - 1
    return least


def union_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """p <= p_A with probability at least 1 - alpha, whatever the correlation between the sampler's predictions.

    The plain form: half of alpha bounds the false hits d from above by the audit's hypergeometric tail, the other
    half is Clopper-Pearson's on hits - d. 0 where nothing was audited or nothing audited agreed.
    """
    hits, n, audited, disagreed = _check_counts(hits, n, audited, disagreed, alpha)
    if disagreed == audited:
        return 0.0
    log_alpha_1 = log(alpha) - log(2.0) - _SLACK * n
    low, high = disagreed, hits - (audited - disagreed)  # P2(disagreed) = 1, and P2 falls with d
    while low < high:
        d = (low + high + 1) // 2
        if _log_hypergeometric(hits, d, audited, disagreed)[0] > log_alpha_1:
            low = d
        else:
            high = d - 1
    return _beta_quantile(hits - low, n, alpha - alpha / 2)


def paper_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """p <= p_A with probability at least 1 - alpha: the paper's formula, on the counts of the random audit.

    Half of alpha bounds the agreement rate from below, the other half is Clopper-Pearson's on that share of the hits,
    rounded down. The audit is read as binomial; its true, hypergeometric tail is the lighter one wherever agreement is
    above 1/2 and alpha small (Uhlmann, Metrika 1966). Source: Gao, Hou, Xu, Liu, NeurIPS 2024 (arXiv 2411.00899).
    """
    hits, n, audited, disagreed = _check_counts(hits, n, audited, disagreed, alpha)
    agreement = _beta_quantile(audited - disagreed, audited, alpha / 2)
    return _beta_quantile(floor(hits * agreement), n, alpha / 2)


def released_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """UNSOUND, no bound on p_A: the formula of the paper's released code, kept only to reproduce published tables.

    It scales the hits and the total by the same agreement rate, which cancels the correction: where the sampler says
    c on 2 of a hundred samples more than F does, it is above p_A most of the time. Source: the code released with
    Gao, Hou, Xu, Liu, NeurIPS 2024; the agreement rate is from the random audit.
    """
    hits, n, audited, disagreed = _check_counts(hits, n, audited, disagreed, alpha)
    agreement = _beta_quantile(audited - disagreed, audited, alpha / 2)
    return _beta_quantile(hits * agreement, n * agreement, alpha / 2)


_P_LOWER = {
    "cohen": cohen_p_lower,
    "exact": exact_p_lower,
    "union": union_p_lower,
    "paper": paper_p_lower,
    "released": released_p_lower,
}
CERTIFICATES = tuple(_P_LOWER)
SOUND = frozenset(CERTIFICATES) - {"released"}


def p_lower(kind: str, hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """The bound of the certificate named `kind`, one of CERTIFICATES; its promise is that function's, see SOUND."""
    if kind not in _P_LOWER:
        raise ValueError(f"unknown certificate {kind!r}; expected one of {', '.join(CERTIFICATES)}")
    return _P_LOWER[kind](hits, n, audited, disagreed, alpha)


def certified_radius(p_lower: float, sigma: float) -> float:
    """No l2 perturbation smaller than this changes the smoothed class, if p_lower <= p_A: sigma * Phi^-1(p_lower).

    In the units of sigma; 0.0, which means abstain, unless p_lower > 1/2. Raises ValueError unless 0 <= p_lower < 1
    and sigma > 0. Source: Cohen, Rosenfeld, Kolter, ICML 2019, theorem 1 with the runner-up bounded by 1 - p_lower.
    """
    if not 0.0 <= p_lower < 1.0:
        raise ValueError(f"p_lower must lie in [0, 1), found {p_lower}")
    if not 0.0 < sigma < inf:
        raise ValueError(f"sigma must be positive and finite, found {sigma}")
    return float(sigma * ndtri(p_lower)) if p_lower > 0.5 else 0.0


def p_cap(kind: str, n: int, audit: int, alpha: float) -> float:
    """The largest p_lower that n samples with an audit of at most `audit` can give: all hits, all audited ones agree.

    `certified_radius(p_cap, sigma)` is what the radius is capped at. `cohen` has no audit and ignores that argument.
    """
    return p_lower(kind, n, n, 0 if kind == "cohen" else min(audit, n), 0, alpha)


def smallest_audit(kind: str, n: int, alpha: float, p: float) -> int | None:
    """The least audit with p_cap(kind, n, audit, alpha) > p; None if not even auditing all n is enough.

    0 for `cohen`, where n alone decides. Raises ValueError unless 0 <= p <= 1.
    """
    _check_target(p)
    return _first_above(p, lambda audit: p_cap(kind, n, audit, alpha), -1, n)


def smallest_n(kind: str, alpha: float, audit: int, p: float) -> int | None:
    """An n with p_cap(kind, n, audit, alpha) > p where n - 1 is not enough; None if none up to 10^9 was found.

    For `cohen` always, for `exact` and `union` if it is at most `audit`, that is the least such n: so far the cap
    rises with n. Elsewhere more samples can lower it (beyond, `exact` peaks near n = 2 audit and falls to t^(1/audit);
    `union` and `paper` are saw-toothed), so n grows by a twentieth at a time until it is enough, then bisection takes
    over, and a smaller n may hide between two steps. Raises ValueError unless 0 <= p <= 1.
    """
    _check_target(p)
    too_few, n = 0, max(audit, 1)
    while n <= _LARGEST_N:
        enough = _first_above(p, lambda m: p_cap(kind, m, audit, alpha), too_few, n)
        if enough is not None:
            return enough
        too_few, n = n, n + max(1, n // 20)
    return None


def _first_above(p: float, cap: Callable[[int], float], low: int, high: int) -> int | None:
    """An argument in (low, high] where `cap` rises above p (the first, if it is monotone); None if cap(high) <= p."""
    if cap(high) <= p:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if cap(middle) > p:
            high = middle
        else:
            low = middle
    return high


def _log_hypergeometric(size: int, d: int, draws: int, k: int) -> tuple[float, float]:
    """ln P(X <= k) and ln P(X = k) for X ~ Hypergeometric(size, d marked, draws), k <= d <= size - draws + k."""
    log_mass = _log_choose(d, k) + _log_choose(size - d, draws - k) - _log_choose(size, draws)
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


def _log_binomial_mass(n: int, k: int, p: float) -> float:
    return _log_choose(n, k) + k * log(p) + (n - k) * log1p(-p)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _beta_quantile(k: float, n: float, alpha: float) -> float:
    if k <= 0:
        return 0.0
    a, b, tail = k, n - k + 1, alpha * (1.0 - _SLACK * n)
    p = float(betaincinv(a, b, tail))
    # The inverse is wrong at isolated parameters (SciPy 1.17, b = 1000: 0.977 for 0.876 at a = 8800, tail 1.1e-11)
    # and nan for extreme tails. The forward function is right there, so it has the last word.
    if abs(float(betainc(a, b, p)) - tail) <= 0.5 * _SLACK * n * tail:
        return p
    low, high = 0.0, 1.0
    while low < (middle := 0.5 * (low + high)) < high:
        if betainc(a, b, middle) <= tail:
            low = middle
        else:
            high = middle
    return low


@lru_cache
def _log_fisher_threshold(alpha: float) -> float:
    """ln t with t (1 - ln t) <= alpha, to the last bit: P(product of two independent p-values <= t) = t (1 - ln t)."""
    log_alpha = log(alpha)
    low, high = 2.0 * log_alpha - 2.0, log_alpha
    while low < (middle := 0.5 * (low + high)) < high:
        if middle + log1p(-middle) <= log_alpha:
            low = middle
        else:
            high = middle
    return low


def _check_alpha(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")


def _check_target(p: float) -> None:
    if not 0.0 <= p <= 1.0:  # 1.0 is what a large radius rounds to; nothing exceeds it
        raise ValueError(f"the bound to exceed must lie in [0, 1], found {p}")


def _check_counts(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> tuple[int, int, int, int]:
    _check_alpha(alpha)
    counts = int(hits), int(n), int(audited), int(disagreed)
    if counts != (hits, n, audited, disagreed) or not 0 <= counts[3] <= counts[2] <= counts[0] <= counts[1]:
        raise ValueError(
            "counts must be integers with 0 <= disagreed <= audited <= hits <= n, found "
            f"disagreed = {disagreed}, audited = {audited}, hits = {hits}, n = {n}"
        )
    return counts
