"""`two-sided`: values against exact arithmetic, coverage, gains, unsound variants that are found out, and audits."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import lru_cache
from itertools import product
from math import log

import numpy as np
import pytest
import torch
from hostile_samplers import worst_of_two_audits
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import betainc
from scipy.stats import binom, hypergeom, norm
from test_certificates import HAIR, binomial_at_least, feasible, hypergeometric_at_most
from test_lazy_audits import Answers

from srs_ray import certify_point
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.smoothing.audit import BothSides, Fixed, ShareOfAll, audit_misses
from srs_ray.smoothing.bounds import (
    BOUNDS,
    clopper_pearson_lower,
    exact_p_lower,
    p_lower,
    two_sided_p_lower,
)
from srs_ray.smoothing.bounds.two_sided import least_of_three, log_threshold_of_three
from srs_ray.smoothing.estimation import estimate
from srs_ray.smoothing.limits import p_cap, smallest_audit, smallest_n
from srs_ray.smoothing.noise import NoisyPoint, Philox4x64
from srs_ray.smoothing.plan import Goal, Plan
from srs_ray.smoothing.smoothing import certificate_defaults, smoothing_of

TWO_SIDED = BOUNDS["two-sided"]
FALSE_ALARM = 1e-6  # a sound certificate fails a simulated test with no more than this probability
Counts = tuple[int, int, int, int, float, int, int]  # hits, n, audited, disagreed, alpha, audited misses, found


def level_of(product_of_three: Decimal) -> Decimal:
    """P(U1 U2 U3 <= this) for independent uniform p-values."""
    with localcontext(prec=40):
        if product_of_three <= 0:
            return Decimal(0)
        x = product_of_three.ln()
        return product_of_three * (1 - x + x * x / 2)


@pytest.mark.parametrize("alpha", [1e-300, 1e-9, 0.001, 0.1, 0.9])
def test_the_threshold_spends_alpha_and_not_more(alpha: float) -> None:
    with localcontext(prec=40):
        t = Decimal(log_threshold_of_three(alpha)).exp()
        assert level_of(t) <= Decimal(alpha) * (1 + Decimal("1e-12"))
        assert level_of(t * (1 + Decimal("1e-11"))) > Decimal(alpha)


def test_the_published_threshold() -> None:
    assert -log_threshold_of_three(0.001) == pytest.approx(11.23, abs=0.005)


N = 6
SMALL_COUNTS = [
    (hits, audited, disagreed, of_misses, found)
    for hits in range(N + 1)
    for audited, of_misses in product(range(hits + 1), range(N - hits + 1))
    for disagreed, found in product(range(audited + 1), range(of_misses + 1))
]


@pytest.mark.parametrize("alpha", [0.001, 0.1, 0.6])
def test_it_is_the_supremum_of_the_rates_that_the_test_of_three_rejects(alpha: float) -> None:
    for hits, audited, disagreed, of_misses, found in SMALL_COUNTS:
        misses = N - hits
        possible = [
            (d, u, hypergeometric_at_most(disagreed, hits, d, audited) * at_least(found, misses, u, of_misses))
            for d in feasible(hits, audited, disagreed)
            for u in range(found, misses - (of_misses - found) + 1)
        ]

        def level(p0: float, hits: int = hits, possible: list = possible) -> Decimal:
            tails = [binomial_at_least(g, N, p0) for g in range(N + 1)]
            most = max(tails[hits - d + u] * tail for d, u, tail in possible)
            return level_of(Decimal(most.numerator) / Decimal(most.denominator))

        p = two_sided_p_lower(hits, N, audited, disagreed, alpha, of_misses, found)
        if disagreed == audited and found == 0:
            assert p == 0.0, "F may have no hit at all"
        else:
            assert level(p) <= Decimal(alpha)
            assert p * HAIR >= 1.0 or level(p * HAIR) > Decimal(alpha)


def at_least(found: int, misses: int, u: int, draws: int) -> object:
    """P(Hypergeometric(misses, u, draws) >= found), exactly."""
    return hypergeometric_at_most(draws - found, misses, misses - u, draws)


@pytest.mark.parametrize(
    ("hits", "audited", "disagreed", "of_misses", "found"),
    [
        (1800, 85, 1, 15, 2),
        (1500, 300, 6, 200, 9),
        (1100, 500, 9, 60, 0),
        (1990, 1000, 4, 10, 5),
        (1300, 20, 0, 700, 30),
    ],
)
def test_no_number_of_false_and_of_missed_hits_breaks_it(
    hits: int, audited: int, disagreed: int, of_misses: int, found: int
) -> None:
    """Every pair of them in turn, by SciPy's tails: 1e-6 is what these are good for."""
    n, alpha = 2000, 0.001
    d_D = np.array(feasible(hits, audited, disagreed))
    u_U = np.arange(found, n - hits - (of_misses - found) + 1)
    p2_D, p3_U = hypergeom.cdf(disagreed, hits, d_D, audited), hypergeom.sf(found - 1, n - hits, u_U, of_misses)
    of_f_DU = hits - d_D[:, None] + u_U

    def highest(p0: float) -> float:
        p1_DU = np.where(of_f_DU > 0, betainc(np.maximum(of_f_DU, 1), n - of_f_DU + 1.0, p0), 1.0)
        return float((p1_DU * p2_D[:, None] * p3_U).max())

    p = two_sided_p_lower(hits, n, audited, disagreed, alpha, of_misses, found)
    assert log(highest(p)) <= log_threshold_of_three(alpha) + 1e-6 < log(highest(p * (1 + 1e-5)))


