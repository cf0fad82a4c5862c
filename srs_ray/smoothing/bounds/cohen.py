"""`cohen`: Clopper-Pearson on samples of the base classifier itself."""

from __future__ import annotations

from srs_ray.smoothing.bounds.bound import Bound
from srs_ray.smoothing.bounds.tails import beta_quantile, check_counts


def cohen_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """p <= p_A with probability at least 1 - alpha, if F itself made the n predictions (the standard sampler).

    Clopper-Pearson on the hits. Raises ValueError for counts with an audit: those are another sampler's predictions.
    Source: Cohen, Rosenfeld, Kolter, ICML 2019, `LowerConfBound`.
    """
    hits, n, audited, disagreed = check_counts(hits, n, audited, disagreed, alpha)
    if audited:
        raise ValueError(
            f"certificate 'cohen' is for samples of F itself, which need no audit; found audited = {audited}"
        )
    return beta_quantile(hits, n, alpha)


COHEN = Bound("cohen", cohen_p_lower, audited=False)
