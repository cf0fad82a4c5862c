"""`weighted`: its values against exact arithmetic, its coverage, what it gains, and variants that are found out."""

from __future__ import annotations

from decimal import Decimal, localcontext
from itertools import pairwise, product
from math import comb, exp, log

import numpy as np
import pytest
from hostile_samplers import worst_of_one_audit
from scipy.stats import norm
from test_certificates import (
    HAIR,
    SMALL_COUNTS,
    SMALL_N,
    binomial_at_least,
    binomial_at_least_decimal,
    feasible,
    hypergeometric_at_most,
)

from srs_ray.smoothing.bounds import exact_p_lower, weighted_bound, weighted_p_lower
from srs_ray.smoothing.bounds.exact import least_combined
from srs_ray.smoothing.bounds.tails import log_fisher_threshold
from srs_ray.smoothing.bounds.weighted import log_weighted_threshold
from srs_ray.smoothing.certificate import AuditedCertificate
from srs_ray.smoothing.smoothing import smoothing_of

WEIGHTS = (0.1, 0.5, 0.75, 0.999)


def decimal(number: float) -> Decimal:
    return Decimal(number)


def level_of(statistic: Decimal, weight: float) -> Decimal:
    """P(U1^weight U2 <= statistic) for independent uniform U1 and U2, to 40 digits."""
    if statistic == 0:
        return Decimal(0)
    share = Decimal(weight)
    return (statistic - share * (statistic.ln() / share).exp()) / (1 - share)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("alpha", [1e-9, 0.001, 0.1, 0.6])
def test_the_threshold_spends_alpha_and_not_more(alpha: float, weight: float) -> None:
    with localcontext(prec=40):
        t = Decimal(log_weighted_threshold(alpha, weight)).exp()
        assert level_of(t, weight) <= Decimal(alpha) * (1 + Decimal("1e-13"))
        assert level_of(t * (1 + Decimal("1e-12")), weight) > Decimal(alpha)


@pytest.mark.parametrize("weight", [0.2, 0.75])
def test_the_level_is_that_of_two_uniform_p_values(weight: float) -> None:
    """By a sum over a fine grid of the first, the second's probability being exact: midpoints, error below 1e-6."""
    t = exp(log_weighted_threshold(0.05, weight))
    first_N = (np.arange(2_000_000) + 0.5) / 2_000_000
    assert np.minimum(1.0, t / first_N**weight).mean() == pytest.approx(0.05, abs=1e-6)


def test_the_threshold_goes_over_into_fishers_at_the_weight_1() -> None:
    for alpha in (1e-300, 0.001, 0.3):
        assert log_weighted_threshold(alpha, 1.0) == log_fisher_threshold(alpha)
        assert log_weighted_threshold(alpha, 1.0 - 1e-13) == pytest.approx(log_fisher_threshold(alpha), rel=1e-11)


@pytest.mark.parametrize("alpha", [1e-9, 0.001, 0.05, 0.7])
def test_the_weight_1_is_exact_to_the_last_bit(alpha: float) -> None:
    for hits, n, audited, disagreed in [
        (10_000, 10_000, 400, 0),
        (7000, 10_000, 400, 2),
        (61, 99, 60, 3),
        (0, 9, 0, 0),
    ]:
        assert weighted_p_lower(hits, n, audited, disagreed, alpha, 1.0) == exact_p_lower(
            hits, n, audited, disagreed, alpha
        )


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("alpha", [0.001, 0.1, 0.6])
def test_it_is_the_supremum_of_the_rates_that_the_weighted_test_rejects(alpha: float, weight: float) -> None:
    for hits, audited, disagreed in SMALL_COUNTS:

        def level(p0: float, hits: int = hits, audited: int = audited, disagreed: int = disagreed) -> Decimal:
            with localcontext(prec=40):
                return max(
                    level_of(power(binomial_at_least(hits - d, SMALL_N, p0), weight) * ratio(tail), weight)
                    for d in feasible(hits, audited, disagreed)
                    for tail in [hypergeometric_at_most(disagreed, hits, d, audited)]
                )

        p = weighted_p_lower(hits, SMALL_N, audited, disagreed, alpha, weight)
        if disagreed == audited:
            assert p == 0.0
        else:
            assert level(p) <= Decimal(alpha)
            assert p * HAIR >= 1.0 or level(p * (HAIR if weight >= 0.5 else HAIR**5)) > Decimal(alpha)


