"""A certification job: the sections of a job file together. `srs_ray.job_file` reads the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from srs_ray.data.settings import DataSettings
from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.settings import ModelSettings
from srs_ray.runner.settings import ExecutionSettings
from srs_ray.settings import PathOrName, Radius, Settings
from srs_ray.smoothing.settings import (
    AuditedCertificate,
    AutoSampling,
    NoiseSettings,
    SerializedSampling,
    StandardSampling,
    UnauditedCertificate,
)


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
