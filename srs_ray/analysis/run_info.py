"""What a frame of points must say about its run: the settings behind every certificate, carried in `df.attrs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from srs_ray.errors import RunDirectoryError, SrsRayError
from srs_ray.smoothing.certificates import SOUND, certified_radius, p_cap
from srs_ray.smoothing.looks import capping_certificate, plan_of_looks

ATTRIBUTE = "run"  # the key in `df.attrs`


@dataclass(frozen=True)
class RunInfo:
    """The settings of one run that tables, plots and radii need; sigma and radii in pixel units of [0, 1]."""

    name: str  # last part of the run directory's path
    path: str
    arch: str
    data: str  # "cifar10 test"
    method: str  # srs | standard | auto
    setting: str  # as in the paper: "SRS 3A", "standard 30A"
    reference: str  # the base classifier F that the certificates speak of: "30A, tolerance 0.001"
    sigma: float
    n0: int
    n: int
    chains: int | None  # None for standard
    certificate: str
    alpha: float
    audit: int  # K; 0 for standard, and where a share is audited
    start: int
    stop: int
    every: int
    asked: int  # points in start, stop, every
    outside: int  # finished points of the run directory that start, stop, every leave out
    recomputed_from: str | None = None  # the run's own certificate, where this frame's was computed afterwards
    audit_share: float | None = None  # tau, of a run of srs by looks
    target_radii: list[float] | None = None  # of a run by looks
    looks: dict[str, float] | None = None  # its first, growth, power and futility

    @property
    def radius_cap(self) -> float:
        """The largest radius that counts give by this certificate, alpha, n and K (by a share: hardly ever more)."""
        return certified_radius(self._p_cap, self.sigma)

    @property
    def radius_cap_in_sigma(self) -> float:
        """`radius_cap` in units of sigma."""
        return certified_radius(self._p_cap, 1.0)

    @property
    def _p_cap(self) -> float:
        if self.looks is None:
            return p_cap(self.certificate, self.n, self.audit, self.alpha)
        kind = capping_certificate(self.method, self.certificate)
        return plan_of_looks(kind, self.alpha, self.n, self.looks, self.audit_share or 0.0).p_cap

    @property
    def sound(self) -> bool:
        """Whether the certificate promises anything, which has to be said wherever its numbers stand."""
        return self.certificate in SOUND or self.certificate == "mixture"

    @classmethod
    def from_run(cls, path: str, job: Mapping[str, Any], points: Mapping[str, int], outside: int) -> RunInfo:
        """From a run directory's resolved job and its `points`; RunDirectoryError names a setting that is missing."""
        method = setting_of(job, "sampling.method")
        srs = method in ("srs", "auto")
        sampling = setting_of(job, "sampling")
        reference = _solver_name(job, "sampling.reference")
        tolerance = setting_of(job, "sampling.reference.tolerance")
        split = setting_of(job, "data").get("split")
        return cls(
            name=(path.partition("?")[0] if "://" in path else path).rstrip("/").rsplit("/", 1)[-1],
            path=path,
            arch=setting_of(job, "model.arch"),
            data=" ".join(filter(None, [setting_of(job, "data.kind"), split])),
            method=method,
            setting=_setting_name(job, method, reference),
            reference=reference if tolerance is None else f"{reference}, tolerance {tolerance:g}",
            sigma=setting_of(job, "noise.sigma"),
            n0=setting_of(job, "sampling.n0"),
            n=setting_of(job, "sampling.n"),
            chains=setting_of(job, "sampling.chains") if srs else None,
            certificate=setting_of(job, "certificate.kind"),
            alpha=setting_of(job, "certificate.alpha"),
            audit=setting_of(job, "certificate.audit") if srs else 0,
            start=points["start"],
            stop=points["stop"],
            every=points["every"],
            asked=len(range(points["start"], points["stop"], points["every"])),
            outside=outside,
            audit_share=setting_of(job, "certificate").get("audit_share"),
            target_radii=sampling.get("target_radii"),
            looks=sampling.get("looks"),
        )

    @classmethod
    def of(cls, df: pd.DataFrame) -> RunInfo:
        """The run that a frame came from; SrsRayError where pandas could not keep it (frames of two runs joined)."""
        if ATTRIBUTE not in df.attrs:
            raise SrsRayError(
                "the frame does not say which run it came from (df.attrs has no 'run'); "
                "pass frames of load_points or recertify, one for each run"
            )
        return cls(**df.attrs[ATTRIBUTE])

    def attach(self, df: pd.DataFrame) -> None:
        """Put these settings into `df.attrs`, as plain JSON values so that pandas can write them to Parquet."""
        df.attrs[ATTRIBUTE] = asdict(self)


def _setting_name(job: Mapping[str, Any], method: str, reference: str) -> str:
    if method == "standard":
        return f"standard {reference}"
    serialized = f"SRS {_solver_name(job, 'sampling')}"
    return f"auto {serialized} / {reference}" if method == "auto" else serialized


def _solver_name(job: Mapping[str, Any], section: str) -> str:
    """Steps and the solver's initial, as the paper writes it: 3A, 30A, 1N, 14B."""
    return f"{setting_of(job, section + '.steps')}{setting_of(job, section + '.solver')[0].upper()}"


def setting_of(job: Mapping[str, Any], dotted: str) -> Any:
    """The job's setting of that dotted name; RunDirectoryError naming it where there is none."""
    value: Any = job
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise RunDirectoryError(f"run.json holds no setting {dotted}: was it written by srs-ray, and is it whole?")
        value = value[key]
    return value
