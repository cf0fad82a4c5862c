"""Looks: alpha is spent and not more, and no adversary lifts the best bound above p_A more often, by enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hostile_samplers import worst_of_an_audited_plan
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from srs_ray.smoothing.audit import Fixed, Share, ShareOfAll
from srs_ray.smoothing.bounds import BOUNDS, Bound, Evidence, bound_named, clopper_pearson_lower, p_lower
from srs_ray.smoothing.bounds.mixture import mixture_p_lower
from srs_ray.smoothing.looks import look_sizes, spend_alpha
from srs_ray.smoothing.plan import Plan
from srs_ray.smoothing.radius import certified_radius, target_p


def test_looks_double_up_to_n_from_the_first_size_or_more() -> None:
    assert look_sizes(10_000, 150) == (157, 313, 625, 1250, 2500, 5000, 10_000)
    assert look_sizes(8, 2) == (2, 4, 8)
    assert look_sizes(7, 1) == (1, 2, 4, 7)
    assert look_sizes(10_000, 5000) == (5000, 10_000)
    assert look_sizes(100, 30, 1.5) == (30, 45, 67, 100)
    assert look_sizes(5, 1, 1.01) == (5,)  # no step down that rounds up again
    assert look_sizes(10_000, 5001) == look_sizes(10_000, 20_000) == (10_000,)


@pytest.mark.parametrize("growth", [1.0, 0.5, -2.0, float("nan"), float("inf")])
def test_looks_that_do_not_grow_are_refused(growth: float) -> None:
    with pytest.raises(ValueError, match="grow"):
        look_sizes(100, 10, growth)


@pytest.mark.parametrize(("n", "first"), [(0, 1), (10, 0), (-5, -5)])
def test_looks_of_no_samples_are_refused(n: int, first: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        look_sizes(n, first)


@given(
    st.floats(1e-12, 0.9),
    st.integers(1, 10**6),
    st.integers(1, 10**4),
    st.floats(0.05, 3.0),
)
def test_the_levels_are_positive_and_their_exact_sum_is_alpha_or_a_rounding_less(
    alpha: float, n: int, first: int, power: float
) -> None:
    alphas = spend_alpha(alpha, look_sizes(n, first), power)
    assert min(alphas) > 0.0
    assert Fraction(alpha) * (1 - Fraction(1, 2**48)) <= sum(map(Fraction, alphas)) <= Fraction(alpha)


def test_the_levels_are_those_of_the_power_family() -> None:
    assert spend_alpha(0.01, (100, 400), 0.5) == pytest.approx((0.005, 0.005), rel=1e-14)
    assert spend_alpha(0.01, (100, 400), 1.0) == pytest.approx((0.0025, 0.0075), rel=1e-14)


@pytest.mark.parametrize(
    ("alpha", "sizes", "power"),
    [(0.0, (5,), 1.0), (1.0, (5,), 1.0), (0.1, (), 1.0), (0.1, (5, 5), 1.0), (0.1, (9, 5), 1.0), (0.1, (0, 5), 1.0)],
)
def test_impossible_schedules_are_refused(alpha: float, sizes: tuple[int, ...], power: float) -> None:
    with pytest.raises(ValueError):
        spend_alpha(alpha, sizes, power)


@pytest.mark.parametrize("power", [0.0, -1.0, 1e-18, 400.0, float("nan")])
def test_a_power_that_leaves_a_look_nothing_is_refused(power: float) -> None:
    with pytest.raises(ValueError, match="no level of its own"):
        spend_alpha(0.001, (157, 10_000), power)


LOOK_CERTIFICATES = [bound.name for bound in BOUNDS.values() if bound.sound]
COHEN = Plan(bound_named("cohen"), 0.1, (5, 10, 20), (0.02, 0.03, 0.05))
EXACT = Plan(bound_named("exact"), 0.1, (50, 100, 200), (0.02, 0.03, 0.05), Share(0.3))
MIXTURE = Plan(bound_named("mixture"), 0.1, (5, 10, 20), (0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"kind": "released"}, "released"),
        ({"kind": "exakt"}, "exakt"),
        ({"alphas": (0.02, 0.03, 0.05 + 1e-16)}, "more than alpha"),
        ({"alphas": (0.05, 0.05)}, "needs a level"),
        ({"alphas": (0.0, 0.03, 0.05)}, "needs a level"),
        ({"alpha": 1.0}, "alpha must lie"),
        ({"sizes": (5, 20, 10)}, "ascend"),
        ({"audit": Share(0.3)}, r"'cohen' needs no audit, found Share\(share=0\.3\)"),
        ({"audit": Fixed(7)}, r"'cohen' needs no audit, found Fixed\(audit=7\)"),
        ({"kind": "exact"}, "'exact' by looks needs a share of audits above 0"),
        ({"kind": "exact", "audit": Fixed(7)}, "'exact' by looks needs a share of audits above 0"),
        ({"kind": "mixture", "alpha": 0.04}, "more than alpha"),
    ],
)
def test_a_plan_that_does_not_hold_together_is_refused(changed: dict, named: str) -> None:
    settings = {"kind": "cohen", "alpha": 0.1, "sizes": (5, 10, 20), "alphas": (0.02, 0.03, 0.05)} | changed
    kind = settings.pop("kind")
    with pytest.raises(ValueError, match=named):
        Plan(bound_named(kind), **settings)


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.1, float("nan")])
def test_a_share_of_audits_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"audit share is {share}, expected above 0, up to 1"):
        Share(share)


def test_a_geometric_plan_spends_alpha_over_its_looks_and_a_mixture_has_it_at_each() -> None:
    plan = Plan.geometric(bound_named("exact"), 0.001, 10_000, first=500, growth=2.0, power=0.5, audit=Share(0.1))
    assert plan.sizes == look_sizes(10_000, 500)
    assert plan.alphas == spend_alpha(0.001, plan.sizes, 0.5)
    mixture = Plan.geometric(bound_named("mixture"), 0.001, 400, first=100, growth=2.0, power=0.5)
    assert mixture.alphas == (0.001, 0.001, 0.001)


def test_the_bound_is_the_best_of_the_looks_each_at_its_own_level() -> None:
    counts = [Evidence(50, 50, 20, 0), Evidence(100, 100, 40, 0), Evidence(200, 160, 60, 6)]
    bounds = [
        p_lower("exact", c.hits, c.n, c.audited, c.disagreed, level)
        for c, level in zip(counts, EXACT.alphas, strict=True)
    ]
    assert bounds[1] > bounds[0] > bounds[2]
    assert [EXACT.p_lower(counts[:looks]) for looks in range(4)] == [0.0, bounds[0], bounds[1], bounds[1]]
    cohen = [Evidence(5, 5), Evidence(10, 9), Evidence(20, 15)]
    assert COHEN.p_lower(cohen[:1]) == clopper_pearson_lower(5, 5, 0.02)
    assert COHEN.p_lower(cohen) == max(
        clopper_pearson_lower(h, n, a) for h, n, a in [(5, 5, 0.02), (9, 10, 0.03), (15, 20, 0.05)]
    )
    assert MIXTURE.p_lower(cohen) == max(mixture_p_lower(h, n, 0.1) for h, n in [(5, 5), (9, 10), (15, 20)])


@pytest.mark.parametrize(
    ("plan", "counts", "named"),
    [
        (COHEN, [(5, 5), (11, 9)], "planned at"),
        (COHEN, [(10, 9), (5, 5)], "between two looks"),
        (COHEN, [(5, 5), (10, 9), (20, 15), (40, 30)], "planned at"),
        (COHEN, [(5, 5), (10, 4)], "between two looks"),
        (COHEN, [(5, 2), (10, 8)], "between two looks"),
        (COHEN, [(5, 6)], "between two looks"),
        (COHEN, [(5, 5, 1)], "need no audit"),
        (MIXTURE, [(5, 5, 1)], "need no audit"),
        (EXACT, [(50, 40, 10, 2), (100, 80, 9, 2)], "between two looks"),
        (EXACT, [(50, 40, 10, 2), (100, 80, 20, 1)], "between two looks"),
        (EXACT, [(50, 40, 10, 2), (100, 45, 20, 2)], "between two looks"),
        (EXACT, [(50, 40, 10, 2), (100, 80, 12, 5)], "between two looks"),
    ],
)
def test_counts_that_do_not_continue_each_other_as_planned_are_refused(
    plan: Plan, counts: list[tuple[int, ...]], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        plan.p_lower([Evidence(*count) for count in counts])


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("radius_in_sigma", [0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 5.0])
def test_a_target_is_passed_exactly_where_its_radius_is_earned(sigma: float, radius_in_sigma: float) -> None:
    radius = radius_in_sigma * sigma
    target = target_p(radius, sigma)
    above = float(np.nextafter(target, 1.0))
    if radius == 0.0:
        assert target == 0.5
    else:
        assert certified_radius(target, sigma) < radius <= certified_radius(above, sigma)


@pytest.mark.parametrize("radius", [-0.1, float("nan"), 9.0])
def test_a_radius_that_nothing_earns_is_refused(radius: float) -> None:
    with pytest.raises(ValueError):
        target_p(radius, 1.0)


def worst_violation_of_cohen(sizes: Sequence[int], levels: Sequence[float]) -> float:
    """The largest P(best Clopper-Pearson bound > p_A) over p_A just below every attainable bound: all paths, summed."""
    bounds = [
        np.array([clopper_pearson_lower(k, n, level) for k in range(n + 1)])
        for n, level in zip(sizes, levels, strict=True)
    ]
    worst = 0.0
    for p_a in np.concatenate(bounds) * (1 - 1e-9):
        if p_a == 0.0:
            continue
        sound = np.ones(1)  # mass of each number of hits while no bound has been above p_A
        for (before, n), bound in zip(pairwise((0, *sizes)), bounds, strict=True):
            sound = np.convolve(sound, binom.pmf(np.arange(n - before + 1), n - before, p_a)) * (bound <= p_a)
        worst = max(worst, 1.0 - sound.sum())
    return worst


@pytest.mark.parametrize("power", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("sizes", [(2, 5, 9), (10, 20, 40), (7, 14, 28, 56)])
def test_the_best_clopper_pearson_bound_of_all_looks_is_above_p_a_at_most_alpha(
    sizes: tuple[int, ...], alpha: float, power: float
) -> None:
    worst = worst_violation_of_cohen(sizes, spend_alpha(alpha, sizes, power))
    assert 0.2 * alpha < worst <= alpha


def test_looks_that_each_spend_all_of_alpha_are_found_out() -> None:
    assert worst_violation_of_cohen((10, 20, 40), (0.05, 0.05, 0.05)) > 0.07


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("tau", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [(3, 6, 10), (4, 10)])
@pytest.mark.parametrize("kind", ["exact", "weighted", "union"])
def test_no_sampler_lifts_the_best_bound_of_all_looks_above_p_a_more_often_than_alpha(
    kind: str, sizes: tuple[int, ...], tau: float, alpha: float
) -> None:
    plan = Plan(bound_named(kind), alpha, sizes, spend_alpha(alpha, sizes, 0.5), Share(tau))
    # The lower limit is for the enumeration's sake: an adversary that achieved nothing would prove nothing.
    assert 0.01 * alpha < worst_of_an_audited_plan(plan) <= alpha


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("tau", [0.3, 0.8])
@pytest.mark.parametrize("sizes", [(2, 5), (3, 6)])
def test_nor_does_one_whose_misses_are_audited_too(sizes: tuple[int, ...], tau: float, alpha: float) -> None:
    plan = Plan(bound_named("two-sided"), alpha, sizes, spend_alpha(alpha, sizes, 0.5), ShareOfAll(tau))
    assert 0.001 * alpha < worst_of_an_audited_plan(plan) <= alpha


def plugged_in(hits: int, n: int, audited: int, disagreed: int, alpha: float, misses: int, found: int) -> float:
    """Clopper and Pearson's bound on the hits that F would have if audits told their shares without error."""
    of_hits = hits * (1.0 - disagreed / audited) if audited else 0.0
    return clopper_pearson_lower(of_hits + (n - hits) * found / misses if misses else of_hits, n, alpha)


