"""The job's section `certificate`: which bound, at which error probability, with which audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag

from srs_ray.settings import Probability, Settings
from srs_ray.smoothing.audit import AuditRule, Fixed, Share
from srs_ray.smoothing.bounds import BOUNDS, Bound, bound_named


def _known_bound(name: str) -> str:
    return bound_named(name).name


class CertificateSettings(Settings):
    """Which bound, one of BOUNDS by its name `kind`, at which error probability alpha."""

    kind: Annotated[str, AfterValidator(_known_bound)]
    alpha: Probability = 0.001

    @property
    def bound(self) -> Bound:
        """The bound that `kind` names."""
        return BOUNDS[self.kind]

    @property
    def audits(self) -> AuditRule:
        """The rule by which hits are audited."""
        return Fixed(0)


class UnauditedCertificate(CertificateSettings):
    """On the counts of standard sampling: Clopper-Pearson's bound, or `mixture`, which holds at every sample size."""

    @property
    def audit(self) -> int:
        """Standard sampling needs none."""
        return 0

    @property
    def audit_share(self) -> float | None:
        """Nor this."""
        return None


class AuditedCertificate(CertificateSettings):
    """A certificate on the counts of serialized sampling, corrected by an audit of `audit` (K) of its hits.

    With target radii it is a share of them instead, `audit_share` (tau); `auto` chooses that for each point.
    """

    audit: int = Field(400, ge=0)
    audit_share: float | None = Field(None, gt=0, le=1)

    @property
    def audits(self) -> AuditRule:
        return Fixed(self.audit) if self.audit_share is None else Share(self.audit_share)


def _section_for(raw: Any) -> str:
    kind = raw.get("kind") if isinstance(raw, Mapping) else getattr(raw, "kind", None)
    bound = BOUNDS.get(kind) if isinstance(kind, str) else None
    return "(unaudited)" if bound is not None and not bound.audited else "(audited)"


Certificate = Annotated[
    Annotated[UnauditedCertificate, Tag("(unaudited)")] | Annotated[AuditedCertificate, Tag("(audited)")],
    Discriminator(_section_for),
]
