"""Every setting of a job with its type, its default and its check, in one place; `srs_ray.job_file` reads the files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.solvers.iteration import SolverSetting

SolverName = Literal["naive", "anderson", "broyden"]
DataKind = Literal["cifar10", "imagenet", "imagefolder", "parquet", "digits"]
AuditedKind = Literal["exact", "union", "paper", "released"]


def _known_architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"no such architecture; there are {', '.join(ARCHITECTURES)}")
    return name


def _number(value: object) -> object:
    """Fractions such as 36/255 are how the field writes radii of 8-bit images."""
    try:
        return float(Fraction(value)) if isinstance(value, str) and "/" in value else value
    except (ValueError, ArithmeticError) as error:
        raise ValueError("not a fraction of two whole numbers, the second above 0") from error


def _usable_path(text: str) -> str:
    if not text or b"\0" in os.fsencode(text):
        raise ValueError("a path or name has at least one character, and no NUL among them")
    return text


def _share_that_ray_grants(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        raise ValueError("Ray shares one GPU only; above 1, expected a whole number")
    if abs(gpus - round(gpus, 4)) > 1e-9:
        raise ValueError("Ray shares a GPU by ten-thousandths; expected a multiple of 0.0001")
    return gpus


Architecture = Annotated[str, AfterValidator(_known_architecture)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Radius = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
PathOrName = Annotated[str, AfterValidator(_usable_path)]


class Settings(BaseModel):
    """One section of a job; a setting it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_no_boolean(cls, raw: Any) -> Any:
        """Pydantic would take true for the number 1."""
        for name, value in raw.items() if isinstance(raw, Mapping) else ():
            if any(isinstance(item, bool) for item in (value if isinstance(value, list | tuple) else [value])):
                raise ValueError(f"{name}: found {value!r}: no setting is true or false; expected a number or a name")
        return raw


class ModelSettings(Settings):
    """What is certified. `weights` is a checkpoint file or the name of weights that ship with the package."""

    arch: Architecture
    weights: PathOrName


class DataSettings(Settings):
    """Where points come from, and which of them: start, start + every, ... below stop (null: to the end)."""

    kind: DataKind
    path: PathOrName | None = None
    split: PathOrName | None = None
    start: int = Field(0, ge=0)
    stop: int | None = Field(None, ge=0)
    every: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _has_a_path(self) -> DataSettings:
        if self.path is None and self.kind != "digits":
            raise ValueError(f"data of kind {self.kind} needs a path (data.path); only digits does without")
        return self


class NoiseSettings(Settings):
    """Gaussian noise in pixel units of [0, 1]. The generator follows the device where it is `auto`."""

    sigma: float = Field(gt=0)
    generator: Literal["auto", "philox4x64", "philox4x32"] = "auto"


class SolverSettings(Settings):
    """A solver, its steps, and the relative residual at which a sample stops (null: never)."""

    solver: SolverName
    steps: int = Field(ge=1)
    tolerance: float | None = Field(1e-3, gt=0)

    def setting(self) -> SolverSetting:
        """The value that the solver loop takes."""
        return SolverSetting.named(self.solver, self.steps, self.tolerance)


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


