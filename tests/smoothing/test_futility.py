"""Stopping early: what a verdict says, and how often it loses a radius that all n samples would have certified."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import fftconvolve
from scipy.stats import betabinom, binom

from srs_ray.smoothing.audit import Fixed, Share
from srs_ray.smoothing.bounds import Evidence, bound_named
from srs_ray.smoothing.plan import Plan
from srs_ray.smoothing.prediction import design_effect, predictive_quantile
from srs_ray.smoothing.radius import target_p

FALSE_ALARM = 1e-6  # a rule that keeps its promise fails a simulated test with no more than this probability
FUTILITY = 0.01


@pytest.mark.parametrize(
    ("hits", "n", "rest"), [(0, 10, 50), (7, 10, 50), (10, 10, 1), (157, 157, 9843), (100, 157, 9843)]
)
@pytest.mark.parametrize("level", [0.5, 0.99, 0.9999])
def test_the_predictive_quantile_is_that_of_the_beta_binomial(hits: int, n: int, rest: int, level: float) -> None:
    law = betabinom(rest, hits + 0.5, n - hits + 0.5)
    quantile = predictive_quantile(hits, n, rest, level, 1.0)
    assert law.sf(quantile) <= (1 - level) * (1 + 1e-6)
    assert quantile == 0 or law.sf(quantile - 1) > (1 - level) * (1 - 1e-6)


def test_a_design_effect_widens_the_prediction_as_fewer_samples_would() -> None:
    quantiles = [predictive_quantile(700, 1000, 9000, 0.99, effect) for effect in (1.0, 2.0, 8.0, 100.0)]
    assert all(before < after for before, after in pairwise(quantiles))
    assert quantiles[2] == pytest.approx(8 * predictive_quantile(88, 125, 1125, 0.99, 1.0), rel=0.01)
    assert predictive_quantile(1, 100, 10, 0.99, 1e9) <= 10


def plan(kind: str = "cohen", first: int = 150, growth: float = 2.0) -> Plan:
    audit = Fixed(0) if kind in ("cohen", "mixture") else Share(0.15)
    return Plan.geometric(bound_named(kind), 0.001, 10_000, first=first, growth=growth, power=0.5, audit=audit)


def test_a_point_is_resolved_when_every_target_is_passed() -> None:
    counts = [Evidence(157, 155)]
    bound = plan().p_lower(counts)
    assert plan().verdict(counts, [0.5, bound - 1e-9]) == "resolved"
    assert plan().verdict(counts, [0.5, bound]) is None


def test_what_an_earlier_look_certified_stays_certified() -> None:
    counts = [Evidence(157, 157), Evidence(313, 290)]
    target = plan().p_lower(counts[:1]) - 1e-9
    assert plan().verdict(counts, [target]) == "resolved"


def test_a_point_that_hardly_gets_to_one_half_abstains_early() -> None:
    assert plan().verdict([Evidence(157, 50)], [0.5, 0.9]) == "futile"
    assert plan().verdict([Evidence(157, 78)], [0.5, 0.9]) is None


def test_a_point_is_futile_when_no_target_that_is_not_passed_is_within_reach() -> None:
    counts = [Evidence(157, 130)]
    assert plan().p_lower(counts) > 0.5
    assert plan().verdict(counts, [0.5, 0.99]) == "futile"
    assert plan().verdict(counts, [0.5, 0.85, 0.99]) is None


def test_a_point_that_has_drawn_all_is_spent_unless_it_is_resolved() -> None:
    small = Plan(bound_named("cohen"), 0.1, (5, 10), (0.05, 0.05))
    assert small.verdict([Evidence(5, 3), Evidence(10, 6)], [0.5]) == "spent"
    assert small.verdict([Evidence(5, 5), Evidence(10, 10)], [0.5]) == "resolved"
    single = Plan(bound_named("cohen"), 0.1, (10,), (0.1,))
    assert single.verdict([Evidence(10, 0)], [0.5]) == "spent"
    assert not single.futile(Evidence(10, 0), 0.5, FUTILITY)


def test_disagreements_make_a_point_futile() -> None:
    srs = plan("exact")
    agreeing, disagreeing = Evidence(1250, 1200, 180, 2), Evidence(1250, 1200, 180, 60)
    assert not srs.futile(agreeing, target_p(0.5, 0.5), FUTILITY)
    assert srs.futile(disagreeing, target_p(0.5, 0.5), FUTILITY)


@pytest.mark.parametrize(
    ("looks", "futility", "effect"),
    [([], 0.01, 1.0), ([70], 0.0, 1.0), ([70], 1.0, 1.0), ([70], 0.01, 0.5), ([70], 0.01, float("nan"))],
)
def test_a_verdict_on_nothing_or_by_impossible_settings_is_refused(
    looks: list[int], futility: float, effect: float
) -> None:
    with pytest.raises(ValueError):
        plan().verdict([Evidence(157, hits) for hits in looks], [0.5], futility, effect)


@pytest.mark.parametrize("hits", [0, 157])
def test_without_targets_all_samples_are_drawn(hits: int) -> None:
    assert plan().verdict([Evidence(157, hits)], []) is None
    assert plan().verdict([Evidence(157, hits), Evidence(10_000, 9000)], []) == "spent"


def test_independent_samples_have_a_design_effect_near_one_and_copies_near_their_number() -> None:
    rng = np.random.default_rng(0)
    independent = rng.random(10_000) < 0.8
    assert 1.0 <= design_effect(independent, 400) < 1.3
    assert design_effect(np.tile(independent[:400], 25), 400) >= 25
    assert design_effect(chains(rng, 0.8, 100, 0.5), 100) == pytest.approx(3.0, rel=0.3)  # (1 + r) / (1 - r)
    assert design_effect(independent[:799], 400) == 1.0
    assert design_effect(np.ones(1000, dtype=bool), 10) == 1.0


def chains(rng: np.random.Generator, p: float, number: int, again: float) -> np.ndarray:
    """Hits of `number` chains that give their last answer again with this probability, else F's."""
    return simulated(rng, p, number, again)[1]