def ratio(fraction: object) -> Decimal:
    return Decimal(fraction.numerator) / Decimal(fraction.denominator)


def power(fraction: object, weight: float) -> Decimal:
    return (ratio(fraction).ln() * Decimal(weight)).exp()


@pytest.mark.parametrize(
    ("hits", "audited", "disagreed"),
    [(10_000, 400, 0), (7000, 400, 2), (9000, 1000, 30), (6001, 60, 3), (9990, 5000, 40)],
)
def test_no_number_of_false_hits_breaks_it_in_a_full_size_run(hits: int, audited: int, disagreed: int) -> None:
    n, alpha, weight = 10_000, 0.001, 0.75

    def highest(p0: float) -> Decimal:
        """ln P2(d) + weight ln P1(d) at its largest, every d in turn, to 50 digits."""
        with localcontext(prec=50):
            rate, most = Decimal(p0), hits - disagreed
            mass_1 = comb(n, most) * rate**most * (1 - rate) ** (n - most)
            tail_1 = binomial_at_least_decimal(most, n, p0)
            mass_2 = Decimal(comb(hits - disagreed - 1, audited - disagreed - 1)) / comb(hits, audited)
            tail_2, found = Decimal(1), Decimal("-Infinity")
            for d in feasible(hits, audited, disagreed):
                if tail_2 < Decimal("1e-9"):
                    break  # below t whatever P1 is
                found = max(found, tail_2.ln() + Decimal(weight) * tail_1.ln())
                mass_1 *= Decimal(hits - d) / (n - hits + d + 1) * (1 - rate) / rate
                tail_1 += mass_1
                tail_2 -= mass_2
                mass_2 *= Decimal(d + 1) / (d + 1 - disagreed)
                mass_2 *= Decimal(hits - d - 1 - (audited - disagreed - 1)) / max(1, hits - d - 1)
            return found

    p = weighted_p_lower(hits, n, audited, disagreed, alpha, weight)
    with localcontext(prec=50):
        assert level_of(highest(p).exp(), weight) <= Decimal(alpha) < level_of(highest(p * HAIR).exp(), weight)


@pytest.mark.parametrize("weight", [0.05, 0.3, 0.75])
def test_hits_agreement_and_alpha_lift_it_and_never_lower_it(weight: float) -> None:
    by_hits = [weighted_p_lower(hits, 1000, 100, 2, 0.001, weight) for hits in range(100, 1001, 9)]
    by_disagreement = [weighted_p_lower(950, 1000, 300, k, 0.001, weight) for k in range(301)]
    by_audits = [weighted_p_lower(950, 1000, audited, 3, 0.001, weight) for audited in range(3, 951, 7)]
    by_alpha = [weighted_p_lower(950, 1000, 300, 3, alpha, weight) for alpha in (1e-300, 1e-9, 0.001, 0.1, 0.9)]
    assert by_hits == sorted(by_hits)
    assert by_disagreement == sorted(by_disagreement, reverse=True)
    assert all(fewer <= more * (1 + 1e-9) for fewer, more in pairwise(by_audits))
    assert by_alpha == sorted(by_alpha)


# Of algorithm 5a: at n = 10,000, alpha = .001 and 400 audits without disagreement, in sigma.
@pytest.mark.parametrize(("p", "gain"), [(0.95, 0.01), (0.99, 0.03), (0.999, 0.04)])
def test_the_published_gains_over_exact(p: float, gain: float) -> None:
    assert gained(p, 400) == pytest.approx(gain, abs=0.005)


@pytest.mark.parametrize(("p", "audited"), list(product([0.55, 0.6, 0.7, 0.8], [400, 1000, 4000])))
def test_the_published_loss_is_the_most(p: float, audited: int) -> None:
    assert gained(p, audited) >= -0.007


