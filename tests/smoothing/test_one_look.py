"""A fixed n is a plan with one look: the same float as the bound's own, and all samples drawn and audited at once."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from srs_ray.smoothing.audit import Fixed
from srs_ray.smoothing.base_classifier import Predictions
from srs_ray.smoothing.bounds import BOUNDS, Evidence, bound_named, p_lower
from srs_ray.smoothing.estimation import estimate
from srs_ray.smoothing.limits import p_cap
from srs_ray.smoothing.noise import Domain, NoisyPoint, Philox4x64
from srs_ray.smoothing.plan import Goal, Plan

KINDS = [bound.name for bound in BOUNDS.values() if not bound.anytime]
ALPHAS = (1e-9, 0.001, 0.05, 0.1 + 0.2, 0.7)
COUNTS = [
    (hits, n, audited, disagreed)
    for n, shares in product((1, 2, 7, 100, 999, 10_000), product((0.0, 0.5, 0.7, 0.97, 1.0), (0.0, 0.1, 0.4, 1.0)))
    for hits in [round(n * shares[0])]
    for audited in [round(hits * shares[1])]
    for disagreed in sorted({0, min(1, audited), audited // 10, audited})
]


def test_these_are_the_certificates_of_a_fixed_n() -> None:
    assert KINDS == ["cohen", "exact", "weighted", "two-sided", "union", "paper", "released"]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_look_gives_the_float_of_the_bound(kind: str, alpha: float) -> None:
    bound = bound_named(kind)
    seen = set()
    for hits, n, audited, disagreed in COUNTS:
        audits = (audited, disagreed) if bound.audited else (0, 0)
        plan = Plan.fixed(bound, alpha, n, Fixed(max(audited, 1)) if bound.audited else Fixed(0))
        found = plan.p_lower([Evidence(n, hits, *audits)])
        assert found == p_lower(kind, hits, n, *audits, alpha)
        seen.add(found)
    assert len(seen) > 15


@pytest.mark.parametrize("audit", [0, 1, 40, 400, 20_000])
@pytest.mark.parametrize("kind", KINDS)
def test_its_cap_is_that_of_the_bound(kind: str, audit: int) -> None:
    bound = bound_named(kind)
    for n in (1, 50, 400, 10_000):
        plan = Plan.fixed(bound, 0.001, n, Fixed(audit) if bound.audited else Fixed(0))
        assert plan.p_cap == p_cap(kind, n, audit, 0.001)


def test_all_of_alpha_is_for_the_one_look_and_nothing_is_given_up_before_it() -> None:
    plan = Plan.fixed(bound_named("exact"), 0.001, 1000, Fixed(100))
    assert (plan.sizes, plan.alphas, plan.n) == ((1000,), (0.001,), 1000)
    assert plan.p_lower([]) == 0.0
    assert plan.verdict([Evidence(1000, 0)], []) == plan.verdict([Evidence(1000, 0)], [0.5]) == "spent"
    assert not plan.futile(Evidence(1000, 0), 0.5, 0.01)


class Recorded:
    """A sampler and base classifier with the same answers, which notes what it is asked."""

    method, chains = "srs", 10

    def __init__(self, classes_N: np.ndarray) -> None:
        self.classes_N = classes_N
        self.drawn: list[tuple[Domain, int, int]] = []
        self.run_again: list[list[int]] = []

    def draw(self, domain: Domain, count: int, first: int = 0) -> Predictions:
        self.drawn.append((domain, count, first))
        return Predictions(self.classes_N[first : first + count], 3 * count, 0, 0)

    def predict(self, point: NoisyPoint, domain: Domain, numbers: np.ndarray) -> Predictions:
        self.run_again.append(numbers.tolist())
        return Predictions(self.classes_N[numbers], 18 * len(numbers), 0, 0)


@pytest.mark.parametrize("rate", [0.1, 0.55, 0.95])
@pytest.mark.parametrize("kind", KINDS)
def test_all_samples_are_drawn_at_once_and_the_k_chosen_hits_audited_however_hopeless(kind: str, rate: float) -> None:
    bound, n, audit = bound_named(kind), 400, 60
    classes_N = np.where(np.random.default_rng(3).random(n) < rate, 1, 0)
    hits = np.flatnonzero(classes_N == 1)
    point = NoisyPoint(torch.zeros(1), 1.0, 5, 11, Philox4x64())
    answers = Recorded(classes_N)
    plan = Plan.fixed(bound, 0.001, n, Fixed(audit) if bound.audited else Fixed(0))
    made = estimate(answers, answers, point, 1, 0.1, plan, Goal())
    assert answers.drawn == [(Domain.ESTIMATION, n, 0)]
    chosen = point.audit_choice(hits, audit).tolist() if bound.audited else []
    assert answers.run_again == ([chosen] if bound.audited else [])
    assert (made.audit.audited, made.audit.disagreed, made.audit.evaluations) == (len(chosen), 0, 18 * len(chosen))
    assert made.evaluations == 3 * n
    assert made.p_lower == p_lower(kind, len(hits), n, len(chosen), 0, 0.001)
    assert made.stopped == "spent"