@st.composite
def possible_counts(draw: st.DrawFn) -> Counts:
    n = draw(st.integers(1, 2000))
    hits = draw(st.integers(0, n))
    audited, of_misses = draw(st.integers(0, hits)), draw(st.integers(0, n - hits))
    disagreed = draw(st.integers(0, audited) | st.integers(0, min(audited, 5)))
    alpha = draw(st.sampled_from([1e-300, 1e-9, 0.001, 0.05]) | st.floats(1e-12, 0.999))
    return hits, n, audited, disagreed, alpha, of_misses, draw(st.integers(0, of_misses))


@given(counts=possible_counts())
def test_more_evidence_for_c_never_certifies_less(counts: Counts) -> None:
    hits, n, audited, disagreed, alpha, of_misses, found = counts
    p = two_sided_p_lower(*counts)
    assert 0.0 <= p < 1.0
    more = p * (1 - 1e-9)
    if found < of_misses:
        assert more <= two_sided_p_lower(hits, n, audited, disagreed, alpha, of_misses, found + 1)
    if disagreed:
        assert more <= two_sided_p_lower(hits, n, audited, disagreed - 1, alpha, of_misses, found)
    assert two_sided_p_lower(hits, n, audited, disagreed, alpha / 2, of_misses, found) <= p
    most = hits - disagreed + found + n - hits - of_misses
    assert p <= clopper_pearson_lower(most, n, alpha)


def test_without_an_audit_of_misses_it_pays_for_the_third_test_and_gets_nothing() -> None:
    two, three = (p_lower(kind, 9000, 10_000, 400, 2, 0.001) for kind in ("exact", "two-sided"))
    assert 0.5 < three < two


@pytest.mark.parametrize(("audited_misses", "found"), [(11, 0), (-1, 0), (5, 6), (5, -1), (2.5, 0)])
def test_impossible_counts_of_misses_are_refused(audited_misses: float, found: int) -> None:
    with pytest.raises(ValueError, match="audited misses"):
        two_sided_p_lower(90, 100, 40, 0, 0.001, audited_misses, found)


@pytest.mark.parametrize("kind", [kind for kind, bound in BOUNDS.items() if bound.audited and not bound.misses])
def test_other_bounds_ignore_the_audit_of_misses(kind: str) -> None:
    assert p_lower(kind, 90, 100, 40, 1, 0.1, 10, 4) == p_lower(kind, 90, 100, 40, 1, 0.1)


# What it takes to evaluate a run of 10,000 samples with counts as they are on average, which need not be whole.
def radius_of(bound: Callable[[int, int], float], disagreed: float, found: float) -> float:
    """Radius in sigma, interpolated between whole counts."""
    corners = [
        (abs(1 - k - disagreed % 1) * abs(1 - j - found % 1), bound(int(disagreed) + k, int(found) + j))
        for k, j in product((0, 1), (0, 1))
    ]
    return float(sum(share * norm.ppf(p) for share, p in corners if share))


