"""The samplers that bounds are held against: each knows all of the base classifier's answers, and chooses the worst.

Only the audits' choices are out of their hands. Every sampler of an audited kind, chains or anchors or anything, is one
of these at best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, hypergeom

from srs_ray.smoothing.audit import BothSides
from srs_ray.smoothing.bounds import bound_named, p_lower
from srs_ray.smoothing.plan import Plan

BoundFunction = Callable[[int, int, int, int, float], float]


def worst_of_one_audit(kind: str | BoundFunction, n: int, audit: int, alpha: float) -> float:
    """The largest P(p > p_A), to rounding, that any sampler can bring about; exact but for the choice of p_A.

    Of F's n outcomes, i.i.d. with rate p_A, G are hits. The sampler, knowing them all, picks which samples it calls
    hits: any S with |S| - d <= G true ones and d <= n - G false ones. Only the audit's choice is out of its hands. p_A
    runs over the points just below each value the certificate can take, where P(p > p_A) jumps, and a grid between.
    """
    function = bound_named(kind).function if isinstance(kind, str) else kind
    draws = [min(audit, size) for size in range(n + 1)]
    bound = np.full((n + 1, audit + 1), -1.0)
    mass = np.zeros((n + 1, n + 1, audit + 1))  # P(k | |S|, d)
    for size in range(n + 1):
        for k in range(draws[size] + 1):
            bound[size, k] = function(size, n, draws[size], k, alpha)
        for d in range(size + 1):
            # SciPy gives nan for an empty population, which max() would take for no violation at all
            mass[size, d] = hypergeom.pmf(np.arange(audit + 1), size, d, draws[size]) if size else np.eye(audit + 1)[0]
            assert mass[size, d].sum() == pytest.approx(1.0)
    sizes, ds = np.indices((n + 1, n + 1))
    worst = 0.0
    values = np.unique(bound[bound > 0.0])
    for p_a in np.concatenate([values * (1 - 1e-9), np.linspace(0.02, 0.98, 49)]):
        violation = np.einsum("sdk,sk->sd", mass, bound > p_a)
        by_g = [violation[(ds <= sizes) & (sizes - ds <= g) & (ds <= n - g)].max() for g in range(n + 1)]
        worst = max(worst, float(binom.pmf(np.arange(n + 1), n, p_a) @ by_g))
    return worst


def worst_of_two_audits(function: Callable[..., float], n: int, rule: BothSides, alpha: float) -> float:
    """The largest P(p > p_A), to rounding, that any sampler can bring about; exact but for the choice of p_A.

    Of F's n outcomes G are hits. The sampler, knowing them all, picks which samples it calls hits: G - u true ones and
    d others. Only the choices of both audits are out of its hands. p_A runs over the points just below the bound's
    values, where P(p > p_A) jumps.
    """
    splits = [rule.expected(hits, n - hits) for hits in range(n + 1)]
    bounds = [
        np.array([[function(hits, n, k1, k, alpha, k0, j) for j in range(k0 + 1)] for k in range(k1 + 1)], dtype=float)
        for hits, (k1, k0) in enumerate(splits)
    ]

    def masses(size: int, draws: int) -> NDArray[np.float64]:
        """P(k) for each number of marked ones."""
        if not size:
            return np.ones((1, 1))
        return np.array([hypergeom.pmf(np.arange(draws + 1), size, marked, draws) for marked in range(size + 1)])

    of_hits = [masses(hits, k1) for hits, (k1, _) in enumerate(splits)]
    of_misses = [masses(n - hits, k0) for hits, (_, k0) in enumerate(splits)]
    values = np.unique(np.concatenate([bound.ravel() for bound in bounds]))
    worst = 0.0
    for p_a in values[values > 0.0][:: max(1, len(values) // 400)] * (1 - 1e-9):
        by_g = np.zeros(n + 1)
        for hits, bound in enumerate(bounds):
            violation_DU = of_hits[hits] @ (bound > p_a) @ of_misses[hits].T
            d_DU, u_DU = np.indices(violation_DU.shape)
            np.maximum.at(by_g, hits - d_DU + u_DU, violation_DU)
        worst = max(worst, float(binom.pmf(np.arange(n + 1), n, p_a) @ by_g))
    return worst


def worst_of_an_audited_plan(plan: Plan) -> float:
    """The largest P(best bound > p_A) that any sampler can bring about; exact but for the grid of p_A.

    Between two looks F hits G of the new samples, and a sampler that knows all of F's answers, those to come too, has t
    of these hits and f of the other samples for its own. Each is audited with probability tau, and where the bound
    audits misses, each of the u = G - t that it leaves to F and of the w that neither hits. The sampler's best answer
    to every (G_1, ..., G_J) counts; p_A runs over the points just below all values of the bound.
    """
    steps = [after - before for before, after in pairwise((0, *plan.sizes))]
    misses = getattr(plan.bound, "misses", False)
    choices = [
        [
            (t, f, u, step - t - f - u if misses else 0)
            for t in range(step + 1)
            for f in range(step - t + 1)
            for u in (range(step - t - f + 1) if misses else (0,))
        ]
        for step in steps
    ]
    bound = lru_cache(maxsize=None)(
        lambda look, hits, audited, k, *of_misses: p_lower(
            plan.bound.name, hits, plan.sizes[look], audited, k, plan.alphas[look], *of_misses
        )
    )
    chance = {size: binom.pmf(np.arange(size + 1), size, plan.audit.share).tolist() for size in range(max(steps) + 1)}

    def paths(chosen: Sequence[tuple[int, int]], look: int, counts: tuple[int, ...], best: float, mass: float):
        if look == len(chosen):
            yield best, mass
            return
        t, f, u, w = chosen[look]
        for agreed, k, found, vain in product(range(t + 1), range(f + 1), range(u + 1), range(w + 1)):
            added = t + f, agreed + k, k, found + vain, found
            new = tuple(before + more for before, more in zip(counts, added, strict=True))
            likely = chance[t][agreed] * chance[f][k] * chance[u][found] * chance[w][vain]
            yield from paths(chosen, look + 1, new, max(best, bound(look, *new)), mass * likely)

    outcomes = {chosen: list(paths(chosen, 0, (0, 0, 0, 0, 0), 0.0, 1.0)) for chosen in product(*choices)}
    values = np.unique([best for path in outcomes.values() for best, _ in path if best > 0.0]) * (1 - 1e-9)
    above = {}  # P(best > p_A) for each p_A, by what the sampler chose
    for chosen, path in outcomes.items():
        best, mass = np.array(path).T
        order = np.argsort(best)
        tails = np.append(np.cumsum(mass[order][::-1])[::-1], 0.0)
        above[chosen] = tails[np.searchsorted(best[order], values, side="right")]
    worst = np.zeros(len(values))
    for g in product(*(range(step + 1) for step in steps)):
        likely = np.prod([binom.pmf(hit, step, values) for hit, step in zip(g, steps, strict=True)], axis=0)
        can = [
            [(t, f, u, w) for t, f, u, w in row if (t + u == hit if misses else t <= hit and f <= step - hit)]
            for row, hit, step in zip(choices, g, steps, strict=True)
        ]
        worst += likely * np.max([above[chosen] for chosen in product(*can)], axis=0)
    return float(worst.max())