def test_shares_of_audits_that_are_taken_for_the_truth_are_found_out_at_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Bound("plugged in", plugged_in, audited=True, misses=True)
    monkeypatch.setitem(BOUNDS, bound.name, bound)
    plan = Plan(bound, 0.05, (2, 5), spend_alpha(0.05, (2, 5), 0.5), ShareOfAll(0.3))
    assert worst_of_an_audited_plan(plan) > 0.1


def test_a_sampler_that_knows_f_breaks_released_at_looks() -> None:
    plan = SimpleNamespace(bound=bound_named("released"), sizes=(2, 20), alphas=(0.05, 0.05), audit=Share(0.5))
    assert worst_of_an_audited_plan(plan) > 0.2


@pytest.mark.parametrize("kind", LOOK_CERTIFICATES)
def test_every_certificate_for_looks_bounds_and_judges(kind: str) -> None:
    audited = kind not in ("cohen", "mixture")
    audit = Share(0.5) if audited else Fixed(0)
    plan = Plan.geometric(bound_named(kind), 0.001, 1000, first=250, growth=2.0, power=0.5, audit=audit)
    counts = [Evidence(250, 250, 125 if audited else 0, 0)]
    assert 0.8 < plan.p_lower(counts) < 1.0
    assert plan.verdict(counts, [0.5, 0.8]) == "resolved"
