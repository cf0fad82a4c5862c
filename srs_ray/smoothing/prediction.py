"""What samples to come are likely to be, judged by those that there are: for stopping early, never for a bound."""

from __future__ import annotations

from math import ceil

import numpy as np
from scipy.special import bdtr, bdtrik


def design_effect(hit_N: np.ndarray, chains: int) -> float:
    """How many of these samples are worth an independent one for their mean: sample i is of chain i mod `chains`.

    The larger of what the chains' means vary more than they would, and of (1 + r) / (1 - r) with r the correlation of
    neighbours in a chain, which looks ahead. 1.0 where no chain has two samples: other chains' are independent.
    Sources: Kish, Survey Sampling 1965; Bartlett, JRSS 1946.
    """
    steps = len(hit_N) // chains
    if steps < 2:
        return 1.0
    centred_TB = hit_N[: steps * chains].reshape(steps, chains) - hit_N[: steps * chains].mean()
    variance = float((centred_TB**2).mean())
    if variance == 0.0:
        return 1.0
    r = min(float((centred_TB[1:] * centred_TB[:-1]).mean()) / variance, 0.99)
    return max(1.0, (1 + r) / (1 - r), steps * float(centred_TB.mean(axis=0).var()) / variance)


def predictive_quantile(hits: int, n: int, rest: int, level: float, design_effect: float) -> int:
    """The least number of hits among `rest` further samples that is exceeded with probability at most 1 - level."""
    worth = rest / design_effect
    a, b = hits / design_effect + 0.5, (n - hits) / design_effect + 0.5
    whole = int(np.ceil(worth))
    k = np.arange(whole)
    log_mass = np.concatenate([[0.0], np.cumsum(np.log((whole - k) * (k + a) / ((k + 1) * (whole - k - 1 + b))))])
    mass = np.exp(log_mass - log_mass.max())
    above = np.cumsum(mass[::-1])[::-1] - mass  # P(more than k), summed from its small end
    quantile = int(np.argmax(above <= (1.0 - level) * mass.sum()))
    return min(rest, int(np.ceil(quantile * design_effect)))


def binomial_quantile(level: float, n: int, p: float) -> int:
    """The least k with P(Binomial(n, p) <= k) >= level."""
    if n == 0 or p >= 1.0:
        return n
    k = ceil(bdtrik(level, n, p))
    return k - 1 if k > 0 and bdtr(k - 1, n, p) >= level else k
