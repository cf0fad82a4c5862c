"""`auto`: for each point, serialized or standard sampling, as its selection samples speak for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from srs_ray.smoothing.audit import Audit, AuditRule, Share, ShareOfAll, audit_samples
from srs_ray.smoothing.bounds import EXACT, MIXTURE, Bound, Evidence
from srs_ray.smoothing.certificate import CertificateSettings
from srs_ray.smoothing.choice import Way, choose
from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.plan import Goal, Plan
from srs_ray.smoothing.samplers.sampler import Sampler, Selection
from srs_ray.smoothing.samplers.serialized import ChainSettings

if TYPE_CHECKING:  # results are read without torch
    from srs_ray.smoothing.base_classifier import BaseClassifier
    from srs_ray.smoothing.noise import NoisyPoint

AUDIT_SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)  # candidate audit shares; one is chosen for each point
SELECTION_AUDITS = 16  # selection hits that are audited to choose by


class AutoSampling(ChainSettings):
    """`srs` or `standard` for each point, as its selection samples speak for; it needs `target_radii`.

    The cheaper method is used only if it is expected to lose at most a share `most_lost` of the target radii.
    """

    method: Literal["auto"] = "auto"
    most_lost: float = Field(0.02, ge=0, le=1)

    @model_validator(mode="after")
    def _has_targets(self) -> AutoSampling:
        if self.target_radii is None:
            raise ValueError("sampling.method auto needs sampling.target_radii")
        return self

    def plan(self, certificate: CertificateSettings) -> Plan:
        """That of standard sampling, whose bound is the largest. ValueError if any of the ways has none."""
        return self.ways(certificate, 1.0)[0].plan

    def ways(self, certificate: CertificateSettings, reference_evaluations: float) -> list[Way]:
        """How a point may be certified, where one run of the base classifier costs that much.

        By the certificate, and where that audits misses too, by `exact` as well.
        """
        steps, own = float(self.steps), certificate.bound
        audits: list[tuple[Bound, AuditRule]] = [(own, Share(share)) for share in AUDIT_SHARES]
        if own.misses:
            audits = [(EXACT, audit) for _, audit in audits] + [(own, ShareOfAll(share)) for share in AUDIT_SHARES]
        plans = (self.plan_by(bound, certificate, audit) for bound, audit in audits)
        serialized = [Way(plan, steps, reference_evaluations, self.warmup_steps - steps, self.chains) for plan in plans]
        return [Way(self.plan_by(MIXTURE, certificate), reference_evaluations), *serialized]

    def decide(
        self, certificate: CertificateSettings, goal: Goal, base: BaseClassifier, point: NoisyPoint, sampler: Sampler,
        selection: Selection,
    ) -> tuple[Sampler, Plan, Audit]:  # fmt: skip
        """An audit of some selection hits decides; only those that continue a chain say how often chains disagree."""
        from srs_ray.smoothing.samplers.independent import StandardSampler

        hits = selection.hits
        chained = hits[hits >= self.chains]
        audited = (chained if len(chained) else hits)[-SELECTION_AUDITS:]
        audit = audit_samples(base, point, audited, selection.selected, Domain.SELECTION)
        cost = audit.evaluations / audit.audited if audit.audited else float(base.setting.steps)
        disagreement = (audit.audited, audit.disagreed) if len(chained) else (0, 0)
        shown = Evidence(self.n0, len(hits), *disagreement)
        plan = choose(self.ways(certificate, cost), shown, goal, self.most_lost).plan
        return sampler if plan.bound.audited else StandardSampler(base, point), plan, audit

    def describe_audit(self, certificate: CertificateSettings) -> str:
        return f"audits of a share of the {'samples or of the hits' if certificate.bound.misses else 'hits'}"

    def title(self, reference: str) -> str:
        return f"auto {self.chain_title} / {reference}"
