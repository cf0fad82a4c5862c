"""Certificates as formulas: their values against exact arithmetic, their published anchors, their edges."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from math import comb, inf, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srs_ray.smoothing.bounds import (
    BOUNDS,
    clopper_pearson_lower,
    cohen_p_lower,
    exact_p_lower,
    p_lower,
    paper_p_lower,
    released_p_lower,
    union_p_lower,
)
from srs_ray.smoothing.bounds.tails import log_hypergeometric
from srs_ray.smoothing.limits import p_cap, smallest_audit, smallest_n
from srs_ray.smoothing.radius import certified_radius

SMALL_N = 9
SMALL_COUNTS = [(h, a, k) for h in range(SMALL_N + 1) for a in range(h + 1) for k in range(a + 1)]
CERTIFICATES = tuple(bound.name for bound in BOUNDS.values() if not bound.anytime)
AUDITED = ("exact", "weighted", "two-sided", "union", "paper", "released")
SOUND_AUDITED = AUDITED[:-1]
HAIR = 1.0 + 1e-8  # a bound times this must break its promise, or rounding down took too much


def binomial_at_least(m: int, n: int, p: float) -> Fraction:
    rate = Fraction(p)
    return sum((comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(m, n + 1)), Fraction(0))


def hypergeometric_at_most(k: int, size: int, marked: int, draws: int) -> Fraction:
    return Fraction(sum(comb(marked, i) * comb(size - marked, draws - i) for i in range(k + 1)), comb(size, draws))


def feasible(hits: int, audited: int, disagreed: int) -> range:
    return range(disagreed, hits - (audited - disagreed) + 1)


def fisher_level(product: Fraction | Decimal) -> float:
    return float(product) * (1.0 - log(product)) if product > 0 else 0.0


@pytest.mark.parametrize("alpha", [1e-9, 0.001, 0.05, 0.7])
@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_clopper_pearson_is_the_largest_rate_rejected_in_exact_arithmetic(n: int, alpha: float) -> None:
    assert clopper_pearson_lower(0, n, alpha) == 0.0
    for k in range(1, n + 1):
        p = clopper_pearson_lower(k, n, alpha)
        assert binomial_at_least(k, n, p) <= alpha
        assert p * HAIR >= 1.0 or binomial_at_least(k, n, p * HAIR) > alpha


def binomial_at_least_decimal(m: int, n: int, p: float) -> Decimal:
    """P(Binomial(n, p) >= m) to 40 digits, m above the mean."""
    with localcontext(prec=50):
        rate = Decimal(p)
        odds = rate / (1 - rate)
        term = comb(n, m) * rate**m * (1 - rate) ** (n - m)
        total = Decimal(0)
        for i in range(m, n + 1):
            total += term
            term *= Decimal(n - i) / (i + 1) * odds
        return total


@pytest.mark.parametrize(
    ("k", "n", "alpha"),
    [
        (8800, 9799, 1.1393581795716326e-11),  # b = 1000: SciPy 1.17's betaincinv answers 0.977
        (18113, 19112, 2.2993095601521738e-08),  # and 0.988 for 0.938
        (9001, 10_000, 0.001),
        (99_000, 100_000, 1e-30),
        (4, 6, 5.719275877751928e-137),  # betaincinv answers nan
    ],
)
def test_clopper_pearson_is_right_where_the_library_is_not(k: int, n: int, alpha: float) -> None:
    p = clopper_pearson_lower(k, n, alpha)
    assert binomial_at_least_decimal(k, n, p) <= alpha < binomial_at_least_decimal(k, n, p * HAIR)


@pytest.mark.parametrize("alpha", [0.001, 0.1, 0.6])
def test_exact_is_the_supremum_of_the_rates_that_fishers_test_rejects(alpha: float) -> None:
    for hits, audited, disagreed in SMALL_COUNTS:

        def level(p0: float, hits: int = hits, audited: int = audited, disagreed: int = disagreed) -> float:
            return max(
                fisher_level(
                    binomial_at_least(hits - d, SMALL_N, p0) * hypergeometric_at_most(disagreed, hits, d, audited)
                )
                for d in feasible(hits, audited, disagreed)
            )

        p = exact_p_lower(hits, SMALL_N, audited, disagreed, alpha)
        if disagreed == audited:
            assert p == 0.0
            assert level(1e-12) > alpha
        else:
            assert level(p) <= alpha < level(p * HAIR)


@pytest.mark.parametrize("alpha", [0.001, 0.11, 0.6])  # no hypergeometric tail here is alpha / 2 itself
def test_union_is_clopper_pearson_on_the_hits_less_the_most_false_ones_that_the_audit_allows(alpha: float) -> None:
    for hits, audited, disagreed in SMALL_COUNTS:
        false_hits = max(
            d
            for d in feasible(hits, audited, disagreed)
            if hypergeometric_at_most(disagreed, hits, d, audited) > Fraction(alpha) / 2
        )
        p = union_p_lower(hits, SMALL_N, audited, disagreed, alpha)
        assert p == pytest.approx(clopper_pearson_lower(hits - false_hits, SMALL_N, alpha / 2), rel=1e-10)


@pytest.mark.parametrize(
    ("hits", "audited", "disagreed"),
    [(10_000, 400, 0), (7000, 400, 2), (9000, 1000, 30), (6001, 60, 3), (9990, 5000, 40), (9500, 9490, 7)],
)
def test_no_number_of_false_hits_breaks_exact_in_a_full_size_run(hits: int, audited: int, disagreed: int) -> None:
    n, alpha = 10_000, 0.001

    def level(p0: float) -> float:
        """The definition's, every d in turn, to 50 digits: both tails gain or lose one term from d to d + 1."""
        with localcontext(prec=50):
            rate, most = Decimal(p0), hits - disagreed
            mass_1 = comb(n, most) * rate**most * (1 - rate) ** (n - most)
            tail_1 = binomial_at_least_decimal(most, n, p0)
            mass_2 = Decimal(comb(hits - disagreed - 1, audited - disagreed - 1)) / comb(hits, audited)
            tail_2, highest = Decimal(1), Decimal(0)
            for d in feasible(hits, audited, disagreed):
                highest = max(highest, tail_1 * tail_2)
                mass_1 *= Decimal(hits - d) / (n - hits + d + 1) * (1 - rate) / rate
                tail_1 += mass_1
                tail_2 -= mass_2  # P(the (disagreed + 1)-th audited one among the false hits is the (d + 1)-th of them)
                mass_2 *= Decimal(d + 1) / (d + 1 - disagreed)
                mass_2 *= Decimal(hits - d - 1 - (audited - disagreed - 1)) / max(1, hits - d - 1)
            return fisher_level(highest)

    p = exact_p_lower(hits, n, audited, disagreed, alpha)
    assert level(p) <= alpha < level(p * HAIR)


