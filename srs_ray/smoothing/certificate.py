"""The job's section `certificate`: which bound, at which error probability, with which audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag

from srs_ray.settings import Probability, Settings
from srs_ray.smoothing.audit import MISS_SHARE, AuditRule, BothSides, Fixed, Share, ShareOfAll
from srs_ray.smoothing.bounds import BOUNDS, Bound, bound_named, weighted_bound
from srs_ray.smoothing.bounds.two_sided import TWO_SIDED
from srs_ray.smoothing.bounds.weighted import WEIGHT, WEIGHTED


def _known_bound(name: str) -> str:
    return bound_named(name).name


class CertificateSettings(Settings):
    """The bound and its error probability."""

    kind: Annotated[str, AfterValidator(_known_bound)] = Field(
        description=f"Bound: {', '.join(f'`{name}`' for name in BOUNDS)}. The default is `exact` for audited samples, "
        "`cohen` for standard sampling, `mixture` for standard sampling with target radii."
    )
    alpha: Probability = Field(0.001, description="Error probability of one certificate.")

    @property
    def bound(self) -> Bound:
        """The bound that `kind` names."""
        return BOUNDS[self.kind]

    @property
    def audits(self) -> AuditRule:
        """The rule by which hits are audited."""
        return Fixed(0)

    @property
    def own(self) -> dict[str, Any]:
        """The settings that this kind has and other kinds of its samples have not."""
        return {}


class UnauditedCertificate(CertificateSettings):
    """For standard sampling. `cohen`: Clopper-Pearson's bound; `mixture`: a bound that holds at every sample count."""

    @property
    def audit(self) -> int:
        """Standard sampling needs none."""
        return 0

    @property
    def audit_share(self) -> float | None:
        """Nor this."""
        return None


class AuditedCertificate(CertificateSettings):
    """`exact`, `union`, `paper`, `released`: counts of `srs`, `anchored` or `auto`, corrected by an audit of K hits.

    With target radii a share of the hits (tau) is audited instead; `auto` chooses it for each point.
    """

    audit: int = Field(400, ge=0, description="K, the audited hits of a point; with target radii: 0.")
    audit_share: float | None = Field(
        None, gt=0, le=1, description="With target radii: share of the hits that are audited; srs and anchored: 0.15."
    )

    @property
    def audits(self) -> AuditRule:
        return Fixed(self.audit) if self.audit_share is None else Share(self.audit_share)


class WeightedCertificate(AuditedCertificate):
    """`weighted`: as `exact`, with a weight (lambda) on the samples' test."""

    weight: float = Field(
        WEIGHT, gt=0, le=1, description="Weight of the samples' test against the audit's; 1 is `exact`."
    )

    @property
    def bound(self) -> Bound:
        return weighted_bound(self.weight)

    @property
    def own(self) -> dict[str, Any]:
        return {"weight": self.weight}


class TwoSidedCertificate(AuditedCertificate):
    """The certificate `two-sided`: of the `audit` (K) audits, the share `miss_share` is of samples that are no hits.

    With target radii a share of all samples is audited, `audit_share` (tau), and there is no `miss_share`; elsewhere
    None is the usual one.
    """

    miss_share: float | None = Field(
        None, gt=0, lt=1, description="Share of the K audits spent on misses; 0.15 unless there are target radii."
    )

    @property
    def audits(self) -> AuditRule:
        if self.audit_share is not None:
            return ShareOfAll(self.audit_share)
        return BothSides(self.audit, MISS_SHARE if self.miss_share is None else self.miss_share)

    @property
    def own(self) -> dict[str, Any]:
        return {} if self.miss_share is None else {"miss_share": self.miss_share}


def _section_for(raw: Any) -> str:
    kind = raw.get("kind") if isinstance(raw, Mapping) else getattr(raw, "kind", None)
    if kind == WEIGHTED.name:
        return "(weighted)"
    if kind == TWO_SIDED.name:
        return "(two-sided)"
    bound = BOUNDS.get(kind) if isinstance(kind, str) else None
    return "(unaudited)" if bound is not None and not bound.audited else "(audited)"


CERTIFICATES = (UnauditedCertificate, AuditedCertificate, WeightedCertificate, TwoSidedCertificate)
Certificate = Annotated[
    Annotated[UnauditedCertificate, Tag("(unaudited)")]
    | Annotated[AuditedCertificate, Tag("(audited)")]
    | Annotated[WeightedCertificate, Tag("(weighted)")]
    | Annotated[TwoSidedCertificate, Tag("(two-sided)")],
    Discriminator(_section_for),
]