class ExecutionSettings(Settings):
    """Where and how the job runs. Of these only dtype and seed can change a count.

    `batch` is how many samples go through the network at once. A long run with `auto` measures which is fastest, on one
    worker at its first start, and keeps to that; run.json has it.

    With dtype bfloat16 the network computes in it: another F, whose solves do not get below a residual of some 3e-3.

    A point that takes longer than `point_seconds` becomes an error row (null: it may take any time). Let that be more
    than a minute on a cluster: a node that is lost is silent for as long until Ray knows, and its points seem slow.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    gpus_per_worker: Annotated[float, AfterValidator(_share_that_ray_grants)] = Field(1.0, gt=0)
    cpus_per_worker: int = Field(1, ge=1)
    batch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    attempts: int = Field(3, ge=1)
    point_seconds: float | None = Field(None, gt=0)
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0, lt=2**63)


class ReportSettings(Settings):
    """The radii that tables of this run show; the run warns before it starts if it cannot earn one of them."""

    radii: tuple[Radius, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


class Job(Settings):
    """A certification, as `srs-ray certify` runs it."""

    model: ModelSettings
    data: DataSettings
    noise: NoiseSettings
    sampling: Annotated[StandardSampling | SerializedSampling | AutoSampling, Field(discriminator="method")]
    certificate: Annotated[UnauditedCertificate | AuditedCertificate, Field(discriminator="kind")]
    execution: ExecutionSettings = ExecutionSettings()
    report: ReportSettings = ReportSettings()
    output: PathOrName

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_follows(cls, raw: Any) -> Any:
        """Defaults that depend on another section: the architecture's solver, the method's certificate."""
        if not isinstance(raw, Mapping):
            return raw
        raw = {**raw}
        model, sampling, certificate = raw.get("model"), raw.get("sampling"), raw.get("certificate", {})
        arch = ARCHITECTURES.get(str(model.get("arch"))) if isinstance(model, Mapping) else None
        if isinstance(sampling, Mapping):
            method, by_looks = sampling.get("method"), sampling.get("target_radii") is not None
            serialized = method in ("srs", "auto")
            if isinstance(certificate, Mapping):
                given = {"audit": 0, **({"audit_share": 0.15} if method == "srs" else {})} if by_looks else {}
                independent = "mixture" if by_looks else "cohen"
                raw["certificate"] = {
                    "kind": "exact" if serialized else independent,
                    **(given if serialized and certificate.get("kind") not in ("cohen", "mixture") else {}),
                    **certificate,
                }
            if by_looks:
                sampling = {**sampling, "looks": {} if sampling.get("looks") is None else sampling["looks"]}
                raw["sampling"] = sampling
                if "report" not in raw:
                    raw["report"] = {"radii": sampling["target_radii"]}
            if arch is not None:
                name = arch.reference.solver.name
                sampling = {"reference": {}, **({"solver": name} if serialized else {}), **sampling}
                if isinstance(sampling["reference"], Mapping):
                    sampling["reference"] = {"solver": name, "steps": arch.reference.steps, **sampling["reference"]}
                raw["sampling"] = sampling
        return raw

    @model_validator(mode="after")
    def _certificate_suits_the_sampling(self) -> Job:
        sampling, certificate = self.sampling, self.certificate
        by_looks = sampling.target_radii is not None
        allowed = _certificates_of(sampling.method, by_looks)
        if certificate.kind not in allowed:
            raise ValueError(
                f"certificate.kind {certificate.kind} does not go with sampling.method {sampling.method} "
                f"{'and' if by_looks else 'without'} target_radii, which takes {' or '.join(allowed)}"
            )
        if sampling.method == "auto" and not by_looks:
            raise ValueError("sampling.method auto needs sampling.target_radii")
        if by_looks and certificate.audit:
            instead = "which auto chooses for each point" if sampling.method == "auto" else "certificate.audit_share"
            raise ValueError(
                f"certificate.audit is {certificate.audit}: with target_radii a share of the hits is audited instead, "
                f"{instead}; leave audit out, or set it to 0"
            )
        shared = certificate.audit_share is not None
        if shared != (by_looks and sampling.method == "srs"):
            raise ValueError(
                f"certificate.audit_share is {certificate.audit_share}: sampling.method srs with target_radii "
                "needs one, and nothing else has it (auto chooses it for each point)"
            )
        return self


def _certificates_of(method: str, by_looks: bool) -> tuple[str, ...]:
    if method == "standard":
        return ("mixture", "cohen") if by_looks else ("cohen",)
    return ("exact", "union", "paper") if by_looks else ("exact", "union", "paper", "released")