@pytest.mark.parametrize(
    ("size", "marked", "draws", "k"),
    [
        (10_000, 230, 400, 0),
        (10_000, 9000, 400, 3),  # 1e-390, beyond a double
        (7000, 5000, 400, 100),
        (100_000, 900, 4000, 30),
        (100_000, 500, 4000, 300),  # near 1
        (100_000, 300, 99_990, 290),
        (50, 50, 20, 20),
        (50, 3, 20, 3),
    ],
)
def test_the_audits_tail_keeps_its_digits_however_deep(size: int, marked: int, draws: int, k: int) -> None:
    ways = [comb(marked, i) * comb(size - marked, draws - i) for i in range(k + 1)]
    with localcontext(prec=50):
        tail, mass = ((Decimal(x) / comb(size, draws)).ln() for x in (sum(ways), ways[-1]))
        found_tail, found_mass = log_hypergeometric(size, marked, draws, k)
        assert abs(Decimal(found_tail) - tail) <= Decimal(1e-13 * size)
        assert abs(Decimal(found_mass) - mass) <= Decimal(1e-13 * size)


PUBLISHED_CAPS = [("exact", 400, 2.04), ("exact", 1000, 2.40), ("exact", 4000, 2.88), ("exact", 10_000, 3.11)]


@pytest.mark.parametrize(("kind", "audit", "sigmas"), [*PUBLISHED_CAPS, ("union", 400, 1.99), ("cohen", 0, 3.20)])
def test_published_caps(kind: str, audit: int, sigmas: float) -> None:
    assert certified_radius(p_cap(kind, 10_000, audit, 0.001), 1.0) == pytest.approx(sigmas, abs=0.005)