def gained(p: float, audit: int, false: float, missed: float) -> float:
    """Two-sided with 15 % of the audits on misses, against exact; false and missed are shares of all samples."""
    n, alpha = 10_000, 0.001
    hits = round(n * (p + false - missed))
    audited, of_misses = BothSides(audit).expected(hits, n - hits)
    two_sided = radius_of(
        lambda k, j: two_sided_p_lower(hits, n, audited, k, alpha, of_misses, j),
        audited * n * false / hits,
        of_misses * n * missed / (n - hits),
    )
    return two_sided - radius_of(lambda k, _: exact_p_lower(hits, n, audit, k, alpha), audit * n * false / hits, 0.0)


@pytest.mark.parametrize(("p", "gain"), [(0.6, 0.03), (0.8, 0.04), (0.95, 0.10)])
def test_the_published_gains_where_as_many_hits_are_missed_as_are_false(p: float, gain: float) -> None:
    assert gained(p, 1000, 0.02, 0.02) == pytest.approx(gain, abs=0.005)


def test_it_loses_where_audits_are_few_or_misses_rare() -> None:
    assert -0.2 < gained(0.95, 100, 0.02, 0.02) < 0
    assert -0.2 < gained(0.95, 1000, 0.02, 0.0) < 0


@pytest.mark.parametrize(("n", "rule"), [(6, BothSides(4, 0.3)), (14, BothSides(8, 0.4)), (20, BothSides(5, 0.45))])
@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.4])
def test_no_sampler_lifts_it_above_p_a_more_often_than_alpha(n: int, rule: BothSides, alpha: float) -> None:
    # The lower limit is for the enumeration's sake: an adversary that achieved nothing would prove nothing.
    assert 0.02 * alpha <= worst_of_two_audits(two_sided_p_lower, n, rule, alpha) <= alpha


def found_counts_as_if_all_were_audited(
    hits: int, n: int, audited: int, disagreed: int, alpha: float, of_misses: int, found: int
) -> float:
    """Takes the misses' audit for their true rate: no test of u at all."""
    more = round(found / of_misses * (n - hits)) if of_misses else 0
    return exact_p_lower(hits + more, n, audited, disagreed, alpha)


def a_product_taken_for_one_p_value(
    hits: int, n: int, audited: int, disagreed: int, alpha: float, of_misses: int, found: int
) -> float:
    return least_of_three(hits, n, audited, disagreed, of_misses, found, log(alpha))


@pytest.mark.parametrize("unsound", [found_counts_as_if_all_were_audited, a_product_taken_for_one_p_value])
def test_variants_that_are_unsound_are_found_out(unsound: Callable[..., float]) -> None:
    assert worst_of_two_audits(unsound, 20, BothSides(5, 0.45), 0.1) > 0.12


SAMPLES, P_A, ALPHA, RUNS = 400, 0.7, 0.05, 1500
Hits = NDArray[np.bool_]


def hiding_misses(f_N: Hits, rng: np.random.Generator) -> Hits:
    """Knows F's answers: as many hits in every run, true ones first, so that audits see what F did badly or well."""
    order = np.argsort(np.where(f_N, 0.0, 1.0) + rng.random(len(f_N)) / 2)
    said_N = np.zeros_like(f_N)
    said_N[order[: round(SAMPLES * P_A)]] = True
    return said_N


SAMPLERS: dict[str, Callable[[Hits, np.random.Generator], Hits]] = {
    "independent of F": lambda f_N, rng: rng.random(len(f_N)) < P_A,
    "wrong in both ways": lambda f_N, rng: np.where(rng.random(len(f_N)) < 0.05, ~f_N, f_N),
    "misses many": lambda f_N, rng: f_N & (rng.random(len(f_N)) < 0.8),
    "false and early": lambda f_N, rng: f_N ^ (np.arange(len(f_N)) < 40),
    "hiding": hiding_misses,
    "the opposite": lambda f_N, rng: ~f_N,
}


