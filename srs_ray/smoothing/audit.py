"""The audit of a sampler's hits, and of its misses: which the base classifier is run on, and what it said."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import TYPE_CHECKING, Protocol

import numpy as np

from srs_ray.smoothing.domain import Domain

if TYPE_CHECKING:  # results are read without torch
    from srs_ray.smoothing.base_classifier import BaseClassifier
    from srs_ray.smoothing.noise import NoisyPoint

MISS_SHARE = 0.15  # of K audits; measured in docs/statistics.md


@dataclass(frozen=True)
class Audit:
    """`disagreed` of the `audited` hits are not hits of the base classifier, `found` of the `audited_misses` are.

    The rest is what it cost, summed.
    """

    audited: int
    disagreed: int
    evaluations: int = 0
    fallbacks: int = 0
    unconverged: int = 0
    audited_misses: int = 0
    found: int = 0

    def __add__(self, other: Audit) -> Audit:
        return Audit(
            self.audited + other.audited,
            self.disagreed + other.disagreed,
            self.evaluations + other.evaluations,
            self.fallbacks + other.fallbacks,
            self.unconverged + other.unconverged,
            self.audited_misses + other.audited_misses,
            self.found + other.found,
        )


NO_AUDIT = Audit(0, 0)


class AuditRule(Protocol):
    """How many of a sampler's hits are audited, and which: fixed before the run, and blind to what audits say."""

    @property
    def share(self) -> float:
        """The share of hits that is audited whatever their number; 0 where that is not the rule."""
        ...

    def due(self, point: NoisyPoint, hit_N: np.ndarray) -> np.ndarray:
        """The numbers of the estimation samples to audit, ascending, given which of the samples so far are hits."""
        ...

    def due_misses(self, point: NoisyPoint, hit_N: np.ndarray) -> np.ndarray:
        """The same among the samples that are no hits."""
        ...

    def expected(self, hits: int, misses: int) -> tuple[int, int]:
        """How many of so many hits and of so many misses are audited on average, rounded down."""
        ...

    def at_most(self, hits: int) -> int:
        """A likely upper limit of how many of so many hits are audited."""
        ...

    def halved(self) -> AuditRule | None:
        """A rule with half of the audits; None where there are none to halve."""
        ...

    def kept_by(self, fewer: AuditRule, audited: int) -> float:
        """The share of a point's `audited` hits that the rule with fewer audits would leave."""
        ...

    @property
    def settings(self) -> dict[str, int | float]:
        """The rule as settings of a job's section `certificate`."""
        ...

    def describe(self) -> str:
        """In words, for the line that stands beside every number."""
        ...