@pytest.mark.parametrize(("kind", "sigmas"), [("exact", 0.453), ("union", 0.424)])
def test_published_radius_of_seven_thousand_hits_and_two_disagreements(kind: str, sigmas: float) -> None:
    assert certified_radius(p_lower(kind, 7000, 10_000, 400, 2, 0.001), 1.0) == pytest.approx(sigmas, abs=0.0005)


def test_paper_caps_the_radius_of_sigma_one_half_below_one() -> None:
    assert certified_radius(p_cap("paper", 10_000, 400, 0.001), 0.5) == pytest.approx(0.99, abs=0.005)


def test_paper_scales_the_hits_alone_and_rounds_them_down() -> None:
    agreement = clopper_pearson_lower(395, 400, 0.0005)
    scaled = int(9000 * agreement)
    assert scaled < 9000 * agreement < scaled + 1
    assert paper_p_lower(9000, 10_000, 400, 5, 0.001) == clopper_pearson_lower(scaled, 10_000, 0.0005)


def test_released_scales_hits_and_total_alike() -> None:
    agreement = clopper_pearson_lower(395, 400, 0.0005)
    expected = clopper_pearson_lower(9000 * agreement, 10_000 * agreement, 0.0005)
    assert released_p_lower(9000, 10_000, 400, 5, 0.001) == expected
    # All hits: Beta(n r, 1) has the quantile alpha'^(1 / (n r)), r = alpha'^(1 / K).
    all_hits = 0.0005 ** (1 / (10_000 * 0.0005 ** (1 / 400)))
    assert released_p_lower(10_000, 10_000, 400, 0, 0.001) == pytest.approx(all_hits, rel=1e-9)


def test_only_released_is_unsound() -> None:
    assert CERTIFICATES == ("cohen", "exact", "weighted", "two-sided", "union", "paper", "released")
    assert {bound.name for bound in BOUNDS.values() if not bound.sound} == {"released"}


@st.composite
def possible_counts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    n = draw(st.integers(0, 3000))
    hits = draw(st.integers(0, n))
    audited = draw(st.integers(0, hits))
    return hits, n, audited, draw(st.integers(0, audited) | st.integers(0, min(audited, 5)))


ALPHAS = st.sampled_from([1e-300, 1e-9, 0.001, 0.05]) | st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)


@given(counts=possible_counts(), alpha=ALPHAS)
def test_every_bound_is_a_probability_below_one(counts: tuple[int, int, int, int], alpha: float) -> None:
    for kind in AUDITED:
        assert 0.0 <= p_lower(kind, *counts, alpha) < 1.0


@given(counts=possible_counts(), alpha=ALPHAS)
def test_an_audit_never_certifies_more_than_its_own_findings_allow(
    counts: tuple[int, int, int, int], alpha: float
) -> None:
    hits, n, _, disagreed = counts
    ceiling = clopper_pearson_lower(hits - disagreed, n, alpha) if n else 0.0
    for kind in SOUND_AUDITED:
        assert p_lower(kind, *counts, alpha) <= ceiling


@given(counts=possible_counts(), alpha=st.floats(1e-12, 0.5))
def test_a_smaller_alpha_never_certifies_more(counts: tuple[int, int, int, int], alpha: float) -> None:
    for kind in AUDITED:
        assert p_lower(kind, *counts, alpha / 2) <= p_lower(kind, *counts, alpha)


@pytest.mark.parametrize("kind", SOUND_AUDITED)
def test_more_hits_never_certify_less(kind: str) -> None:
    bounds = [p_lower(kind, hits, 2000, 100, 2, 0.001) for hits in range(100, 2001)]
    assert all(fewer <= more for fewer, more in pairwise(bounds))
    assert bounds[0] < bounds[-1]


