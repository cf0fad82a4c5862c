"""`paper`: the formula of Gao et al. 2024, on the counts of a random audit."""

from __future__ import annotations

from math import floor

from srs_ray.smoothing.bounds.bound import Bound
from srs_ray.smoothing.bounds.tails import beta_quantile, check_counts


def paper_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """p <= p_A with probability at least 1 - alpha: the paper's formula, on the counts of the random audit.

    Half of alpha bounds the agreement rate from below, the other half is Clopper-Pearson's on that share of the hits,
    rounded down. The audit is read as binomial; its true, hypergeometric tail is the lighter one wherever agreement is
    above 1/2 and alpha small (Uhlmann, Metrika 1966). Source: Gao, Hou, Xu, Liu, NeurIPS 2024 (arXiv 2411.00899).
    """
    hits, n, audited, disagreed = check_counts(hits, n, audited, disagreed, alpha)
    agreement = beta_quantile(audited - disagreed, audited, alpha / 2)
    return beta_quantile(floor(hits * agreement), n, alpha / 2)


PAPER = Bound("paper", paper_p_lower, audited=True)