@dataclass(frozen=True)
class Fixed:
    """K of the hits, or all if they are fewer, chosen when all samples are drawn; K = 0: none.

    The choice is uniform without replacement and independent of the noise, so that disagreements are hypergeometric
    given the hits.
    """

    audit: int = 0
    share = 0.0

    def __post_init__(self) -> None:
        if self.audit < 0:
            raise ValueError(f"audit is {self.audit}, expected at least 0")

    def due(self, point: NoisyPoint, hit_N: np.ndarray) -> np.ndarray:
        hits = np.flatnonzero(hit_N)
        return point.audit_choice(hits, self.audit) if self.audit else hits[:0]

    def due_misses(self, point: NoisyPoint, hit_N: np.ndarray) -> np.ndarray:
        return np.empty(0, dtype=np.int64)

    def expected(self, hits: int, misses: int) -> tuple[int, int]:
        return min(self.audit, hits), 0

    def at_most(self, hits: int) -> int:
        return min(self.audit, hits)

    def halved(self) -> Fixed | None:
        return Fixed(self.audit // 2) if self.audit > 1 else None

    def kept_by(self, fewer: AuditRule, audited: int) -> float:
        return fewer.at_most(audited) / audited if audited else 1.0

    @property
    def settings(self) -> dict[str, int | float]:
        return {"audit": self.audit}

    def describe(self) -> str:
        return f"K = {self.audit:,}" if self.audit else "no audit"


@dataclass(frozen=True)
class BothSides(Fixed):
    """Of K audits, a share `miss_share`, rounded down, is of misses (all if they are fewer), the rest of hits.

    Misses are chosen as hits are, and independently of these.
    """

    miss_share: float = MISS_SHARE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.miss_share < 1.0:
            raise ValueError(f"the misses' share of audits is {self.miss_share}, expected above 0 and below 1")

    def due(self, point: NoisyPoint, hit_N: np.ndarray) -> np.ndarray:
        hits = np.flatnonzero(hit_N)
        return point.audit_choice(hits, self.expected(len(hits), len(hit_N) - len(hits))[0])

    def due_misses(self, point: NoisyPoint, hit_N: np.ndarray) -> np.ndarray:
        misses = np.flatnonzero(~hit_N)
        return point.audit_choice(misses, self.expected(len(hit_N) - len(misses), len(misses))[1], Domain.MISS_CHOICE)

    def expected(self, hits: int, misses: int) -> tuple[int, int]:
        of_misses = min(floor(self.audit * self.miss_share), misses)
        return min(self.audit - of_misses, hits), of_misses

    def halved(self) -> BothSides | None:
        return BothSides(self.audit // 2, self.miss_share) if self.audit > 1 else None

    @property
    def settings(self) -> dict[str, int | float]:
        return {"audit": self.audit, "miss_share": self.miss_share}

    def describe(self) -> str:
        return f"K = {self.audit:,}, {self.miss_share:.0%} of it of misses"


@dataclass(frozen=True)
class Share:
    """Each hit whose permanent random number lies below `share` (tau), so that looks find the audits of earlier ones.

    Given how many hits are audited by a look, they are a uniform choice of the hits so far.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"the audit share is {self.share}, expected above 0, up to 1")

    def due(self, point: NoisyPoint, hit_N: np.ndarray) -> np.ndarray:
        return np.flatnonzero(hit_N & (point.audit_uniforms(len(hit_N)) < self.share))

    def due_misses(self, point: NoisyPoint, hit_N: np.ndarray) -> np.ndarray:
        return np.empty(0, dtype=np.int64)

    def expected(self, hits: int, misses: int) -> tuple[int, int]:
        return floor(hits * self.share), 0

    def at_most(self, hits: int) -> int:
        """More come about with a probability of some 1e-4."""
        spread = 4.0 * sqrt(hits * self.share * (1.0 - self.share))
        return min(hits, ceil(hits * self.share + spread))

    def halved(self) -> Share:
        return Share(self.share / 2)

    def kept_by(self, fewer: AuditRule, audited: int) -> float:
        return fewer.share / self.share

    @property
    def settings(self) -> dict[str, int | float]:
        return {"audit_share": self.share}

    def describe(self) -> str:
        return f"audits of {self.share:.0%} of the hits"


@dataclass(frozen=True)
class ShareOfAll(Share):
    """Each sample, hit or not, whose permanent random number lies below `share` (tau).

    Given how many hits and how many misses are audited by a look, they are uniform choices, independent of each other,
    of the hits and of the misses so far.
    """

    def due_misses(self, point: NoisyPoint, hit_N: np.ndarray) -> np.ndarray:
        return self.due(point, ~hit_N)

    def expected(self, hits: int, misses: int) -> tuple[int, int]:
        return floor(hits * self.share), floor(misses * self.share)

    def halved(self) -> ShareOfAll:
        return ShareOfAll(self.share / 2)

    def describe(self) -> str:
        return f"audits of {self.share:.0%} of the samples"


def audit_samples(base: BaseClassifier, point: NoisyPoint, numbers: np.ndarray, selected: int) -> Audit:
    """Audits these samples, on which the sampler said `selected`.

    One on which the base classifier has no finite answer is a disagreement. Nothing of it flows back into a sampler.
    """
    if not len(numbers):
        return NO_AUDIT
    said = base.predict(point, Domain.ESTIMATION, numbers)
    disagreed = int((said.classes_N != selected).sum())
    return Audit(len(numbers), disagreed, said.evaluations, said.fallbacks, said.unconverged)


def audit_misses(base: BaseClassifier, point: NoisyPoint, numbers: np.ndarray, selected: int) -> Audit:
    """Audits these samples, on which the sampler did not say `selected`.

    One on which the base classifier has no finite answer is not found. Nothing of it flows back into a sampler.
    """
    if not len(numbers):
        return NO_AUDIT
    said = base.predict(point, Domain.ESTIMATION, numbers)
    found = int((said.classes_N == selected).sum())
    return Audit(0, 0, said.evaluations, said.fallbacks, said.unconverged, len(numbers), found)