@pytest.mark.parametrize("kind", AUDITED)
def test_more_disagreement_never_certifies_more(kind: str) -> None:
    bounds = [p_lower(kind, 1900, 2000, 300, disagreed, 0.001) for disagreed in range(301)]
    assert all(fewer >= more for fewer, more in pairwise(bounds))
    assert bounds[0] > bounds[-1] == 0.0


@pytest.mark.parametrize("kind", SOUND_AUDITED)
def test_a_larger_audit_with_the_same_disagreement_never_certifies_less(kind: str) -> None:
    bounds = [p_lower(kind, 1900, 2000, audited, 3, 0.001) for audited in range(3, 1901)]
    assert all(fewer <= more * (1 + 1e-9) for fewer, more in pairwise(bounds))
    assert bounds[0] == 0.0 < bounds[-1]


def test_auditing_every_hit_leaves_one_possible_number_of_false_ones() -> None:
    # With d known, exact is Clopper-Pearson at t, t (1 - ln t) = alpha, and union at alpha / 2.
    p = exact_p_lower(900, 1000, 900, 50, 0.001)
    t = float(binomial_at_least(850, 1000, p))
    assert t * (1 - log(t)) == pytest.approx(0.001, rel=1e-6)
    assert union_p_lower(900, 1000, 900, 50, 0.001) == pytest.approx(clopper_pearson_lower(850, 1000, 0.0005))


@pytest.mark.parametrize("kind", AUDITED)
@pytest.mark.parametrize(
    ("hits", "n", "audited", "disagreed"), [(0, 0, 0, 0), (0, 100, 0, 0), (100, 100, 0, 0), (100, 100, 40, 40)]
)
def test_nothing_is_certified_where_no_audited_sample_agreed(
    kind: str, hits: int, n: int, audited: int, disagreed: int
) -> None:
    assert p_lower(kind, hits, n, audited, disagreed, 0.001) == 0.0


@pytest.mark.parametrize("kind", AUDITED)
def test_extreme_alphas_stay_in_order(kind: str) -> None:
    bounds = [p_lower(kind, 190, 200, 60, 1, alpha) for alpha in (5e-324, 1e-300, 1e-30, 0.001, 0.5, 1 - 2**-53)]
    assert bounds == sorted(bounds)
    assert 0.0 <= bounds[0] < 0.05
    assert bounds[-1] < 1.0


@pytest.mark.parametrize("kind", AUDITED)
def test_whole_numbers_count_whatever_their_type(kind: str) -> None:
    assert p_lower(kind, 9000.0, 10_000.0, 400.0, 2.0, 0.001) == p_lower(kind, 9000, 10_000, 400, 2, 0.001)


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize(
    ("hits", "n", "audited", "disagreed", "alpha"),
    [
        (11, 10, 5, 0, 0.1),
        (5, 10, 6, 0, 0.1),
        (5, 10, 3, 4, 0.1),
        (5, 10, 3, -1, 0.1),
        (-1, 10, 0, 0, 0.1),
        (5.5, 10, 0, 0, 0.1),
        (nan, 10, 0, 0, 0.1),
        (5, 10, 0, 0, 0.0),
        (5, 10, 0, 0, 1.0),
        (5, 10, 0, 0, nan),
    ],
)
def test_impossible_counts_and_levels_are_refused(
    kind: str, hits: float, n: int, audited: int, disagreed: int, alpha: float
) -> None:
    with pytest.raises(ValueError):
        p_lower(kind, hits, n, audited, disagreed, alpha)


@pytest.mark.parametrize(("k", "n", "alpha"), [(-1, 10, 0.1), (11, 10, 0.1), (nan, 10, 0.1), (5, 10, 1.0)])
def test_clopper_pearson_refuses_impossible_arguments(k: float, n: float, alpha: float) -> None:
    with pytest.raises(ValueError):
        clopper_pearson_lower(k, n, alpha)


def test_cohen_refuses_counts_that_were_audited() -> None:
    with pytest.raises(ValueError, match="audited = 400"):
        cohen_p_lower(9000, 10_000, 400, 0, 0.001)


