"""Looks by simulation: samplers from independent to hostile lift the best bound above p_A no more often than alpha."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from srs_ray.smoothing.audit import Share, ShareOfAll
from srs_ray.smoothing.bounds import Bound, Evidence, bound_named
from srs_ray.smoothing.plan import Plan

FALSE_ALARM = 1e-6  # a sound plan fails a simulated test with no more than this probability
N, CHAINS, ALPHA, RUNS = 400, 10, 0.05, 600
Hits = NDArray[np.bool_]


def sticky(f_N: Hits, rng: np.random.Generator, again: float) -> Hits:
    """A chain gives its last answer again with this probability, else F's."""
    m_TB = f_N.reshape(-1, CHAINS).copy()
    again_TB = rng.random(m_TB.shape) < again
    for step in range(1, len(m_TB)):
        m_TB[step] = np.where(again_TB[step], m_TB[step - 1], m_TB[step])
    return m_TB.ravel()


def hiding(f_N: Hits, p_a: float) -> Hits:
    """Knows all of F's answers, and invents hits from the first sample on where F is below its mean so far."""
    m_N, hits = f_N.copy(), 0
    for i, hit in enumerate(f_N):
        m_N[i] = hit or hits + 1 <= p_a * (i + 1)
        hits += m_N[i]
    return m_N


SAMPLERS = {
    "independent": lambda f, rng, p: f,
    "sticky 0.5": lambda f, rng, p: sticky(f, rng, 0.5),
    "sticky 0.9": lambda f, rng, p: sticky(f, rng, 0.9),
    "sticky 0.99": lambda f, rng, p: sticky(f, rng, 0.99),
    "leaning 0.3": lambda f, rng, p: f | (rng.random(N) < 0.3),
    "always c": lambda f, rng, p: np.ones_like(f),
    "false early": lambda f, rng, p: f | (np.arange(N) < N // 4),
    "false late": lambda f, rng, p: f | (np.arange(N) >= 3 * N // 4),
    "hiding": lambda f, rng, p: hiding(f, p),
    "missing 0.5": lambda f, rng, p: f & (rng.random(N) < 0.5),
    "false and missing": lambda f, rng, p: f ^ (rng.random(N) < 0.2),
}


def violations(bound: Bound, sampler: str, p_a: float, tau: float, power: float, runs: int) -> int:
    rng = np.random.default_rng(7)
    audit = ShareOfAll(tau) if bound.misses else Share(tau)
    plan = Plan.geometric(bound, ALPHA, N, first=50, growth=2.0, power=power, audit=audit)
    p_lower = lru_cache(maxsize=None)(plan._bound)
    above = 0
    for _ in range(runs):
        f_N = rng.random(N) < p_a
        m_N = SAMPLERS[sampler](f_N, rng, p_a)
        audited_N, missed_N = m_N & (below_N := rng.random(N) < tau), ~m_N & below_N & bound.misses
        sums = [np.cumsum(x_N) for x_N in (m_N, audited_N, audited_N & ~f_N, missed_N, missed_N & f_N)]
        counts = [Evidence(n, *(int(x_N[n - 1]) for x_N in sums)) for n in plan.sizes]
        above += any(p_lower(count) > p_a for count in counts)
    return above


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("p_a", [0.4, 0.8])
@pytest.mark.parametrize("kind", ["exact", "two-sided"])
def test_no_sampler_breaks_the_best_bound_of_all_looks_more_often_than_alpha(
    kind: str, sampler: str, p_a: float
) -> None:
    assert violations(bound_named(kind), sampler, p_a, 0.15, 0.5, RUNS) <= binom.isf(FALSE_ALARM, RUNS, ALPHA)


def test_a_sampler_that_leans_breaks_a_bound_that_scales_its_audit_away() -> None:
    released = replace(bound_named("released"), sound=True)  # or no plan by looks would take it
    assert violations(released, "leaning 0.3", 0.4, 0.15, 0.5, RUNS) > binom.isf(FALSE_ALARM, RUNS, ALPHA)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["exact", "weighted", "two-sided", "union", "paper"])
@pytest.mark.parametrize("p_a", [0.35, 0.9])
@pytest.mark.parametrize("tau", [0.05, 0.15, 0.5])
@pytest.mark.parametrize("power", [0.3, 1.0])
def test_the_same_over_rates_shares_and_schedules(
    kind: str, sampler: str, p_a: float, tau: float, power: float
) -> None:
    runs = 1000
    assert violations(bound_named(kind), sampler, p_a, tau, power, runs) <= binom.isf(FALSE_ALARM, runs, ALPHA)
