"""Looks at a point before all n samples are drawn: what holds whenever sampling ends, and when it may end.

A sound bound at each of the sample sizes n_1 < ... < n_J = n, at levels that sum to alpha, is sound at all of them
together, so the best so far holds however it was decided to stop. Proofs are in docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import ceil, inf, sqrt
from typing import Literal

import numpy as np
from scipy.special import bdtr, bdtrik, ndtr

from srs_ray.smoothing.certificates import SOUND, certified_radius, p_lower
from srs_ray.smoothing.confidence_sequence import mixture_p_lower

LOOK_CERTIFICATES = (*sorted(SOUND), "mixture")
UNAUDITED = ("cohen", "mixture")  # certificates of standard sampling, whose samples are those of F itself
Verdict = Literal["resolved", "futile", "spent"]


def look_sizes(n: int, first: int, growth: float = 2.0) -> tuple[int, ...]:
    """The sample sizes of the looks, ascending: n, the last one over `growth`, rounded up, while not below `first`.

    n alone where the next were below `first`. Raises ValueError unless n and first are at least 1 and growth above 1.
    """
    if n < 1 or first < 1:
        raise ValueError(f"n and the first look's size must be at least 1, found n = {n}, first = {first}")
    if not 1.0 < growth < inf:
        raise ValueError(f"looks must grow by a factor above 1, found {growth}")
    sizes = [n]
    while first <= (smaller := ceil(sizes[-1] / growth)) < sizes[-1]:
        sizes.append(smaller)
    return tuple(reversed(sizes))


def spend_alpha(alpha: float, sizes: Sequence[int], power: float) -> tuple[float, ...]:
    """Levels of the looks, alpha ((n_j / n)^power - (n_{j-1} / n)^power): each above 0, their exact sum at most alpha.

    A small power spends early. Raises ValueError for sizes that do not ascend, and for a power that leaves a look
    nothing. Source: Kim and DeMets, Biometrika 1987; the bounds here add up the levels and ignore how looks correlate.
    """
    _check_sizes(sizes)
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
    spent = [0.0, *(float((size / sizes[-1]) ** power) for size in sizes)]  # the last is exactly 1
    # Three roundings of half a unit each, and the exact differences sum to 1: this much less is never too much.
    alphas = tuple((after - before) * alpha * (1.0 - 2.0**-50) for before, after in pairwise(spent))
    if not min(alphas) > 0.0:
        raise ValueError(f"power {power} leaves a look at one of the sizes {tuple(sizes)} no level of its own")
    return alphas


@dataclass(frozen=True)
class LookCounts:
    """Counts of the first n estimation samples, everything since the first included; see certificates.py."""

    n: int
    hits: int
    audited: int = 0
    disagreed: int = 0


@dataclass(frozen=True)
class LookPlan:
    """What is fixed before a point is sampled: the certificate and the looks, each with its level.

    `kind` is one of LOOK_CERTIFICATES. The levels sum to at most alpha; those of `mixture`, which holds at all sizes
    at once, are alpha each. `audit_share` is the tau below which a hit's permanent random number has it audited; only
    the guess of what is to come needs it here. Raises ValueError for what does not go together.
    """

    kind: str
    alpha: float
    sizes: tuple[int, ...]
    alphas: tuple[float, ...]
    audit_share: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in LOOK_CERTIFICATES:
            raise ValueError(f"no certificate {self.kind!r} for looks; there are {', '.join(LOOK_CERTIFICATES)}")
        _check_sizes(self.sizes)
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha must lie between 0 and 1, found {self.alpha}")
        if len(self.alphas) != len(self.sizes) or not all(0.0 < level < 1.0 for level in self.alphas):
            raise ValueError(f"each of the looks {self.sizes} needs a level between 0 and 1, found {self.alphas}")
        levels = [Fraction(level) for level in self.alphas]
        if (max(levels) if self.kind == "mixture" else sum(levels)) > Fraction(self.alpha):
            raise ValueError(f"the looks' levels {self.alphas} spend more than alpha = {self.alpha}")
        if not 0.0 <= self.audit_share <= 1.0 or (self.audit_share > 0.0) != self.is_audited:
            raise ValueError(
                f"certificate {self.kind!r} goes with an audit share "
                f"{'above 0, up to 1' if self.is_audited else 'of 0'}, found {self.audit_share}"
            )

    @classmethod
    def geometric(
        cls, kind: str, alpha: float, n: int, *, first: int, growth: float, power: float, audit_share: float = 0.0
    ) -> LookPlan:
        """Looks at `look_sizes(n, first, growth)`, alpha spent over them by the power; mixture has it at each."""
        sizes = look_sizes(n, first, growth)
        alphas = (alpha,) * len(sizes) if kind == "mixture" else spend_alpha(alpha, sizes, power)
        return cls(kind, alpha, sizes, alphas, audit_share)

    @property
    def is_audited(self) -> bool:
        return self.kind not in UNAUDITED

    def p_lower(self, counts: Sequence[LookCounts]) -> float:
        """The best bound of the looks made so far: below p_A, whatever decided to stop, with probability >= 1 - alpha.

        `counts` are cumulative, of planned looks in their order; a look at which no bound was read may be left out.
        0.0 before the first. Raises ValueError for counts that do not continue each other at the planned sizes.
        """
        self._check_counts(counts)
        return max(map(self._bound, counts), default=0.0)

    def _bound(self, counts: LookCounts) -> float:
        return _bound(self.kind, counts, self.alphas[self.sizes.index(counts.n)])

    @property
    def p_cap(self) -> float:
        """What p_lower will hardly exceed: all samples hits, and as many of them audited as is likely, all agreeing.

        As many audits come about with a probability of some 1e-4 a look; without an audit nothing exceeds it.
        """
        return max(self._bound(LookCounts(n, n, self._most_audited(n))) for n in self.sizes)

    def _most_audited(self, n: int) -> int:
        share = self.audit_share
        return min(n, ceil(n * share + 4.0 * sqrt(n * share * (1.0 - share)))) if self.is_audited else 0

    def futile(self, now: LookCounts, p_target: float, futility: float, design_effect: float = 1.0) -> bool:
        """Whether it is unlikely that the rest up to n would certify p > p_target at the last look.

        At most `futility` is spent on all looks before the last, in equal parts. The probability is predictive:
        beta-binomial, the rate's prior being Beta(1/2, 1/2). With an audit, a third each is for the hits to come, how
        many of them are audited (binomial) and how many of these agree; the bound, which rises with each, is taken at
        the quantiles of all three. `design_effect` (see there) is how many correlated samples are worth one.
        This is a guess, and it costs at worst a radius: no bound rests on it. False at n, where nothing is to come.
        """
        if not 0.0 < futility < 1.0:
            raise ValueError(f"futility must lie between 0 and 1, found {futility}")
        if not 1.0 <= design_effect < inf:
            raise ValueError(f"a design effect is finite and at least 1, found {design_effect}")
        if now.n >= self.sizes[-1]:
            return False
        share = futility / (len(self.sizes) - 1)
        return self._bound(self._optimistic(now, share, design_effect)) <= p_target

    def _optimistic(self, now: LookCounts, futility: float, design_effect: float) -> LookCounts:
        """Counts at n which in one of them or another will be bettered with probability at most `futility`."""
        n = self.sizes[-1]
        level = 1.0 - (futility / 3 if self.is_audited else futility)
        hits = _predictive_quantile(now.hits, now.n, n - now.n, level, design_effect)
        if not self.is_audited:
            return LookCounts(n, now.hits + hits)
        audited = _binomial_quantile(level, hits, self.audit_share)
        agreed = _predictive_quantile(now.audited - now.disagreed, now.audited, audited, level, design_effect)
        return LookCounts(n, now.hits + hits, now.audited + audited, now.disagreed + audited - agreed)

    def verdict(
        self,
        counts: Sequence[LookCounts],
        p_targets: Sequence[float],
        futility: float = 0.01,
        design_effect: float = 1.0,
    ) -> Verdict | None:
        """Why to stop after the last of these looks; None: go on to the next.

        `resolved`: p_lower is above every target. `spent`: all n are drawn. `futile`: for each target that is not
        passed, sampling on is futile. A target of 1/2 stands for radius 0: a point that will hardly get there abstains
        early. Raises ValueError as p_lower and futile do, and where there is no look or no target.
        """
        if not counts or not p_targets:
            raise ValueError("a verdict needs at least one look and one target")
        bound = self.p_lower(counts)
        open_targets = [target for target in p_targets if bound <= target]
        if not open_targets:
            return "resolved"
        if counts[-1].n == self.sizes[-1]:
            return "spent"
        return "futile" if self.futile(counts[-1], min(open_targets), futility, design_effect) else None

    def _check_counts(self, counts: Sequence[LookCounts]) -> None:
        sizes = tuple(count.n for count in counts)
        if not set(sizes) <= set(self.sizes):
            raise ValueError(f"looks are planned at {self.sizes} samples, found counts at {sizes}")
        if not self.is_audited and any(count.audited for count in counts):
            raise ValueError(f"certificate {self.kind!r} is for samples of F itself, which need no audit")
        for before, after in pairwise((LookCounts(0, 0), *counts)):
            new = (
                after.n - before.n,
                after.hits - before.hits,
                after.audited - before.audited,
                after.disagreed - before.disagreed,
            )
            if not new[0] >= new[1] >= new[2] >= new[3] >= 0:
                raise ValueError(
                    "between two looks at least as many samples as hits, hits as audited ones and audited as disagreed "
                    f"ones must be added, found {before} before {after}"
                )


@lru_cache(maxsize=4096)
def _bound(kind: str, counts: LookCounts, alpha: float) -> float:
    if kind == "mixture":
        return mixture_p_lower(counts.hits, counts.n, alpha)
    return p_lower(kind, counts.hits, counts.n, counts.audited, counts.disagreed, alpha)


def capping_certificate(method: str, kind: str) -> str:
    """Whose cap is that of a run by looks with this sampling method and certificate: of auto, standard sampling's."""
    return "mixture" if method == "auto" else kind


