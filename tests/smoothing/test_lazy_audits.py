"""Audits that wait until they can end sampling, by simulation: the bound is above p_A no more often than alpha."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from test_look_coverage import hiding

from srs_ray.smoothing import estimation
from srs_ray.smoothing.audit import NO_AUDIT, Audit, Share, audit_samples
from srs_ray.smoothing.base_classifier import Predictions
from srs_ray.smoothing.bounds import bound_named
from srs_ray.smoothing.estimation import Estimation, estimate
from srs_ray.smoothing.noise import NoisyPoint, Philox4x64
from srs_ray.smoothing.plan import Goal, Plan

FALSE_ALARM = 1e-6  # a sound procedure fails a simulated test with no more than this probability
N, CHAINS, ALPHA, RUNS = 400, 10, 0.05, 1000
EXACT = bound_named("exact")
PLAN = Plan.geometric(EXACT, ALPHA, N, first=50, growth=2.0, power=0.5, audit=Share(0.3))
Hits = NDArray[np.bool_]


class Answers:
    """A sampler, or a base classifier, whose answers to all samples are laid down beforehand: class 1, a hit, or 0."""

    method, chains = "srs", CHAINS

    def __init__(self, hit_N: Hits) -> None:
        self.classes_N = hit_N.astype(np.int64)

    def draw(self, stage: object, count: int, first: int = 0) -> Predictions:
        return Predictions(self.classes_N[first : first + count], count, 0, 0)

    def predict(self, point: NoisyPoint, stage: object, numbers: NDArray[np.int64]) -> Predictions:
        return Predictions(self.classes_N[numbers], len(numbers), 0, 0)


def false_later(f_N: Hits, rng: np.random.Generator) -> Hits:
    """Leans a little at first, so that the first audits do not end it, and says nothing but c from then on."""
    return f_N | (rng.random(N) < np.where(np.arange(N) < N // 4, 0.3, 1.0))


SAMPLERS: dict[str, Callable[[Hits, np.random.Generator, float], Hits]] = {
    "independent": lambda f, rng, p: f,
    "leaning": lambda f, rng, p: f | (rng.random(N) < 0.3),
    "always c": lambda f, rng, p: np.ones_like(f),
    "false early": lambda f, rng, p: f | (np.arange(N) < N // 4),
    "false later": lambda f, rng, p: false_later(f, rng),
    "hiding": lambda f, rng, p: hiding(f, p),
}


def simulated(sampler: str, p_a: float, p_target: float, plan: Plan = PLAN) -> list[Estimation]:
    """Estimations of RUNS points, each with permanent random numbers of its own as a run's points have them."""
    rng = np.random.default_rng(7)
    made = []
    for index in range(RUNS):
        f_N = rng.random(N) < p_a
        point = NoisyPoint(torch.zeros(1), 1.0, 5, index, Philox4x64())
        answers = Answers(SAMPLERS[sampler](f_N, rng, p_a))
        made.append(estimate(answers, Answers(f_N), point, 1, 1.0, plan, Goal((p_target,), 0.01)))
    return made


def violations(made: list[Estimation], p_a: float) -> int:
    return sum(point.p_lower > p_a for point in made)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("p_a", "p_target"), [(0.52, 0.5), (0.75, 0.6), (0.75, 0.75)])
def test_no_sampler_breaks_the_bound_more_often_than_alpha_though_looks_are_left_out(
    sampler: str, p_a: float, p_target: float
) -> None:
    made = simulated(sampler, p_a, p_target)
    assert violations(made, p_a) <= binom.isf(FALSE_ALARM, RUNS, ALPHA)
    left_out = sum(len(point.read) < PLAN.sizes.index(len(point.classes_N)) + 1 for point in made)
    assert left_out > RUNS // 10, "the simulation is of audits that wait"


def test_a_bound_read_on_earlier_audits_alone_is_broken_by_a_sampler_that_is_false_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    audited_before: set[int] = set()

    def only_the_first(base: Answers, point: NoisyPoint, numbers: NDArray[np.int64], selected: int) -> Audit:
        again = point.index in audited_before
        audited_before.add(point.index)
        return NO_AUDIT if again else audit_samples(base, point, numbers, selected)

    plan = Plan.geometric(EXACT, ALPHA, N, first=100, growth=4.0, power=0.5, audit=Share(0.7))
    p_a, p_target = 0.7, 0.65
    assert violations(simulated("false later", p_a, p_target, plan), p_a) <= binom.isf(FALSE_ALARM, RUNS, ALPHA)
    monkeypatch.setattr(estimation, "audit_samples", only_the_first)
    assert violations(simulated("false later", p_a, p_target, plan), p_a) > binom.isf(FALSE_ALARM, RUNS, ALPHA)
