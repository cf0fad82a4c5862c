"""`auto` by simulation: a way chosen by selection samples keeps alpha, and one chosen by its own results does not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from srs_ray.smoothing.audit import Fixed, Share
from srs_ray.smoothing.bounds import EXACT, MIXTURE, Evidence
from srs_ray.smoothing.bounds.cohen import COHEN
from srs_ray.smoothing.choice import Shown, Way, choose
from srs_ray.smoothing.plan import Goal, Plan

FALSE_ALARM = 1e-6  # a sound way fails a simulated test with no more than this probability
N, N0, ALPHA, RUNS = 400, 40, 0.05, 600
FALSE = (0.0, 0.15, 0.05, 0.01)  # of F's misses, how many 0 (F itself), 1, 2 and 3 steps take for hits
LOOKS = {"first": 50, "growth": 2.0, "power": 0.5}
GOAL = Goal((0.5, 0.55, 0.6), 0.01)
Hits = NDArray[np.bool_]


def all_ways() -> list[Way]:
    audited = [
        Way(Plan.geometric(EXACT, ALPHA, N, **LOOKS, audit=Share(share)), float(steps), 4.0, steps)
        for steps in (1, 2, 3)
        for share in (0.1, 0.35)
    ]  # fmt: skip
    return [Way(Plan.geometric(MIXTURE, ALPHA, N, **LOOKS), 4.0), *audited]


def said(f_N: Hits, steps: int, rng: np.random.Generator) -> Hits:
    """Few steps hit where F does, and on some of its misses too."""
    return f_N | (rng.random(len(f_N)) < FALSE[steps])


@cache
def bound_of(plan: Plan, counts: tuple[Evidence, ...]) -> float:
    return plan.p_lower(counts)


def p_lower(way: Way, f_N: Hits, rng: np.random.Generator) -> float:
    """The bound where sampling by this way ends."""
    m_N = said(f_N, way.steps, rng)
    audited_N = m_N & (rng.random(N) < (way.plan.audit.share or way.steps > 0))
    sums = [np.cumsum(x_N) for x_N in (m_N, audited_N, audited_N & ~f_N)]
    read: list[Evidence] = []
    for n in way.plan.sizes:
        read.append(Evidence(n, *(int(x_N[n - 1]) for x_N in sums)))
        if way.plan.verdict(read, GOAL.p_targets, GOAL.futility) is not None:
            break
    return bound_of(way.plan, tuple(read))


@pytest.mark.parametrize("p_a", [0.45, 0.58, 0.8])
def test_chosen_by_selection_it_is_above_p_a_no_more_often_than_alpha(p_a: float) -> None:
    rng, ways = np.random.default_rng(11), all_ways()
    above, taken = 0, set()
    for _ in range(RUNS):
        f_N = rng.random(N0) < p_a
        few = [said(f_N, steps, rng) for steps in (1, 2, 3)]
        shown = Shown(
            N0,
            int(f_N.sum()),
            compared=tuple(int(m_N.sum() + f_N.sum()) for m_N in few),
            differed=tuple(int((m_N != f_N).sum()) for m_N in few),
        )
        way = choose(ways, shown, GOAL, 0.05)
        taken.add(way)
        above += p_lower(way, rng.random(N) < p_a, rng) > p_a
    assert len(taken) > 1, "selection chooses one way now, another then"
    assert above <= binom.isf(FALSE_ALARM, RUNS, ALPHA)


def test_a_way_that_is_left_for_another_by_what_its_own_samples_say_breaks_it() -> None:
    """Each way afresh at full alpha, until one of them certifies: the best of several is no bound at alpha."""
    rng, p_a = np.random.default_rng(12), 0.58
    fixed = Way(Plan.fixed(COHEN, ALPHA, N), 4.0)
    exact = Way(Plan.fixed(EXACT, ALPHA, N, Fixed(N)), 1.0, steps=3)
    above = sum(
        max(p_lower(way, rng.random(N) < p_a, rng) for way in (exact, fixed, fixed, fixed)) > p_a for _ in range(RUNS)
    )
    assert above > binom.isf(FALSE_ALARM, RUNS, ALPHA)