@pytest.mark.parametrize("kind", ["cohen", "mixture"])
def test_counts_that_were_audited_are_refused_by_the_name_of_the_bound(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"'{kind}'.*audited = 400"):
        p_lower(kind, 9000, 10_000, 400, 0, 0.001)


def test_an_unknown_certificate_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(
        ValueError, match=r"'exakt'.*cohen, mixture, exact, weighted, two-sided, union, paper, released"
    ):
        p_lower("exakt", 9, 10, 5, 0, 0.1)


def test_the_radius_is_zero_up_to_one_half_and_sigma_times_the_normal_quantile_above() -> None:
    assert [certified_radius(p, 0.5) for p in (0.0, 0.3, 0.5)] == [0.0, 0.0, 0.0]
    assert certified_radius(0.5 + 1e-9, 0.5) > 0.0
    assert certified_radius(0.9, 0.25) == pytest.approx(0.25 * 1.2815515655446004, rel=1e-12)


@pytest.mark.parametrize(("p", "sigma"), [(1.0, 0.5), (-0.1, 0.5), (nan, 0.5), (0.9, 0.0), (0.9, inf), (0.9, nan)])
def test_the_radius_refuses_what_is_no_bound_or_no_noise(p: float, sigma: float) -> None:
    with pytest.raises(ValueError):
        certified_radius(p, sigma)


@pytest.mark.parametrize("kind", CERTIFICATES)
@pytest.mark.parametrize("audit", [1, 7, 40, 1000])
def test_no_counts_pass_the_cap(kind: str, audit: int) -> None:
    n, alpha = 40, 0.1
    highest = max(
        p_lower(kind, hits, n, audited, disagreed, alpha)
        for hits in range(n + 1)
        for audited in [0 if kind == "cohen" else min(audit, hits)]
        for disagreed in range(audited + 1)
    )
    assert p_cap(kind, n, audit, alpha) == highest > 0.0


@pytest.mark.parametrize("kind", CERTIFICATES)
@pytest.mark.parametrize("p", [0.0, 0.5, 0.9, 0.95, 0.96, 0.99])
def test_the_smallest_audit_is_the_least_that_lifts_the_cap_above_p(kind: str, p: float) -> None:
    enough = [audit for audit in range(201) if p_cap(kind, 200, audit, 0.001) > p]
    assert smallest_audit(kind, 200, 0.001, p) == (enough[0] if enough else None)


@pytest.mark.parametrize("kind", ["cohen", "exact", "weighted", "union"])
@pytest.mark.parametrize("p", [0.0, 0.5, 0.8, 0.845])
def test_the_smallest_n_is_the_least_that_lifts_the_cap_above_p(kind: str, p: float) -> None:
    assert smallest_n(kind, 0.001, 50, p) == next(n for n in range(1, 10_000) if p_cap(kind, n, 50, 0.001) > p)


@pytest.mark.parametrize("kind", [kind for kind in CERTIFICATES if kind != "two-sided"])  # whose cap is 0.978
@pytest.mark.parametrize("p", [0.5, 0.97, 0.98, 0.9804])
def test_the_smallest_n_suffices_and_one_less_does_not(kind: str, p: float) -> None:
    n = smallest_n(kind, 0.001, 400, p)
    assert n is not None
    assert p_cap(kind, n, 400, 0.001) > p >= p_cap(kind, n - 1, 400, 0.001)


def test_no_n_is_enough_where_the_audit_is_too_small() -> None:
    for kind in SOUND_AUDITED:
        assert smallest_n(kind, 0.001, 400, 0.999) is None
        assert smallest_n(kind, 0.001, 0, 0.1) is None


def test_no_audit_is_enough_where_n_is_too_small() -> None:
    for kind in CERTIFICATES:
        assert smallest_audit(kind, 100, 0.001, 0.99) is None
        assert smallest_audit(kind, 100, 0.001, 1.0) is None


@pytest.mark.parametrize("p", [-0.1, 1.1, nan])
def test_what_would_be_enough_for_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError):
        smallest_audit("exact", 100, 0.001, p)
    with pytest.raises(ValueError):
        smallest_n("exact", 0.001, 100, p)
