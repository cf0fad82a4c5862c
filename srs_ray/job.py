"""A certification job: the sections of a job file together. `srs_ray.job_file` reads the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from srs_ray.attacks.settings import AttackSettings
from srs_ray.data.settings import DataSettings
from srs_ray.errors import JobError
from srs_ray.execution import ExecutionSettings
from srs_ray.lipschitz.settings import LIPSCHITZ, LipschitzCertificate
from srs_ray.models.families import family_of
from srs_ray.models.settings import ArchitectureSettings, ModelSettings
from srs_ray.settings import PathOrName, Radius, Settings
from srs_ray.smoothing.certificate import Certificate
from srs_ray.smoothing.law import NoiseSettings
from srs_ray.smoothing.samplers import Sampling
from srs_ray.smoothing.smoothing import Smoothing, certificate_defaults, check_together, sampling_defaults
from srs_ray.solvers.settings import SolverSettings

if TYPE_CHECKING:  # job files are read without torch
    from srs_ray.models.opened import Opened
    from srs_ray.models.opening import ModelSource


Targets = dict[Radius, Annotated[float, Field(gt=0, le=1)]]


class ReportSettings(Settings):
    """The radii that tables of this run show; the run warns before it starts if it cannot earn one of them."""

    radii: tuple[Radius, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
        description="Radii of the run's tables, in pixel units of [0, 1]; default with `sampling.target_radii`: these.",
    )
    targets: Targets | None = Field(
        None,
        description="Wanted certified accuracy by radius, such as {0.5: 0.35}; a run warns once it cannot be met.",
    )

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Stored jobs of older runs, which know no targets, stay equal."""
        return {name: value for name, value in serialize(self).items() if value is not None}


