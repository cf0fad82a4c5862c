"""The job's sections `noise`, `sampling` and `certificate`: how a point is sampled and certified."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from srs_ray.settings import Probability, Radius, Settings
from srs_ray.solvers.settings import SolverName, SolverSettings

AuditedKind = Literal["exact", "union", "paper", "released"]


class NoiseSettings(Settings):
    """Gaussian noise in pixel units of [0, 1]. The generator follows the device where it is `auto`."""

    sigma: float = Field(gt=0)
    generator: Literal["auto", "philox4x64", "philox4x32"] = "auto"


class LookSettings(Settings):
    """When a point is looked at before all n samples are drawn: at sizes from `first` on that grow by `growth` up to n.

    alpha is spent over the looks as (n_j / n)^power; a radius is given up when the risk that all n samples would have
    certified it is at most `futility`. docs/statistics.md says why the certificate holds whenever sampling ends.
    """

    first: int = Field(100, ge=1)
    growth: float = Field(1.25, gt=1)
    power: float = Field(2.0, gt=0)
    futility: float = Field(0.01, gt=0, lt=1)


class _Sampling(Settings):
    """What all ways of sampling share: n0 samples select the class, n estimate its rate.

    With `target_radii` n is the most that is drawn: a point is done when each of them is certified or futile. A point
    is an error if more than a share `max_nonfinite` of the samples of a stage have no finite logits.
    """

    n0: int = Field(100, ge=1)
    n: int = Field(10_000, ge=1)
    target_radii: Annotated[tuple[Radius, ...], Field(min_length=1)] | None = None
    looks: LookSettings | None = None
    max_nonfinite: float = Field(0.1, ge=0, le=1)
    reference: SolverSettings

    @model_validator(mode="after")
    def _has_looks_for_targets(self) -> Self:
        if self.looks is not None and self.target_radii is None:
            raise ValueError("looks are for target_radii: name these, or leave looks out")
        return self


class StandardSampling(_Sampling):
    """Every noisy sample is solved from zero by the reference solver (Cohen et al. 2019)."""

    method: Literal["standard"]


class _Chains(_Sampling):
    chains: int = Field(400, ge=1)
    solver: SolverName
    steps: int = Field(3, ge=1)
    warmup_steps: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _warms_up(self) -> Self:
        if self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) is below steps ({self.steps}); expected no less")
        return self


class SerializedSampling(_Chains):
    """Chains of samples, each solve starting from the last (Gao et al. 2024); the reference solver audits them."""

    method: Literal["srs"]


class AutoSampling(_Chains):
    """`srs` or `standard` for each point, as its selection samples speak for; it needs `target_radii`.

    Where that is expected to lose more than a share `most_lost` of the targets, the cheaper way is not taken.
    """

    method: Literal["auto"]
    most_lost: float = Field(0.02, ge=0, le=1)


class UnauditedCertificate(Settings):
    """On the counts of standard sampling: Clopper-Pearson's bound, or `mixture`, which holds at every sample size."""

    kind: Literal["cohen", "mixture"]
    alpha: Probability = 0.001

    @property
    def audit(self) -> int:
        """Standard sampling needs none."""
        return 0

    @property
    def audit_share(self) -> float | None:
        """Nor this."""
        return None


class AuditedCertificate(Settings):
    """A certificate on the counts of serialized sampling, corrected by an audit of `audit` (K) of its hits.

    With target radii it is a share of them instead, `audit_share` (tau); `auto` chooses that for each point.
    """

    kind: AuditedKind
    alpha: Probability = 0.001
    audit: int = Field(400, ge=0)
    audit_share: float | None = Field(None, gt=0, le=1)