def gained(p: float, audited: int) -> float:
    weighted, exact = (weighted_p_lower(int(p * 10_000), 10_000, audited, 0, 0.001, weight) for weight in (0.75, 1.0))
    return float(norm.ppf(weighted) - norm.ppf(exact))


@pytest.mark.parametrize("weight", [0.2, 0.5])
@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.4])
@pytest.mark.parametrize(("n", "audit"), [(6, 3), (24, 8), (30, 2)])
def test_no_sampler_lifts_other_weights_above_p_a_more_often_than_alpha(
    n: int, audit: int, alpha: float, weight: float
) -> None:
    assert 0.0 < worst_of_one_audit(weighted_bound(weight).function, n, audit, alpha) <= alpha


def test_the_best_of_several_weights_once_the_counts_are_known_is_found_out() -> None:
    def best(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
        weights = (0.01, 0.03, 0.1, 0.3, 0.5, 0.75, 1.0)
        return max(weighted_p_lower(hits, n, audited, disagreed, alpha, weight) for weight in weights)

    assert worst_of_one_audit(best, 60, 3, 0.7) > 0.71
    assert worst_of_one_audit("weighted", 60, 3, 0.7) <= 0.7


@pytest.mark.parametrize("log_t", [log(0.1), log_weighted_threshold(0.1, 0.1)])
def test_a_threshold_of_no_weight_or_of_another_one_is_found_out(log_t: float) -> None:
    def uncorrected(hits: int, n: int, audited: int, disagreed: int, alpha: float) -> float:
        return least_combined(hits, n, audited, disagreed, log_t, 0.75)

    assert worst_of_one_audit(uncorrected, 24, 8, 0.1) > 0.1


@pytest.mark.parametrize("weight", [0.0, -0.5, 1.01, float("nan")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        weighted_p_lower(9, 10, 5, 0, 0.1, weight)
    with pytest.raises(ValueError, match="weight"):
        weighted_bound(weight)


def test_the_weight_is_a_setting_of_its_certificate_alone_and_in_its_fingerprint_alone() -> None:
    sampling = {"method": "srs", "solver": "naive"}
    usual, light = (smoothing_of(0.5, sampling, {"kind": "weighted", **more}) for more in ({}, {"weight": 0.25}))
    assert usual.fingerprint()["certificate.weight"] == 0.75
    assert light.fingerprint()["certificate.weight"] == 0.25
    assert light.plan.bound == weighted_bound(0.25) != usual.plan.bound
    assert "weighted (lambda = 0.25)" in light.describe()
    exact = smoothing_of(0.5, sampling, {"kind": "exact"})
    assert not any("weight" in name for name in exact.fingerprint())
    assert type(exact.certificate) is AuditedCertificate
    with pytest.raises(ValueError, match=r"certificate\.weight"):
        smoothing_of(0.5, sampling, {"kind": "exact", "weight": 0.5})
    with pytest.raises(ValueError, match=r"certificate\.weight.*found 1\.5"):
        smoothing_of(0.5, sampling, {"kind": "weighted", "weight": 1.5})
    assert light.radius_cap > usual.radius_cap > exact.radius_cap


def test_auto_chooses_among_chains_with_the_weight_of_its_certificate() -> None:
    sampling = {"method": "auto", "solver": "naive", "target_radii": (0.1,)}
    auto = smoothing_of(0.5, sampling, {"kind": "weighted", "weight": 0.5, "audit": 0})
    standard, *chains = auto.sampling.ways(auto.certificate, 18.0)
    assert standard.plan.bound.name == "mixture"
    assert {way.plan.bound for way in chains} == {weighted_bound(0.5)}
    assert "certificate.audit_share" not in auto.fingerprint()
    usual = smoothing_of(0.5, sampling, {"kind": "exact", "audit": 0})
    wider, narrower = (kind.sampling.ways(kind.certificate, 18.0)[1].plan.p_cap for kind in (auto, usual))
    assert wider > narrower
