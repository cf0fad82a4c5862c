"""The plan of a point: bound, looks, audit. What holds whenever sampling ends, and when it may end.

A sound bound at each of the sample sizes n_1 < ... < n_J = n, at levels that sum to alpha, is sound at all of them
together, so the best so far holds however it was decided to stop. A fixed n is a plan with one look. Proofs are in
docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import ceil, floor, inf
from typing import Literal

from srs_ray.smoothing.audit import AuditRule, Fixed
from srs_ray.smoothing.bounds import Bound, Evidence
from srs_ray.smoothing.looks import check_sizes, look_sizes, spend_alpha
from srs_ray.smoothing.prediction import binomial_quantile, predictive_quantile

Verdict = Literal["resolved", "futile", "spent"]
_NO_AUDIT = Fixed(0)


@dataclass(frozen=True)
class Goal:
    """What sampling by looks is after: the bounds to pass, and the risk of giving one up that n samples would pass.

    Without bounds to pass all n samples are drawn.
    """

    p_targets: tuple[float, ...] = ()
    futility: float = 0.01


@dataclass(frozen=True)
class Plan:
    """What is fixed before a point is sampled: the bound, the looks, each with its level, and the rule of its audit.

    The levels sum to at most alpha; those of a bound that holds at all sizes at once are alpha each. Raises ValueError
    for what does not go together.
    """

    bound: Bound
    alpha: float
    sizes: tuple[int, ...]
    alphas: tuple[float, ...]
    audit: AuditRule = _NO_AUDIT

    def __post_init__(self) -> None:
        check_sizes(self.sizes)
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha must lie between 0 and 1, found {self.alpha}")
        if len(self.alphas) != len(self.sizes) or not all(0.0 < level < 1.0 for level in self.alphas):
            raise ValueError(f"each of the looks {self.sizes} needs a level between 0 and 1, found {self.alphas}")
        levels = [Fraction(level) for level in self.alphas]
        if (max(levels) if self.bound.anytime else sum(levels)) > Fraction(self.alpha):
            raise ValueError(f"the looks' levels {self.alphas} spend more than alpha = {self.alpha}")
        name, several = self.bound.name, len(self.sizes) > 1
        if several and not self.bound.sound:
            raise ValueError(f"certificate {name!r} is unsound, and looks cannot be planned for it")
        if not self.bound.audited and self.audit != _NO_AUDIT:
            raise ValueError(f"certificate {name!r} needs no audit, found {self.audit}")
        if self.bound.audited and several and not self.audit.share:
            raise ValueError(f"certificate {name!r} by looks needs a share of audits above 0, found {self.audit}")

    @classmethod
    def fixed(cls, bound: Bound, alpha: float, n: int, audit: AuditRule = _NO_AUDIT) -> Plan:
        """One look, when all n samples are drawn."""
        return cls(bound, alpha, (n,), (alpha,), audit)

    @classmethod
    def geometric(
        cls, bound: Bound, alpha: float, n: int, *, first: int, growth: float, power: float,
        audit: AuditRule = _NO_AUDIT,
    ) -> Plan:  # fmt: skip
        """Looks at `look_sizes(n, first, growth)`, alpha spent by the power; an anytime bound has all of it at each."""
        sizes = look_sizes(n, first, growth)
        alphas = (alpha,) * len(sizes) if bound.anytime else spend_alpha(alpha, sizes, power)
        return cls(bound, alpha, sizes, alphas, audit)

    @property
    def n(self) -> int:
        """The most samples that are drawn."""
        return self.sizes[-1]

    def p_lower(self, read: Sequence[Evidence]) -> float:
        """The best bound of the looks made so far: below p_A, whatever decided to stop, with probability >= 1 - alpha.

        Evidence is cumulative, of planned looks in their order; a look at which no bound was read may be left out. 0.0
        before the first. Raises ValueError for evidence that does not continue that before it at the planned sizes.
        """
        self.check(read)
        return max(map(self._bound, read), default=0.0)

    def _bound(self, evidence: Evidence) -> float:
        return _bound(self.bound, evidence, self.alphas[self.sizes.index(evidence.n)])

    @property
    def p_cap(self) -> float:
        """A likely upper limit of p_lower: all samples are hits, a likely number of them is audited, and all agree."""
        return max(self._bound(Evidence(n, n, self.audit.at_most(n))) for n in self.sizes)

    def expected(self, p: float, disagreement: float, n: int | None = None, missed: float = 0.0) -> Evidence:
        """The evidence that a look at n samples (None: all) comes to where a share p of them are hits.

        A share `disagreement` of the audited ones are false; of audited misses a share `missed` are hits of F. Counts
        are rounded against the point.
        """
        n = self.n if n is None else n
        hits = floor(n * p)
        audited, of_misses = self.audit.expected(hits, n - hits)
        return Evidence(n, hits, audited, ceil(audited * disagreement), of_misses, floor(of_misses * missed))

    def futile(self, now: Evidence, p_target: float, futility: float, design_effect: float = 1.0) -> bool:
        """Whether it is unlikely that the rest up to n would certify p > p_target at the last look.

        At most `futility` is spent on all looks before the last, in equal parts. The probability is predictive:
        beta-binomial, the rate's prior being Beta(1/2, 1/2). With an audit, a third each is for the hits to come, how
        many of them are audited (binomial) and how many of these agree; the bound, which rises with each, is taken at
        the quantiles of all three. An audit of misses adds how many are audited and how many found: fifths.
        `design_effect` (see there) is how many correlated samples are worth one.
        This is a guess, and it costs at worst a radius: no bound rests on it. False at n, where nothing is to come.
        """
        if not 0.0 < futility < 1.0:
            raise ValueError(f"futility must lie between 0 and 1, found {futility}")
        if not 1.0 <= design_effect < inf:
            raise ValueError(f"a design effect is finite and at least 1, found {design_effect}")
        if now.n >= self.n:
            return False
        share = futility / (len(self.sizes) - 1)
        return self._bound(self._optimistic(now, share, design_effect)) <= p_target

    def _optimistic(self, now: Evidence, futility: float, design_effect: float) -> Evidence:
        """Counts at n which in one of them or another will be bettered with probability at most `futility`."""
        parts = 5 if self.bound.misses else 3 if self.bound.audited else 1
        level = 1.0 - futility / parts
        hits = predictive_quantile(now.hits, now.n, self.n - now.n, level, design_effect)
        if not self.bound.audited:
            return Evidence(self.n, now.hits + hits)
        audited = binomial_quantile(level, hits, self.audit.share)
        agreed = predictive_quantile(now.audited - now.disagreed, now.audited, audited, level, design_effect)
        of_hits = now.hits + hits, now.audited + audited, now.disagreed + audited - agreed
        if not self.bound.misses:
            return Evidence(self.n, *of_hits)
        misses = binomial_quantile(level, self.n - now.n - hits, self.audit.share)
        found = predictive_quantile(now.found, now.audited_misses, misses, level, design_effect)
        return Evidence(self.n, *of_hits, now.audited_misses + misses, now.found + found)

    def verdict(
        self, read: Sequence[Evidence], p_targets: Sequence[float], futility: float = 0.01, design_effect: float = 1.0
    ) -> Verdict | None:
        """Why to stop after the last of these looks; None: go on to the next.

        `resolved`: p_lower is above every target, if there are any. `spent`: all n are drawn. `futile`: each remaining
        target is very unlikely to be passed. A target of 1/2 stands for radius 0: a point that is very unlikely to
        pass it abstains early. Raises ValueError as p_lower and futile do, and where there is no look.
        """
        if not read:
            raise ValueError("a verdict needs at least one look")
        bound = self.p_lower(read)
        open_targets = [target for target in p_targets if bound <= target]
        if p_targets and not open_targets:
            return "resolved"
        if read[-1].n == self.n:
            return "spent"
        if not p_targets:
            return None
        return "futile" if self.futile(read[-1], min(open_targets), futility, design_effect) else None

    def check(self, read: Sequence[Evidence]) -> None:
        """Raise ValueError for evidence that is not of planned looks in their order, or takes counts back."""
        sizes = tuple(evidence.n for evidence in read)
        if not set(sizes) <= set(self.sizes):
            raise ValueError(f"looks are planned at {self.sizes} samples, found counts at {sizes}")
        if not self.bound.audited and any(evidence.audited for evidence in read):
            raise ValueError(f"certificate {self.bound.name!r} is for samples of F itself, which need no audit")
        for before, after in pairwise((Evidence(0, 0), *read)):
            new = (
                after.n - before.n,
                after.hits - before.hits,
                after.audited - before.audited,
                after.disagreed - before.disagreed,
            )
            misses = new[0] - new[1], after.audited_misses - before.audited_misses, after.found - before.found
            if not (new[0] >= new[1] >= new[2] >= new[3] >= 0 and misses[0] >= misses[1] >= misses[2] >= 0):
                raise ValueError(
                    "between two looks at least as many samples as hits, hits as audited ones and audited as disagreed "
                    f"ones must be added, and so for misses, found {before} before {after}"
                )


@lru_cache(maxsize=65_536)
def _bound(bound: Bound, evidence: Evidence, alpha: float) -> float:
    return bound.p_lower(evidence, alpha)