def plan_of_looks(kind: str, alpha: float, n: int, looks: Mapping[str, float], audit_share: float = 0.0) -> LookPlan:
    """The geometric plan of a job's section `sampling.looks`: first, growth, power."""
    first, growth, power = int(looks["first"]), looks["growth"], looks["power"]
    return LookPlan.geometric(kind, alpha, n, first=first, growth=growth, power=power, audit_share=audit_share)


def target_p(radius: float, sigma: float) -> float:
    """The largest p that does not earn this l2 radius: certified_radius(p_lower, sigma) >= radius exactly above it.

    1/2 for radius 0, where anything certified will do. Raises ValueError for a radius that is negative, no number, or
    so large that no p below 1 earns it.
    """
    if not radius >= 0.0:
        raise ValueError(f"a target radius is at least 0, found {radius}")
    earned = (lambda q: certified_radius(q, sigma) >= radius) if radius > 0.0 else (lambda q: q > 0.5)
    largest = float(np.nextafter(1.0, 0.0))
    if not earned(largest):
        raise ValueError(f"no probability below 1 earns radius {radius} at sigma {sigma}")
    p = min(float(ndtr(radius / sigma)), float(np.nextafter(largest, 0.0)))
    while not earned(float(np.nextafter(p, 1.0))):
        p = float(np.nextafter(p, 1.0))
    while p > 0.5 and earned(p):
        p = float(np.nextafter(p, 0.0))
    return p


