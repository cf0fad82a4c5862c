"""Coverage: how often a certificate lies above p_A, by full enumeration of an adversary and by simulated chains."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from hostile_samplers import worst_of_one_audit
from numpy.typing import NDArray
from scipy.stats import binom

from srs_ray.smoothing.bounds import clopper_pearson_lower, p_lower

BoundFunction = Callable[[int, int, int, int, float], float]
FALSE_ALARM = 1e-6  # a sound certificate fails a simulated test with no more than this probability


@pytest.mark.parametrize(("n", "audit"), [(1, 1), (6, 3), (15, 5), (24, 8), (24, 24), (30, 2)])
@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.4])
@pytest.mark.parametrize(("kind", "spent"), [("exact", 0.1), ("weighted", 0.03), ("union", 0.45), ("paper", 0.0)])
def test_no_sampler_lifts_a_sound_certificate_above_p_a_more_often_than_alpha(
    kind: str, spent: float, alpha: float, n: int, audit: int
) -> None:
    # The lower limit is for the enumeration's sake: an adversary that achieved nothing would prove nothing.
    assert spent * alpha <= worst_of_one_audit(kind, n, audit, alpha) <= alpha


@pytest.mark.parametrize("alpha", [0.02, 0.1])
def test_a_sampler_that_knows_f_breaks_released(alpha: float) -> None:
    assert worst_of_one_audit("released", 40, 15, alpha) > 5 * alpha


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("n", [1, 10, 50])
def test_clopper_pearson_on_f_itself_is_above_p_a_at_most_alpha_and_nearly_that_often(n: int, alpha: float) -> None:
    bounds = np.array([clopper_pearson_lower(k, n, alpha) for k in range(n + 1)])
    shares = [float(binom.pmf(np.arange(n + 1), n, p_a) @ (bounds > p_a)) for p_a in bounds[1:] * (1 - 1e-9)]
    assert 0.99 * alpha < max(shares) <= alpha


Hits = NDArray[np.bool_]
Chains = Callable[[Hits, np.random.Generator], Hits]
P_A, N, AUDIT, CHAINS, RUNS, ALPHA = 0.8, 400, 60, 10, 3000, 0.05


def sticky(again: float) -> Chains:
    """A chain gives its previous answer again with this probability, else F's."""

    def answers(f_RN: Hits, rng: np.random.Generator) -> Hits:
        m_RTB = f_RN.reshape(len(f_RN), -1, CHAINS).copy()
        for step in range(1, m_RTB.shape[1]):
            repeats_RB = rng.random((len(f_RN), CHAINS)) < again
            m_RTB[:, step] = np.where(repeats_RB, m_RTB[:, step - 1], m_RTB[:, step])
        return m_RTB.reshape(f_RN.shape)

    return answers


def leaning(share: float) -> Chains:
    """A sampler that says c whenever F does, and on this share of the other samples."""
    return lambda f_RN, rng: f_RN | (rng.random(f_RN.shape) < share)


def hiding(extra: int) -> Chains:
    """A sampler that knows all of F's answers: hits beyond the expected number and `extra` more are true or invented.

    So an audit sees false hits only in the runs where F did badly, and |S| tells nothing of it.
    """

    def answers(f_RN: Hits, rng: np.random.Generator) -> Hits:
        order_RN = np.argsort(np.where(f_RN, 0.0, rng.random(f_RN.shape)), axis=1, kind="stable")
        target_R = np.maximum(f_RN.sum(axis=1), round(N * P_A) + extra)
        m_RN = np.empty_like(f_RN)
        np.put_along_axis(m_RN, order_RN, np.arange(N) < target_R[:, None], axis=1)
        return m_RN

    return answers


SAMPLERS = {
    "sticky 0.5": sticky(0.5),
    "sticky 0.9": sticky(0.9),
    "sticky 0.99": sticky(0.99),
    "leaning 0.05": leaning(0.05),
    "leaning 0.3": leaning(0.3),
    "hiding 15": hiding(15),
    "hiding 30": hiding(30),
}


@lru_cache
def simulated_counts(sampler: str) -> tuple[tuple[int, int, int], ...]:
    """(hits, audited, disagreed) of each run."""
    rng = np.random.default_rng(sorted(SAMPLERS).index(sampler))
    f_RN = rng.random((RUNS, N)) < P_A
    m_RN = SAMPLERS[sampler](f_RN, rng)
    hits_R, false_R = m_RN.sum(axis=1), (m_RN & ~f_RN).sum(axis=1)
    audited_R = np.minimum(AUDIT, hits_R)
    disagreed_R = rng.hypergeometric(false_R, hits_R - false_R, audited_R)
    return tuple(zip(hits_R.tolist(), audited_R.tolist(), disagreed_R.tolist(), strict=True))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", ["exact", "weighted", "union", "paper"])
def test_correlated_and_adversarial_chains_break_a_certificate_no_more_often_than_alpha(
    kind: str, sampler: str
) -> None:
    bound = lru_cache(maxsize=None)(lambda hits, audited, k: p_lower(kind, hits, N, audited, k, ALPHA))
    violations = sum(bound(*counts) > P_A for counts in simulated_counts(sampler))
    assert violations <= binom.isf(FALSE_ALARM, RUNS, ALPHA)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "sticky 0.5"])
def test_the_same_chains_break_clopper_pearson_on_their_hits(sampler: str) -> None:
    violations = sum(clopper_pearson_lower(hits, N, ALPHA) > P_A for hits, _, _ in simulated_counts(sampler))
    assert violations > binom.isf(FALSE_ALARM, RUNS, ALPHA)


@pytest.mark.parametrize("p_a", [0.6, 0.75, 0.9])
def test_released_certifies_too_much_where_the_sampler_leans_by_two_in_a_hundred(p_a: float) -> None:
    n, audit, alpha, runs = 10_000, 400, 0.001, 100
    rng = np.random.default_rng(0)
    violations = dict.fromkeys(("released", "exact", "union"), 0)
    for _ in range(runs):
        true_hits = int(rng.binomial(n, p_a))
        false_hits = int(rng.binomial(n - true_hits, 0.02 / (1 - p_a)))
        disagreed = int(rng.hypergeometric(false_hits, true_hits, audit))
        for kind in violations:
            violations[kind] += p_lower(kind, true_hits + false_hits, n, audit, disagreed, alpha) > p_a
    assert violations["released"] >= binom.ppf(FALSE_ALARM, runs, 0.71)  # published: 71 to 100 of 100
    assert violations["exact"] <= binom.isf(FALSE_ALARM, runs, alpha)
    assert violations["union"] <= binom.isf(FALSE_ALARM, runs, alpha)
