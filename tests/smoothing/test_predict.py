"""PREDICT: the most likely class or an abstention, wrong no more often than alpha, and the same each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from math import comb

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest

import srs_ray
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier
from srs_ray.smoothing.noise import Domain, GridNoise, NoisyPoint
from srs_ray.smoothing.predict import Prediction, predict_point, prediction_of
from srs_ray.solvers.iteration import SolverSetting

FALSE_ALARM = 1e-6  # a rule that keeps its promise fails a simulated test with no more than this probability
Rule = Callable[[Sequence[int], float], int]


def of_counts(counts: Sequence[int], alpha: float) -> Prediction:
    """So many predictions of class 0, 1, ..."""
    return prediction_of(np.repeat(np.arange(len(counts)), counts), alpha)


def said(counts: Sequence[int], alpha: float) -> int:
    return of_counts(counts, alpha).predicted


def one_sided(counts: Sequence[int], alpha: float) -> int:
    """As if the leading class had been named beforehand."""
    order = np.argsort(-np.array(counts), kind="stable")
    first, second = int(counts[order[0]]), int(counts[order[1]])
    pvalue = binomtest(first, first + second, 0.5, alternative="greater").pvalue
    return int(order[0]) if pvalue <= alpha else NO_CLASS


def most_frequent(counts: Sequence[int], alpha: float) -> int:
    """Without any test."""
    return int(np.argmax(counts))


def shares(rule: Rule, p: float, n: int, alpha: float) -> tuple[float, float]:
    """P(it says 0) and P(it says 1), where class 0 has the probability p and class 1 the rest; exact."""
    found = np.array([rule((k, n - k), alpha) for k in range(n + 1)])
    mass = binom.pmf(np.arange(n + 1), n, p)
    return float(mass @ (found == 0)), float(mass @ (found == 1))


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("n", [1, 10, 100, 500])
@pytest.mark.parametrize("p", [0.5 + 1e-9, 0.52, 0.6, 0.9])
def test_of_two_classes_the_less_likely_one_is_said_no_more_often_than_alpha(p: float, n: int, alpha: float) -> None:
    right, wrong = shares(said, p, n, alpha)
    assert wrong <= alpha
    assert n == 1 or right >= wrong


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_of_classes_that_are_equally_likely_any_is_said_no_more_often_than_alpha_and_nearly_so(alpha: float) -> None:
    assert 0.5 * alpha < sum(shares(said, 0.5, 500, alpha)) <= alpha


def test_a_test_as_if_the_leading_class_had_been_named_beforehand_is_found_out() -> None:
    assert sum(shares(one_sided, 0.5, 500, 0.05)) > 1.6 * 0.05


def simulated_errors(rule: Rule, p: Sequence[float], n: int, alpha: float, runs: int) -> int:
    """Runs in which it says another class than the first, which is the most likely one."""
    cached = lru_cache(maxsize=None)(lambda counts: rule(counts, alpha))
    drawn_RK = np.random.default_rng(5).multinomial(n, p, size=runs)
    return sum(cached(tuple(counts)) not in (0, NO_CLASS) for counts in drawn_RK.tolist())


@pytest.mark.parametrize(
    ("p", "n"),
    [
        ((0.52, 0.48), 200),
        ((0.5 + 1e-9, 0.5 - 1e-9), 200),
        ((0.52, 0.24, 0.24), 40),
        ((0.36, 0.33, 0.31), 40),
        ((0.26, 0.25, 0.25, 0.24), 20),
    ],
    ids=str,
)
@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_it_abstains_or_is_right_in_all_but_a_share_alpha_of_draws(p: tuple[float, ...], n: int, alpha: float) -> None:
    runs = 20_000
    assert simulated_errors(said, p, n, alpha, runs) <= binom.isf(FALSE_ALARM, runs, alpha)


def test_the_most_frequent_class_without_a_test_is_found_out() -> None:
    runs = 20_000
    assert simulated_errors(most_frequent, (0.52, 0.48), 200, 0.1, runs) > binom.isf(FALSE_ALARM, runs, 0.1)


def test_a_clear_class_is_said_and_not_abstained_from() -> None:
    assert shares(said, 0.9, 100, 0.001)[0] > 0.999


@pytest.mark.parametrize(("first", "second"), [(7, 3), (10, 0), (1, 0), (60, 41), (50, 50), (200, 120)])
def test_the_p_value_is_that_of_a_fair_coin_both_ways(first: int, second: int) -> None:
    n = first + second
    tail = Fraction(sum(comb(n, i) for i in range(first, n + 1)), 2**n)
    expected = min(Fraction(1), 2 * tail) if first > second else Fraction(1)
    assert of_counts((first, second), 0.05).p_value == pytest.approx(float(expected), rel=1e-12)


def test_a_class_is_said_exactly_where_the_p_value_is_at_most_alpha() -> None:
    p_value = of_counts((14, 4), 0.05).p_value
    assert of_counts((14, 4), p_value).predicted == 0
    assert of_counts((14, 4), np.nextafter(p_value, 0.0)).predicted == NO_CLASS


def test_classes_are_told_the_most_frequent_first_and_the_lower_of_those_tied() -> None:
    made = prediction_of(np.array([4, 2, 2, 4, 4, 4, 7, 4, 7]), 0.9)
    assert (made.classes, made.counts, made.n, made.predicted) == ([4, 2, 7], [5, 2, 2], 9, 4)
    assert not made.abstains
    assert prediction_of(np.array([3, 1]), 0.9) == Prediction(NO_CLASS, 1.0, 2, [1, 3], [1, 1])


def test_samples_without_a_prediction_are_counted_and_speak_for_no_class() -> None:
    made = prediction_of(np.array([NO_CLASS] * 50 + [6] * 20 + [2] * 2), 0.001)
    assert (made.predicted, made.n, made.classes, made.counts) == (6, 72, [NO_CLASS, 6, 2], [50, 20, 2])
    assert made.p_value == prediction_of(np.array([6] * 20 + [2] * 2), 0.001).p_value


def test_where_nothing_was_predicted_it_abstains() -> None:
    made = prediction_of(np.array([NO_CLASS] * 5), 0.5)
    assert made.abstains
    assert (made.predicted, made.p_value, made.counts) == (NO_CLASS, 1.0, [5])


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_an_alpha_that_is_no_error_probability_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha must lie between 0 and 1, found {alpha}"):
        prediction_of(np.array([1, 1]), alpha)


HERE = {"sigma": 0.5, "n": 60, "index": 12, "seed": 3}


def test_a_prediction_is_the_same_each_time_whatever_the_batch_and_another_for_another_seed_or_index(model, digit):
    made = srs_ray.predict(model, digit, **HERE)
    assert made.predicted == 6
    assert all(srs_ray.predict(model, digit, **HERE, batch=batch) == made for batch in (7, 16, 64))
    noisier = HERE | {"sigma": 1.0}
    at_1 = srs_ray.predict(model, digit, **noisier)
    for change in ({"seed": 4}, {"index": 13}):
        assert srs_ray.predict(model, digit, **(noisier | change)) != at_1


def test_it_is_what_the_base_classifier_says_of_noise_of_its_own_domain(model, digit):
    reference = SolverSetting.named("anderson", 12, 1e-2)
    made = srs_ray.predict(model, digit, **HERE, reference=reference, alpha=0.01)
    point = NoisyPoint(digit, 0.5, 3, 12, GridNoise(torch.device("cpu")))
    classes_N = BaseClassifier(model, reference, 64).predict(point, Domain.PREDICTION, np.arange(60)).classes_N
    assert made == prediction_of(classes_N, 0.01)
    opened = opened_mdeq(model).with_reference(reference)
    assert predict_point(opened, digit, 0.5, 60, 0.01, 3, 12, 16, GridNoise(torch.device("cpu"))) == made


def test_float32_means_float32(model, digit):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    srs_ray.predict(model, digit, **(HERE | {"n": 2}))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("n", [0, -1])
def test_a_prediction_from_no_samples_is_refused(model, digit, n):
    with pytest.raises(ValueError, match=f"n is {n}, expected at least 1"):
        srs_ray.predict(model, digit, sigma=0.5, n=n)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({"sigma": 0.0}, r"sigma is 0\.0"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"alpha": 1.0}, r"alpha .*found 1\.0"),
        ({"noise": "philox"}, "no noise generator 'philox'"),
        ({"batch": 0}, "batch is 0"),
        ({"index": -1}, "index is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"sigma": float("inf")}, "sigma is inf"),
    ],
    ids=str,
)
def test_settings_of_a_prediction_out_of_range_are_refused_by_name(model, digit, setting, found):
    with pytest.raises(ValueError, match=found):
        srs_ray.predict(model, digit, **(HERE | setting))
