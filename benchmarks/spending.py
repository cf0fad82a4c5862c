"""What looks save: samples drawn, and decisions kept, by certificate, first look and how alpha is spent.

    python benchmarks/spending.py [--points 200] [--seed 0]

Points have the radii of a published curve of certified accuracy (CIFAR-10, sigma 0.5, MDEQ-LARGE with 30 Anderson
steps; Gao et al., NeurIPS 2024), those without a radius p_A uniform in (0.3, 0.5). They are simulated. A decision is
whether a point has a target radius; it is set beside that of n samples of F at full alpha on the same noise. Costs are
in function evaluations, with `--reference` for a run of F; a chain's first sample takes 10.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import norm

from srs_ray.smoothing.audit import Fixed, Share
from srs_ray.smoothing.bounds import Evidence, bound_named, clopper_pearson_lower
from srs_ray.smoothing.plan import Plan
from srs_ray.smoothing.prediction import design_effect
from srs_ray.smoothing.radius import target_p

SIGMA, ALPHA, N, CHAINS, WARMUP, FUTILITY = 0.5, 0.001, 10_000, 400, 10, 0.01
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
CERTIFIED = (0.67, 0.55, 0.45, 0.33, 0.23, 0.16, 0.12)  # share of points with at least that radius
LARGEST = 2.2  # where the curve is taken to end


def population(points: int) -> np.ndarray:
    """p_A of each point, by quantiles of the curve."""
    quantiles = (np.arange(points) + 0.5) / points
    radii = np.interp(quantiles, [1 - share for share in CERTIFIED] + [1.0], [*RADII, LARGEST])
    without = quantiles < 1 - CERTIFIED[0]
    return np.where(without, 0.3 + 0.2 * quantiles / (1 - CERTIFIED[0]), norm.cdf(radii / SIGMA))


@dataclass
class Samples:
    """One point: F's hits, the chains' hits (`copies` of a chain's samples repeat its last answer), and u."""

    f_N: np.ndarray
    m_N: np.ndarray
    u_N: np.ndarray

    @classmethod
    def draw(cls, p: float, copies: float, rng: np.random.Generator) -> Samples:
        f_TB = rng.random((N // CHAINS, CHAINS)) < p
        m_TB, again_TB = f_TB.copy(), rng.random(f_TB.shape) < copies
        for step in range(1, len(m_TB)):
            m_TB[step] = np.where(again_TB[step], m_TB[step - 1], f_TB[step])
        return cls(f_TB.ravel(), m_TB.ravel(), rng.random(N))

    def counts(self, n: int, tau: float) -> Evidence:
        if not tau:
            return Evidence(n, int(self.f_N[:n].sum()))
        audited_N = self.m_N[:n] & (self.u_N[:n] < tau)
        return Evidence(n, int(self.m_N[:n].sum()), int(audited_N.sum()), int((audited_N & ~self.f_N[:n]).sum()))


@dataclass
class Outcome:
    """Of one point: samples and function evaluations spent, and its bound."""

    n: int
    evaluations: int
    p_lower: float


def certify(plan: Plan, samples: Samples, p_targets: list[float], reference: int) -> Outcome:
    made: list[Evidence] = []
    verdict = None
    while verdict is None:
        made.append(samples.counts(plan.sizes[len(made)], plan.audit.share))
        n = made[-1].n
        effect = design_effect(samples.m_N[:n], CHAINS) if plan.bound.audited else 1.0
        verdict = plan.verdict(made, p_targets, FUTILITY, effect)
    evaluations = n * reference
    if plan.bound.audited:
        evaluations = n + min(n, CHAINS) * (WARMUP - 1) + made[-1].audited * reference
    return Outcome(n, evaluations, plan.p_lower(made))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--points", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--reference", type=int, default=30, help="function evaluations of one run of F")
    options = arguments.parse_args()
    targets = [target_p(radius, SIGMA) for radius in RADII]
    rng = np.random.default_rng(options.seed)
    rates = population(options.points)

    settings = [("cohen", 100, growth, 0.5, 0.0) for growth in (2.0, 1.5, 1.25)]
    settings += [("cohen", first, 1.25, 0.5, 0.0) for first in (50, 400)]
    settings += [("cohen", 100, 1.25, power, 0.0) for power in (0.3, 1.0)]
    settings += [("cohen", 100, 1.25, 2.0, 0.0), ("exact", 100, 1.25, 2.0, 0.15)]  # a job's defaults
    settings += [("mixture", 100, growth, 0.0, 0.0) for growth in (2.0, 1.5, 1.25)]
    settings += [("mixture", 400, 1.25, 0.0, 0.0)]
    settings += [("exact", 150, growth, 0.5, 0.15) for growth in (2.0, 1.5, 1.25)]
    settings += [("exact", 150, 1.5, 1.0, tau) for tau in (0.05, 0.1, 0.15, 0.25, 0.5)]
    table = Table(
        "certificate", "first", "growth", "power", "tau", "copies", "samples", "evaluations", "fewer", "equal", "gained"
    )
    drawn = {copies: [Samples.draw(p, copies, rng) for p in rates] for copies in (0.05, 0.15)}
    for kind, first, growth, power, tau in settings:
        bound, audit = bound_named(kind), Share(tau) if tau else Fixed(0)
        plan = Plan.geometric(bound, ALPHA, N, first=first, growth=growth, power=power or 1.0, audit=audit)
        for copies, points in drawn.items():
            if not tau and copies != 0.05:
                continue
            done = [certify(plan, samples, targets, options.reference) for samples in points]
            fixed = np.array([clopper_pearson_lower(int(samples.f_N.sum()), N, ALPHA) for samples in points])
            ours = np.array([outcome.p_lower for outcome in done])
            decided, reached = ours[:, None] > targets, fixed[:, None] > targets
            evaluations = float(np.mean([outcome.evaluations for outcome in done]))
            table.add_row(
                kind,
                str(plan.sizes[0]),
                f"{growth:g}",
                f"{power:g}" if power else "",
                f"{tau:g}" if tau else "",
                f"{copies:.0%}" if tau else "",
                f"{np.mean([outcome.n for outcome in done]):,.0f}",
                f"{evaluations:,.0f}",
                f"{N * options.reference / evaluations:.1f} times",
                f"{(decided == reached).mean():.2%}",
                f"{(decided & ~reached).mean():.2%}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