def simulated(sampler: str, p_lower_of: Callable[..., float]) -> int:
    """How often the bound is above p_A, on audits as a run makes them."""
    rng = np.random.default_rng(11)
    bound = lru_cache(maxsize=None)(p_lower_of)
    plan = Plan.fixed(TWO_SIDED, ALPHA, SAMPLES, BothSides(80, 0.3))
    above = 0
    for index in range(RUNS):
        f_N = rng.random(SAMPLES) < P_A
        said_N = SAMPLERS[sampler](f_N, rng)
        point = NoisyPoint(torch.zeros(1), 1.0, 5, index, Philox4x64())
        made = estimate(Answers(said_N), Answers(f_N), point, 1, 1.0, plan, Goal())
        [seen] = made.read
        counts = seen.hits, SAMPLES, seen.audited, seen.disagreed, ALPHA, seen.audited_misses, seen.found
        assert made.p_lower == two_sided_p_lower(*counts)
        above += bound(*counts) > P_A
    return above


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_breaks_it_more_often_than_alpha(sampler: str) -> None:
    assert simulated(sampler, two_sided_p_lower) <= binom.isf(FALSE_ALARM, RUNS, ALPHA)


def test_the_same_simulation_finds_out_a_bound_that_takes_the_audit_for_the_rate() -> None:
    assert simulated("misses many", found_counts_as_if_all_were_audited) > binom.isf(FALSE_ALARM, RUNS, ALPHA)


def test_audits_are_of_both_sides_and_what_misses_leave_goes_to_hits() -> None:
    rule = BothSides(100, 0.15)
    assert rule.expected(5000, 5000) == (85, 15)
    assert rule.expected(9996, 4) == (96, 4)
    assert rule.expected(30, 5000) == (30, 15)
    assert rule.halved() == BothSides(50, 0.15)
    assert BothSides(1).halved() is None
    assert BothSides(3).expected(50, 50) == (3, 0), "15 % of three audits is none"


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_of_misses_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        BothSides(100, share)


def test_the_choice_is_uniform_on_each_side_and_independent_of_the_other() -> None:
    hit_N = np.arange(20) % 2 == 0
    rule, chosen = BothSides(6, 0.5), np.zeros((2000, 20), dtype=bool)
    for index in range(len(chosen)):
        point = NoisyPoint(torch.zeros(1), 1.0, 7, index, Philox4x64())
        hits, misses = rule.due(point, hit_N), rule.due_misses(point, hit_N)
        assert len(hits) == len(misses) == 3
        assert hit_N[hits].all()
        assert not hit_N[misses].any()
        chosen[index, hits] = chosen[index, misses] = True
        assert (hits == point.audit_choice(np.flatnonzero(hit_N), 3)).all(), "the same hits as without misses' audit"
    share_N = chosen.mean(axis=0)
    assert np.abs(share_N - 0.3).max() < 5 * (0.3 * 0.7 / len(chosen)) ** 0.5
    together = (chosen[:, 0::2] & chosen[:, 1::2]).mean(axis=0)  # a hit and the miss after it
    assert np.abs(together - 0.09).max() < 5 * (0.09 * 0.91 / len(chosen)) ** 0.5


def test_a_miss_on_which_f_has_no_answer_is_not_found() -> None:
    point = NoisyPoint(torch.zeros(1), 1.0, 7, 0, Philox4x64())
    base = Answers(np.array([True, True, False, True]))
    base.classes_N[3] = -1
    audit = audit_misses(base, point, np.arange(4), 1)
    assert (audit.audited, audit.disagreed, audit.audited_misses, audit.found) == (0, 0, 4, 2)
    assert audit_misses(base, point, np.arange(0), 1).audited_misses == 0


@pytest.mark.parametrize("audit", [1, 3, 7, 11, 12, 13, 40])
def test_no_counts_pass_the_cap(audit: int) -> None:
    n, rule = 12, BothSides(audit, 0.35)
    highest = 0.0
    for hits in range(n + 1):
        audited, of_misses = rule.expected(hits, n - hits)
        for found in range(of_misses + 1):
            highest = max(highest, two_sided_p_lower(hits, n, audited, 0, 0.3, of_misses, found))
    cap = Plan.fixed(TWO_SIDED, 0.3, n, rule).p_cap
    assert cap == p_cap("two-sided", n, audit, 0.3)
    assert highest == pytest.approx(cap, rel=1e-9)
    assert highest <= cap * (1 + 1e-12)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.97])
