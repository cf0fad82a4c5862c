"""From a bound on p_A to an l2 radius, and back."""

from __future__ import annotations

from math import inf

import numpy as np
from scipy.special import ndtr, ndtri


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


def target_p(radius: float, sigma: float) -> float:
    """The largest p that does not earn this l2 radius: certified_radius(p_lower, sigma) >= radius exactly above it.

    1/2 for radius 0, where anything certified will do. Raises ValueError for a radius that is negative, no number, or
    so large that no p below 1 earns it.
    """
    if not radius >= 0.0:
        raise ValueError(f"a target radius is at least 0, found {radius}")
    earned = (lambda q: certified_radius(q, sigma) >= radius) if radius > 0.0 else (lambda q: q > 0.5)
    largest = float(np.nextafter(1.0, 0.0))
    if not earned(largest):
        raise ValueError(f"no probability below 1 earns radius {radius} at sigma {sigma}")
    p = min(float(ndtr(radius / sigma)), float(np.nextafter(largest, 0.0)))
    while not earned(float(np.nextafter(p, 1.0))):
        p = float(np.nextafter(p, 1.0))
    while p > 0.5 and earned(p):
        p = float(np.nextafter(p, 0.0))
    return p
