"""`auto`: chooses standard sampling or few steps from the anchor, for each point by its selection samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from srs_ray.smoothing.audit import AuditRule, Share, ShareOfAll
from srs_ray.smoothing.bounds import EXACT, MIXTURE, Bound
from srs_ray.smoothing.certificate import CertificateSettings
from srs_ray.smoothing.choice import Shown, Way, choose
from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.plan import Goal, Plan
from srs_ray.smoothing.samplers.anchored import ANCHOR_SAMPLES
from srs_ray.smoothing.samplers.sampler import Cost, Row, Sampler, SamplingSettings, Selection
from srs_ray.smoothing.samplers.standard import STANDARD
from srs_ray.solvers.settings import SolverName, solver_title

if TYPE_CHECKING:  # results are read without torch
    from srs_ray.smoothing.base_classifier import BaseClassifier
    from srs_ray.smoothing.noise import NoisyPoint

AUDIT_SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)  # candidate audit shares; one is chosen for each point
MOST_STEPS = 3  # from the anchor: 1, 2 or 3
COMPARED = 32  # selection samples on which few steps are held against the base classifier


class AutoSampling(SamplingSettings):
    """`standard` or `anchored`, chosen for each point by its selection samples; it needs `target_radii`.

    The base classifier selects. `anchored` takes 1 to 3 steps and one of several audit shares. It is used only if it is
    cheaper and expected to lose at most a share `most_lost` of the target radii.
    """

    needs: ClassVar[tuple[str, ...]] = ("inject", "f", "head")
    audited: ClassVar[bool] = True
    version: ClassVar[int] = 8
    former: ClassVar[tuple[str, ...]] = ("chains", "steps", "warmup_steps")

    method: Literal["auto"] = Field("auto", description="Sampling method.")
    solver: SolverName | None = Field(None, description="Solver from the anchor; default: the reference's.")
    most_lost: float = Field(
        0.02, ge=0, le=1, description="Largest expected share of the target radii that a cheaper method may lose."
    )
    chains: int | None = Field(None, ge=1, description="Read for runs of an older version; without effect.")
    steps: int | None = Field(None, ge=1, description="Read for runs of an older version; without effect.")
    warmup_steps: int | None = Field(None, ge=1, description="Read for runs of an older version; without effect.")

    @model_validator(mode="after")
    def _has_targets(self) -> AutoSampling:
        if self.target_radii is None:
            raise ValueError("sampling.method auto needs sampling.target_radii")
        return self

    def sampler(self, base: BaseClassifier, point: NoisyPoint) -> Sampler:
        from srs_ray.smoothing.samplers.anchor import AnchoredSampler
        from srs_ray.solvers.iteration import SolverSetting

        assert self.solver is not None
        return AnchoredSampler(base, point, SolverSetting.named(self.solver, MOST_STEPS))

    def plan(self, certificate: CertificateSettings) -> Plan:
        """That of standard sampling, whose bound is the largest. ValueError if any of the ways has none."""
        return self.ways(certificate, 1.0)[0].plan

    def ways(self, certificate: CertificateSettings, reference_evaluations: float) -> list[Way]:
        """How a point may be certified, where one run of the base classifier costs that much.

        By the certificate, and where that audits misses too, by `exact` as well.
        """
        own = certificate.bound
        audits: list[tuple[Bound, AuditRule]] = [(own, Share(share)) for share in AUDIT_SHARES]
        if own.misses:
            audits = [(EXACT, audit) for _, audit in audits] + [(own, ShareOfAll(share)) for share in AUDIT_SHARES]
        plans = [self.plan_by(bound, certificate, audit) for bound, audit in audits]
        anchored = [
            Way(plan, float(steps), reference_evaluations, steps)
            for steps in range(1, MOST_STEPS + 1)
            if steps < reference_evaluations
            for plan in plans
        ]  # fmt: skip
        return [Way(self.plan_by(MIXTURE, certificate), reference_evaluations), *anchored]

    def decide(
        self, certificate: CertificateSettings, goal: Goal, base: BaseClassifier, point: NoisyPoint, sampler: Sampler,
        selection: Selection,
    ) -> tuple[Sampler, Plan, Cost]:  # fmt: skip
        """Some of the samples whose mean the anchor is are solved again from it, in few steps, and these decide.

        With the label as candidate the samples are the anchor's own.
        """
        from srs_ray.smoothing.samplers.anchor import AnchoredSampler
        from srs_ray.smoothing.samplers.independent import StandardSampler

        assert isinstance(sampler, AnchoredSampler)
        hit_N, cost, domain = selection.hit_N, Cost(), Domain.SELECTION
        per_run = selection.evaluations / max(len(hit_N), 1)
        if self.candidate is not None:
            said, domain = sampler.take_anchor(), Domain.ANCHOR
            hit_N, cost = said.classes_N == selection.selected, Cost.of(said)
            per_run = said.evaluations / len(hit_N)
        numbers = np.arange(len(hit_N))[-COMPARED:]
        few_SN = sampler.said_by_steps(domain, numbers) == selection.selected
        cost += Cost(MOST_STEPS * len(numbers))
        there_N = hit_N[numbers]
        shown = Shown(
            len(hit_N),
            int(hit_N.sum()),
            compared=tuple((few_SN.sum(axis=1) + there_N.sum()).tolist()),
            differed=tuple((few_SN != there_N).sum(axis=1).tolist()),
        )
        way = choose(self.ways(certificate, per_run), shown, goal, self.most_lost)
        return sampler.by_steps(way.steps) if way.steps else StandardSampler(base, point), way.plan, cost

    def describe_audit(self, certificate: CertificateSettings) -> str:
        return f"audits of a share of the {'samples or of the hits' if certificate.bound.misses else 'hits'}"

    def fault_of(self, method: str | None, steps: int | None, audit_share: float | None) -> str | None:
        """See `SamplingSettings.fault_of`: of the methods that it chooses among."""
        if method == STANDARD:
            return None if not audit_share and steps is None else f"audit_share {audit_share}, of standard sampling"
        if method != "anchored":
            return f"method {method!r}, which auto does not choose"
        known = audit_share in AUDIT_SHARES and steps is not None and 1 <= steps <= MOST_STEPS
        return None if known else f"audit_share {audit_share} and steps {steps}, which auto does not choose"

    def title(self, reference: str) -> str:
        return f"auto, 1 to {solver_title(self.solver or '?', MOST_STEPS)} from the anchor / {reference}"

    def former_title(self, reference: str) -> str:
        if self.steps is None:
            return self.title(reference)
        return f"auto SRS {solver_title(self.solver or '?', self.steps)} / {reference}"

    def price(self, row: Row) -> tuple[float, int]:
        if row["method"] != STANDARD:
            return super().price(row)
        made_by = ANCHOR_SAMPLES if self.candidate else row["n0"]
        return row["function_evaluations"] - MOST_STEPS * min(COMPARED, made_by), made_by + row["n"]

    def evaluations_of(self, row: Row, n: int) -> float:
        steps = row.get("steps")
        if row["method"] == STANDARD or steps is None:
            return super().evaluations_of(row, n)
        return row["function_evaluations"] - (row["n"] - n) * steps
