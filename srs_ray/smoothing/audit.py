"""The audit of serialized sampling: the base classifier, from zero, on a uniform random subset of the hits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.noise import NoisyPoint, Stage


@dataclass(frozen=True)
class Audit:
    """`disagreed` of the `audited` hits are not hits of the base classifier; the rest is what it cost, summed."""

    audited: int
    disagreed: int
    evaluations: int = 0
    fallbacks: int = 0
    unconverged: int = 0

    def __add__(self, other: Audit) -> Audit:
        return Audit(
            self.audited + other.audited,
            self.disagreed + other.disagreed,
            self.evaluations + other.evaluations,
            self.fallbacks + other.fallbacks,
            self.unconverged + other.unconverged,
        )


NO_AUDIT = Audit(0, 0)


def audit_hits(base: BaseClassifier, point: NoisyPoint, hits: np.ndarray, selected: int, audit: int) -> Audit:
    """Audits min(audit, |hits|) of the estimation samples `hits`, on which serialized sampling said `selected`.

    It runs when all chains have ended, and nothing of it flows back into them. The choice is uniform without
    replacement and independent of the noise, so that disagreements are hypergeometric given the hits.
    """
    return audit_samples(base, point, point.audit_choice(hits, audit), selected)


def audit_samples(
    base: BaseClassifier, point: NoisyPoint, numbers: np.ndarray, selected: int, stage: Stage = Stage.ESTIMATION
) -> Audit:
    """Audits these samples; one on which the base classifier has no finite answer is a disagreement."""
    if not len(numbers):
        return NO_AUDIT
    said = base.predict(point, stage, numbers)
    disagreed = int((said.classes_N != selected).sum())
    return Audit(len(numbers), disagreed, said.evaluations, said.fallbacks, said.unconverged)