class Job(Settings):
    """A certification, as `srs-ray certify` runs it."""

    model: ModelSettings = Field(description="The model.")
    data: DataSettings = Field(description="The points.")
    noise: NoiseSettings = Field(description="The noise.")
    sampling: Sampling = Field(description="How noisy samples are drawn.")
    certificate: Certificate = Field(description="How counts become a radius.")
    execution: ExecutionSettings = Field(ExecutionSettings(), description="Where and how the job runs.")
    report: ReportSettings = Field(ReportSettings(), description="What tables show.")
    attack: AttackSettings | None = Field(
        None,
        description="What `srs-ray attack` tries on the points; certification takes no notice. null: the defaults.",
    )
    output: PathOrName = Field(description="The run directory: a path, or a URI such as s3://bucket/run.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_follows(cls, raw: Any) -> Any:
        """Defaults that depend on another section: the model's solver, the sampling's certificate."""
        if not isinstance(raw, Mapping):
            return raw
        raw = {**raw}
        sampling, certificate = raw.get("sampling"), raw.get("certificate", {})
        if isinstance(sampling, Mapping):
            if isinstance(certificate, Mapping):
                raw["certificate"] = certificate_defaults(sampling, certificate)
            raw["sampling"] = sampling_defaults(sampling, _reference_of(raw.get("model")))
            report = raw.get("report", {})
            if sampling.get("target_radii") is not None and ("report" not in raw or _names_targets_alone(report)):
                raw["report"] = {"radii": sampling["target_radii"], **report}
        return raw

    @model_validator(mode="after")
    def _sampling_and_certificate_go_together(self) -> Job:
        check_together(self.sampling, self.certificate)
        return self

    @property
    def sigma(self) -> float | None:
        """The noise of a row."""
        return self.noise.sigma

    @property
    def samples(self) -> int:
        """The most samples of a point."""
        return self.sampling.n0 + self.sampling.n

    @property
    def smoothing(self) -> Smoothing:
        """Noise, sampling and certificate together. ValueError where no plan can be made of them."""
        return Smoothing(self.noise.sigma, self.sampling, self.certificate)


class LipschitzJob(Settings):
    """A certification without noise, of a model with proved Lipschitz constants, as `srs-ray certify` runs it."""

    model: ArchitectureSettings = Field(description="The model: a monotone architecture.")
    data: DataSettings = Field(description="The points.")
    certificate: LipschitzCertificate = Field(description="How margins become a radius.")
    execution: ExecutionSettings = Field(
        ExecutionSettings(device="cpu"), description="Where and how the job runs: in float64, on CPUs."
    )
    report: ReportSettings = Field(ReportSettings(), description="What tables show.")
    output: PathOrName = Field(description="The run directory: a path, or a URI such as s3://bucket/run.")

    @model_validator(mode="before")
    @classmethod
    def _takes_no_noise(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        for section in ("noise", "sampling"):
            if section in raw:
                raise ValueError(f"{section}: certificate.kind lipschitz draws no samples: leave the section out")
        execution = raw.get("execution", {})
        if isinstance(execution, Mapping) and execution.get("device", "auto") == "auto":
            return {**raw, "execution": {**execution, "device": "cpu"}}
        return raw

    @model_validator(mode="after")
    def _runs_on_a_cpu(self) -> LipschitzJob:
        if self.execution.device != "cpu":
            raise ValueError(
                "execution.device: certificate.kind lipschitz is computed in float64 on CPUs: leave it out"
            )
        return self

    @property
    def sigma(self) -> None:
        """There is no noise."""
        return None

    @property
    def samples(self) -> int:
        """None are drawn."""
        return 0


AnyJob = Job | LipschitzJob


def kind_of_job(raw: Any) -> type[Job] | type[LipschitzJob]:
    """Which of the two a raw job is, by its certificate."""
    certificate = raw.get("certificate") if isinstance(raw, Mapping) else None
    lipschitz = isinstance(certificate, Mapping) and certificate.get("kind") == LIPSCHITZ
    return LipschitzJob if lipschitz else Job


def _names_targets_alone(report: Any) -> bool:
    return isinstance(report, Mapping) and set(report) == {"targets"}


def _reference_of(model: Any) -> dict[str, Any] | None:
    """The solver setting of the base classifier that the raw section `model` names or implies."""
    if not isinstance(model, Mapping):
        return None
    given = model.get("reference")
    if given is not None:
        return dict(given) if isinstance(given, Mapping) else None
    try:
        reference = family_of(str(model.get("arch"))).reference_of(str(model.get("arch")))
    except ValueError:
        return None
    return {"solver": reference.solver, "steps": reference.steps}


def completed(job: Job, source: ModelSource) -> Job:
    """The job with the solver settings that only its model can tell.

    Raises JobError where the model lacks a part that the sampling method needs, and for solver settings of a model
    that has no equilibrium.
    """
    from srs_ray.models.opened import lacking_start
    from srs_ray.smoothing.judge import lacking_parts

    sampling = job.sampling
    missing = [part for part in sampling.needs if part not in source.parts]
    if missing:
        raise JobError(lacking_parts(source.label, sampling.method_name, sampling.needs, missing))
    if not source.parts:
        if sampling.reference is not None:
            raise JobError(
                f"sampling.reference is a solver setting of an equilibrium, and {source.label} has none: leave it out"
            )
        return job
    if sampling.reference is not None and sampling.reference.start and not source.has_start:
        raise JobError(lacking_start(source.label))
    found: dict[str, Any] = {}
    if sampling.reference is None:
        reference = source.reference
        found["reference"] = SolverSettings(
            solver=reference.solver.name, steps=reference.steps, tolerance=reference.tolerance
        )
    if getattr(sampling, "solver", "") is None:
        found["solver"] = source.reference.solver.name
    return job.model_copy(update={"sampling": sampling.model_copy(update=found)})


def open_job_model(job: Job, source: ModelSource, device: str) -> Opened:
    """The job's model on that device, with the base classifier that the job asks for."""
    reference = job.sampling.reference
    return source.open(device, job.execution.dtype).with_reference(None if reference is None else reference.setting())