def test_the_smallest_audit_and_n_are_enough_and_one_less_is_not(p: float) -> None:
    n = smallest_n(TWO_SIDED, 0.001, 400, p)
    audit = smallest_audit(TWO_SIDED, 10_000, 0.001, p)
    assert p_cap("two-sided", n, 400, 0.001) > p >= p_cap("two-sided", n - 1, 400, 0.001)
    assert p_cap("two-sided", 10_000, audit, 0.001) > p >= p_cap("two-sided", 10_000, audit - 1, 0.001)
    assert smallest_n(TWO_SIDED, 0.001, 400, 0.99) is None


def test_expected_counts_are_rounded_against_the_point() -> None:
    plan = Plan.fixed(TWO_SIDED, 0.001, 1000, BothSides(100, 0.15))
    seen = plan.expected(0.8, 0.011, missed=0.19)
    assert (seen.hits, seen.audited, seen.disagreed, seen.audited_misses, seen.found) == (800, 85, 1, 15, 2)
    with pytest.raises(ValueError, match="for misses"):
        plan.p_lower([type(seen)(1000, 990, 85, 1, 15, 2)])


def test_the_share_of_misses_is_a_setting_of_its_certificate_alone_and_in_its_fingerprint_alone() -> None:
    sampling = {"method": "srs", "solver": "naive"}
    asked = {"kind": "two-sided", "audit": 1000}
    assert smoothing_of(0.5, sampling, asked).plan.audit == BothSides(1000, 0.15)
    usual = smoothing_of(0.5, sampling, certificate_defaults(sampling, asked))
    assert usual.fingerprint()["certificate.miss_share"] == 0.15
    assert usual.plan.audit == BothSides(1000, 0.15)
    assert "K = 1,000, 15% of it of misses" in usual.describe()
    exact = smoothing_of(0.5, sampling, {"kind": "exact", "audit": 1000})
    assert not any("miss" in name for name in exact.fingerprint())
    assert exact.plan.audit == Fixed(1000)
    with pytest.raises(ValueError, match=r"certificate\.miss_share"):
        smoothing_of(0.5, sampling, {"kind": "exact", "miss_share": 0.15})
    with pytest.raises(ValueError, match=r"certificate\.miss_share.*found 1\.5"):
        smoothing_of(0.5, sampling, {"kind": "two-sided", "miss_share": 1.5})
    by_looks = {**sampling, "target_radii": (0.1,)}, {"kind": "two-sided", "audit": 0, "audit_share": 0.1}
    with pytest.raises(ValueError, match=r"miss_share is 0\.2: with target_radii each sample"):
        smoothing_of(0.5, by_looks[0], {**by_looks[1], "miss_share": 0.2})
    looks = smoothing_of(0.5, by_looks[0], certificate_defaults(*by_looks))
    assert looks.plan.audit == ShareOfAll(0.1)
    assert not any("miss" in name for name in looks.fingerprint())
    assert "audits of 10% of the samples" in looks.describe()


def test_a_row_says_what_the_audit_of_misses_found_and_its_bound_comes_out_of_it(model: MDEQ, digit) -> None:
    settings = {"sigma": 0.5, "index": 12, "seed": 3, "n0": 20, "n": 600, "chains": 20, "steps": 1, "alpha": 0.05}
    row = certify_point(model, digit, certificate="two-sided", audit=100, miss_share=0.4, **settings)
    hits = dict(zip(row.classes, row.counts, strict=True))[row.selected]
    assert (row.audited, row.audited_misses) == (60, 40)
    assert 0 < row.found < row.audited_misses, "chains of one step miss some of F's hits here"
    bound = two_sided_p_lower(hits, 600, row.audited, row.disagreed, 0.05, 40, row.found)
    assert row.p_lower == pytest.approx(bound, rel=1e-12)
    without = certify_point(model, digit, certificate="exact", audit=60, **settings)
    assert (without.audited_misses, without.found) == (None, None)
    assert (without.audited, without.disagreed) == (row.audited, row.disagreed), "hits' audits are not moved"
    assert row.reference_evaluations > without.reference_evaluations
    with pytest.raises(ValueError, match="miss_share"):
        certify_point(model, digit, certificate="exact", miss_share=0.4, **settings)
