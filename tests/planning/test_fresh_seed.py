"""Settings chosen by results need noise of their own: on the noise that chose them alpha is exceeded."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from srs_ray.planning.fresh_seed import fresh_seed
from srs_ray.smoothing.bounds import p_lower

ALPHA = 0.01
SIZES = [100 * 2**look for look in range(8)]


@lru_cache
def least_hits(p: float) -> list[int]:
    """Of each size, the fewest hits whose bound is above p."""
    found = []
    for n in SIZES:
        hits = int(binom.isf(ALPHA, n, p))
        while p_lower("cohen", hits, n, 0, 0, ALPHA) <= p:
            hits += 1
        found.append(hits)
    return found


def test_a_larger_n_until_the_point_certifies_is_wrong_more_often_than_alpha_and_on_fresh_noise_it_is_not():
    """Exactly, over all paths of hits of a point whose p_A the bound must not exceed."""
    p, wrong, fresh = 0.9, 0.0, 0.0
    going = np.ones(1)  # the probability of each number of hits, of the points that are still to certify
    for drawn, n, least in zip([0, *SIZES], SIZES, least_hits(p), strict=False):
        going = np.convolve(going, binom.pmf(np.arange(n - drawn + 1), n - drawn, p))
        certified = going[least:].sum()
        chosen = certified if n < SIZES[-1] else going.sum()  # the last size is taken whatever it shows
        wrong += certified
        fresh += chosen * binom.sf(least - 1, n, p)
        going = going[:least]
    assert wrong == pytest.approx(0.052, abs=0.001)
    assert fresh <= ALPHA


@lru_cache(None)
def exact_bound(hits: int, n: int, audited: int, disagreed: int) -> float:
    return p_lower("exact", hits, n, audited, disagreed, ALPHA)


def test_more_samples_and_audits_until_the_point_certifies_are_wrong_more_often_than_alpha():
    """Simulated, for a point that chains flatter in one of twenty samples, half of the hits audited."""
    random = np.random.default_rng(0)
    p, flattered, points, sizes = 0.9, 0.05, 800, [200 * 2**look for look in range(8)]

    def is_wrong(n: int, hits: int, false_hits: int) -> bool:
        false_hits = min(false_hits, n - hits)
        disagreed = int(random.hypergeometric(false_hits, hits, min(n // 2, hits + false_hits)))
        return exact_bound(hits + false_hits, n, min(n // 2, hits + false_hits), disagreed) > p

    reused = fresh = 0
    for _ in range(points):
        parts = np.diff([0, *sizes])
        hits, false_hits = np.cumsum(random.binomial(parts, p)), np.cumsum(random.binomial(parts, flattered))
        counts = zip(sizes, hits.tolist(), false_hits.tolist(), strict=True)
        chosen = next((n for n, *found in counts if is_wrong(n, *found)), None)
        reused += chosen is not None
        n = chosen or sizes[-1]
        fresh += is_wrong(n, int(random.binomial(n, p)), int(random.binomial(n, flattered)))
    assert binomtest(reused, points, ALPHA, "greater").pvalue < 0.01
    assert binomtest(fresh, points, ALPHA, "greater").pvalue > 0.01


def test_each_choice_of_settings_has_a_seed_of_its_own(digits_job):
    job = digits_job()
    seeds = [
        fresh_seed(job, {"sampling.n": 300}),
        fresh_seed(job, {"sampling.n": 400}),
        fresh_seed(job, {"sampling.n": 300, "certificate.audit": 50}),
        fresh_seed(digits_job(sampling={"steps": 2}), {"sampling.n": 300}),
        fresh_seed(digits_job(execution={"seed": 7}), {"sampling.n": 300}),
    ]
    assert len({*seeds, 0, 7}) == len(seeds) + 2
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seeds[0] == fresh_seed(digits_job(), {"sampling.n": 300})
