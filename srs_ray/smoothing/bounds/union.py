"""`union`: half of alpha for the audit, half for the samples."""

from __future__ import annotations

from math import log

from srs_ray.smoothing.bounds.bound import Bound
from srs_ray.smoothing.bounds.tails import SLACK, beta_quantile, check_counts, log_hypergeometric


def union_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """p <= p_A with probability at least 1 - alpha, whatever the correlation between the sampler's predictions.

    The plain form: half of alpha bounds the false hits d from above by the audit's hypergeometric tail, the other
    half is Clopper-Pearson's on hits - d. 0 where nothing was audited or nothing audited agreed.
    """
    hits, n, audited, disagreed = check_counts(hits, n, audited, disagreed, alpha)
    if disagreed == audited:
        return 0.0
    log_alpha_1 = log(alpha) - log(2.0) - SLACK * n
    low, high = disagreed, hits - (audited - disagreed)  # P2(disagreed) = 1, and P2 falls with d
    while low < high:
        d = (low + high + 1) // 2
        if log_hypergeometric(hits, d, audited, disagreed)[0] > log_alpha_1:
            low = d
        else:
            high = d - 1
    return beta_quantile(hits - low, n, alpha - alpha / 2)


UNION = Bound("union", union_p_lower, audited=True)
