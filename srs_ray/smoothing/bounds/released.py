"""`released`: the unsound formula of the paper's released code, for reproducing published tables alone."""

from __future__ import annotations

from srs_ray.smoothing.bounds.bound import Bound
from srs_ray.smoothing.bounds.tails import beta_quantile, check_counts


def released_p_lower(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
    """UNSOUND, no bound on p_A: the formula of the paper's released code, kept only to reproduce published tables.

    It scales the hits and the total by the same agreement rate, which cancels the correction: where the sampler says
    c on 2 of a hundred samples more than F does, it is above p_A most of the time. Source: the code released with
    Gao, Hou, Xu, Liu, NeurIPS 2024; the agreement rate is from the random audit.
    """
    hits, n, audited, disagreed = check_counts(hits, n, audited, disagreed, alpha)
    agreement = beta_quantile(audited - disagreed, audited, alpha / 2)
    return beta_quantile(hits * agreement, n * agreement, alpha / 2)


RELEASED = Bound("released", released_p_lower, audited=True, sound=False)