def design_effect(hit_N: np.ndarray, chains: int) -> float:
    """How many of these samples are worth an independent one for their mean: sample i is of chain i mod `chains`.

    The larger of what the chains' means vary more than they would, and of (1 + r) / (1 - r) with r the correlation of
    neighbours in a chain, which looks ahead. 1.0 where no chain has two samples: other chains' are independent.
    Sources: Kish, Survey Sampling 1965; Bartlett, JRSS 1946.
    """
    steps = len(hit_N) // chains
    if steps < 2:
        return 1.0
    centred_TB = hit_N[: steps * chains].reshape(steps, chains) - hit_N[: steps * chains].mean()
    variance = float((centred_TB**2).mean())
    if variance == 0.0:
        return 1.0
    r = min(float((centred_TB[1:] * centred_TB[:-1]).mean()) / variance, 0.99)
    return max(1.0, (1 + r) / (1 - r), steps * float(centred_TB.mean(axis=0).var()) / variance)


def _predictive_quantile(hits: int, n: int, rest: int, level: float, design_effect: float) -> int:
    """The least number of hits among `rest` further samples that is exceeded with probability at most 1 - level."""
    worth = rest / design_effect
    a, b = hits / design_effect + 0.5, (n - hits) / design_effect + 0.5
    whole = int(np.ceil(worth))
    k = np.arange(whole)
    log_mass = np.concatenate([[0.0], np.cumsum(np.log((whole - k) * (k + a) / ((k + 1) * (whole - k - 1 + b))))])
    mass = np.exp(log_mass - log_mass.max())
    above = np.cumsum(mass[::-1])[::-1] - mass  # P(more than k), summed from its small end
    quantile = int(np.argmax(above <= (1.0 - level) * mass.sum()))
    return min(rest, int(np.ceil(quantile * design_effect)))


def _binomial_quantile(level: float, n: int, p: float) -> int:
    """The least k with P(Binomial(n, p) <= k) >= level."""
    if n == 0 or p >= 1.0:
        return n
    k = ceil(bdtrik(level, n, p))
    return k - 1 if k > 0 and bdtr(k - 1, n, p) >= level else k


def _check_sizes(sizes: Sequence[int]) -> None:
    if not sizes or any(before >= after for before, after in pairwise((0, *sizes))):
        raise ValueError(f"the looks' sizes must ascend from at least 1, found {tuple(sizes)}")
