"""The mixture sequence: its value against integrals, its promise over all sample sizes at once by enumeration."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from srs_ray.smoothing.bounds import clopper_pearson_lower
from srs_ray.smoothing.bounds.mixture import mixture_p_lower

HAIR = 1e-7


@pytest.mark.parametrize(("hits", "n"), [(1, 1), (3, 10), (40, 60), (59, 60), (60, 60)])
@pytest.mark.parametrize("prior", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.001, 0.1])
def test_the_bound_is_where_the_mean_capital_of_the_bets_is_one_over_alpha(
    hits: int, n: int, prior: float, alpha: float
) -> None:
    def capital(p0: float) -> float:  # with v = w^(1 / prior), which has Beta(prior, 1) where w is uniform
        stakes = lambda w: (w ** (1 / prior) + (1 - w ** (1 / prior)) / p0) ** hits * w ** ((n - hits) / prior)  # noqa: E731
        return quad(stakes, 0.0, 1.0, epsabs=0.0, epsrel=1e-10, limit=500)[0]

    p = mixture_p_lower(hits, n, alpha, prior)
    assert capital(p) >= (1 - 1e-8) / alpha
    assert capital(p * (1 + HAIR)) < 1 / alpha


def crossing_probability(p_a: float, bounds: list[np.ndarray]) -> float:
    """P(bound > p_A at any n), bounds[n][hits]: all paths, summed."""
    sound = np.ones(1)
    for n in range(1, len(bounds)):
        sound = np.convolve(sound, [1 - p_a, p_a]) * (bounds[n] <= p_a)
    return 1.0 - float(sound.sum())


def worst_crossing(bounds: list[np.ndarray]) -> float:
    """Over p_A just below each bound that full hits give, where the first chance is, and a grid between."""
    full = np.array([bound[-1] for bound in bounds[1:]])
    return max(
        crossing_probability(p_a, bounds) for p_a in (*(full[full > 0] * (1 - 1e-9)), *np.linspace(0.05, 0.95, 31))
    )


def mixture_bounds(most: int, alpha: float, prior: float) -> list[np.ndarray]:
    return [
        np.array([mixture_p_lower(k, n, alpha, prior) if n else 0.0 for k in range(n + 1)]) for n in range(most + 1)
    ]


@pytest.mark.parametrize("prior", [0.25, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.3])
def test_the_sequence_is_ever_above_p_a_with_probability_at_most_alpha(alpha: float, prior: float) -> None:
    assert 0.3 * alpha < worst_crossing(mixture_bounds(60, alpha, prior)) <= alpha


def test_clopper_pearson_read_at_every_size_is_found_out() -> None:
    bounds = [np.array([clopper_pearson_lower(k, max(n, 1), 0.1) for k in range(n + 1)]) for n in range(61)]
    assert worst_crossing(bounds) > 0.2


def test_the_bound_rises_with_hits_and_stays_below_their_share() -> None:
    bounds = [mixture_p_lower(hits, 200, 0.001) for hits in range(201)]
    assert bounds[0] == 0.0
    assert all(before < after for before, after in pairwise(bounds))
    assert all(bound < hits / 200 for hits, bound in enumerate(bounds) if hits)


def test_to_read_it_at_any_time_costs_no_more_than_two_thirds_of_the_interval_at_ten_thousand_samples() -> None:
    for hits in (6_000, 9_000, 9_900):
        slack = hits / 10_000 - clopper_pearson_lower(hits, 10_000, 0.001)
        assert slack < hits / 10_000 - mixture_p_lower(hits, 10_000, 0.001) < 1.7 * slack


def test_a_hundred_million_samples_are_within_its_reach() -> None:
    n, hits = 10**8, 99 * 10**6
    assert 0.9899 < mixture_p_lower(hits, n, 0.001) < clopper_pearson_lower(hits, n, 0.001) < 0.99


@pytest.mark.parametrize(
    ("hits", "n", "alpha", "prior"),
    [(-1, 5, 0.1, 1.0), (6, 5, 0.1, 1.0), (2.5, 5, 0.1, 1.0), (2, 5, 0.0, 1.0), (2, 5, 1.0, 1.0), (2, 5, 0.1, 0.0)],
)
def test_impossible_arguments_are_refused(hits: float, n: int, alpha: float, prior: float) -> None:
    with pytest.raises(ValueError):
        mixture_p_lower(hits, n, alpha, prior)