def simulated(rng: np.random.Generator, p: float, number: int, again: float) -> tuple[np.ndarray, np.ndarray]:
    """F's hits and the chains'."""
    f_TB = rng.random((10_000 // number, number)) < p
    m_TB, again_TB = f_TB.copy(), rng.random(f_TB.shape) < again
    for step in range(1, len(m_TB)):
        m_TB[step] = np.where(again_TB[step], m_TB[step - 1], f_TB[step])
    return f_TB.ravel(), m_TB.ravel()


def least(holds, most: int) -> int:
    """The least of 0 to `most` for which it holds, if it goes on to hold; most + 1 if none."""
    low, high = 0, most + 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def lost(kind: str, first: int, growth: float, radius: float, futility: float) -> float:
    """The largest P(stopped as futile at some look, certified by none so far, and n samples certify), p_A from far
    below the target to far above it; exact."""
    looks, target = plan(kind, first, growth), target_p(radius, 0.5)
    n = looks.sizes[-1]
    passes = [least(lambda h, s=s: looks._bound(Evidence(s, h)) > target, s) for s in looks.sizes]
    goes_on = [least(lambda h, s=s: not looks.futile(Evidence(s, h), target, futility), s) for s in looks.sizes[:-1]]
    deviation = np.sqrt(target * (1 - target) / n)
    worst = 0.0
    for p in np.clip(target + deviation * np.arange(-12, 30, 1.5), 0.3, 0.99999):
        alive, before, missed = np.ones(1), 0, 0.0
        for size, enough, low in zip(looks.sizes, passes, goes_on, strict=False):
            alive = fftconvolve(alive, binom.pmf(np.arange(size - before + 1), size - before, p))
            hits = np.arange(size + 1)
            stops = (hits < low) & (hits < enough)
            missed += float((alive * stops) @ binom.sf(passes[-1] - hits - 1, n - size, p))
            alive, before = alive * ((hits >= low) & (hits < enough)), size
        worst = max(worst, missed)
    return worst


@pytest.mark.parametrize(("kind", "first", "growth"), [("cohen", 150, 2.0), ("mixture", 100, 1.25), ("cohen", 40, 2.0)])
@pytest.mark.parametrize("radius", [0.0, 1.0, 1.5])
def test_at_most_one_point_in_a_hundred_loses_a_radius_wherever_its_rate_lies(
    kind: str, first: int, growth: float, radius: float
) -> None:
    assert lost(kind, first, growth, radius, FUTILITY) <= FUTILITY


def test_futility_that_is_large_loses_radii() -> None:
    assert lost("cohen", 150, 2.0, 0.5, 0.5) > 10 * FUTILITY


def share_lost(p: float, number: int, again: float, tau: float, effect: bool, runs: int) -> tuple[int, int]:
    """Runs in which a target that the last look certifies was called futile, and those runs that kept it; the target
    is one that about two in three runs certify."""
    rng = np.random.default_rng(0)
    looks = Plan.geometric(bound_named("exact"), 0.001, 10_000, first=150, growth=1.5, power=1.0, audit=Share(tau))
    last = lru_cache(maxsize=None)(lambda *counts: looks._bound(Evidence(*counts)))
    made = []
    for _ in range(runs):
        f_N, m_N = simulated(rng, p, number, again)
        audited_N = m_N & (rng.random(len(m_N)) < tau)
        sums = [np.cumsum(x_N) for x_N in (m_N, audited_N, audited_N & ~f_N)]
        effects = [design_effect(m_N[:n], number) if effect else 1.0 for n in looks.sizes]
        made.append(([Evidence(n, *(int(x[n - 1]) for x in sums)) for n in looks.sizes], effects))
    ends = [last(10_000, c.hits, c.audited, c.disagreed) for (*_, c), _ in made]
    target = float(np.quantile(ends, 1 / 3))
    certified = [point for point, end in zip(made, ends, strict=True) if end > target]
    missed = sum(
        any(looks.futile(now, target, FUTILITY, e) for now, e in zip(counts[:-1], effects[:-1], strict=True))
        for counts, effects in certified
    )
    return missed, len(certified)


@pytest.mark.parametrize(("number", "again"), [(400, 0.0), (400, 0.9), (50, 0.95), (10, 0.98)])
@pytest.mark.parametrize("p", [0.6, 0.9])
def test_at_most_one_audited_point_in_a_hundred_loses_a_radius_however_sticky_its_chains(
    p: float, number: int, again: float
) -> None:
    missed, runs = share_lost(p, number, again, 0.15, True, 150)
    assert missed <= binom.isf(FALSE_ALARM, runs, FUTILITY)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "again"), [(400, 0.0), (400, 0.5), (400, 0.9), (50, 0.9), (50, 0.98), (10, 0.98)])
@pytest.mark.parametrize("p", [0.55, 0.75, 0.9, 0.97])
@pytest.mark.parametrize("tau", [0.05, 0.15, 0.5])
def test_the_same_with_many_runs(p: float, number: int, again: float, tau: float) -> None:
    missed, runs = share_lost(p, number, again, tau, True, 1500)
    assert missed <= binom.isf(FALSE_ALARM, runs, FUTILITY)


def test_chains_read_as_independent_lose_more() -> None:
    missed, runs = share_lost(0.75, 10, 0.98, 0.5, False, 150)
    assert missed > binom.isf(FALSE_ALARM, runs, FUTILITY)
