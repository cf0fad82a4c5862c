"""What a frame of points must say about its run: the settings behind every certificate, carried in `df.attrs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any

import pandas as pd

from srs_ray.errors import RunDirectoryError, SrsRayError
from srs_ray.lipschitz.settings import LIPSCHITZ, LipschitzCertificate
from srs_ray.runs.claims import law_of
from srs_ray.runs.fingerprint import differences, digest
from srs_ray.runs.printable import printable, printable_json
from srs_ray.smoothing.bounds import BOUNDS
from srs_ray.smoothing.law import Law
from srs_ray.smoothing.radius import certified_radius
from srs_ray.smoothing.samplers import SAMPLINGS, SamplingSettings
from srs_ray.smoothing.smoothing import Smoothing, smoothing_of

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
    data_digest: str | None = None  # of what makes an index mean an image, where the run's fingerprint says it
    deviation: float | None = None  # of noise on the image grid from its law, for a whole image; None: float noise
    certificate_settings: dict[str, dict[str, float]] = field(default_factory=dict)  # of the run's kind alone, by kind
    fingerprint_digest: str | None = None  # by which an attack names the run that it attacked
    candidate: str | None = None  # `label`, where no samples selected a class
    deterministic: dict[str, Any] | None = None  # the certificate's settings, where no samples are drawn

    @property
    def radius_cap(self) -> float:
        """The largest radius that counts give by this certificate, alpha, n and K; by an audit share a likely one."""
        return inf if self.deterministic else certified_radius(self.smoothing.plan.p_cap, self.sigma)

    @property
    def radius_cap_in_sigma(self) -> float:
        """`radius_cap` in units of sigma."""
        return inf if self.deterministic else certified_radius(self.smoothing.plan.p_cap, 1.0)

    @property
    def by_looks(self) -> bool:
        """Whether points were sampled only until their target radii were decided, so that their radii are floors."""
        return self.target_radii is not None

    def is_floor_at(self, radius: float) -> bool:
        """Whether certified accuracy at this radius is less than all n samples of each point might have given.

        By looks it is full at the target radii alone, up to the setting `futility`, and nowhere for another certificate
        or alpha than the one that sampling stopped by.
        """
        return self.target_radii is not None and (self.recomputed_from is not None or radius not in self.target_radii)

    @property
    def smoothing(self) -> Smoothing:
        """The run's noise, sampling and certificate, which know what they can earn and how to say it.

        SrsRayError for a run that draws no samples.
        """
        if self.deterministic is not None:
            raise SrsRayError(f"{self.name} is certified without noise: it has no samples to count anew or to project")
        sampling = {
            "method": self.method,
            "n0": self.n0,
            "n": self.n,
            "target_radii": self.target_radii,
            "looks": self.looks,
            "candidate": self.candidate,
            **({} if self.chains is None else {"chains": self.chains}),
        }
        audited = SAMPLINGS[self.method].audited
        audits = {"audit": self.audit, "audit_share": self.audit_share} if audited else {}
        certificate = {"kind": self.certificate, "alpha": self.alpha, **audits}
        certificate |= self.certificate_settings.get(self.certificate, {})
        return replace(smoothing_of(self.sigma, sampling, certificate), law=self.law)

    @property
    def margins(self) -> LipschitzCertificate | None:
        """The certificate of a run without samples; None of others."""
        return None if self.deterministic is None else LipschitzCertificate.model_validate(self.deterministic)

    @property
    def law(self) -> Law:
        """How the noise that was drawn stands to the Gaussian of the certificates."""
        return law_of(self.sigma, self.deviation)

    @property
    def sound(self) -> bool:
        """Whether the certificate promises anything, which has to be said wherever its numbers stand."""
        return self.deterministic is not None or BOUNDS[self.certificate].sound

    @classmethod
    def from_run(
        cls, path: str, job: Mapping[str, Any], points: Mapping[str, int], outside: int,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> RunInfo:  # fmt: skip
        """From a run directory's resolved job, its `points` and fingerprint.

        Raises RunDirectoryError that names a setting that is missing, or is another in the fingerprint than in the job.
        """
        if setting_of(job, "certificate").get("kind") == LIPSCHITZ:
            return _deterministic(path, job, points, outside, fingerprint or {})
        smoothing = _smoothing_of(job)
        arch, kind = _name_of(job, "model.arch"), _name_of(job, "data.kind")
        if fingerprint is not None:
            _refuse_other_settings(job, smoothing, fingerprint)
        sampling, audits = smoothing.sampling, smoothing.certificate.audits
        reference = sampling.reference
        tolerance = None if reference is None else reference.tolerance
        base = "" if reference is None else reference.title
        split = setting_of(job, "data").get("split")
        return cls(
            name=_last_part(path),
            path=path,
            arch=arch,
            data=" ".join(filter(None, [kind, split])),
            method=sampling.method_name,
            setting=_title(sampling, base, fingerprint or {}),
            reference=(base or arch) + ("" if tolerance is None else f", tolerance {tolerance:g}"),
            sigma=smoothing.sigma,
            n0=sampling.n0,
            n=sampling.n,
            chains=sampling.at_once,
            certificate=smoothing.certificate.kind,
            alpha=smoothing.certificate.alpha,
            audit=getattr(smoothing.certificate, "audit", 0),
            start=points["start"],
            stop=points["stop"],
            every=points["every"],
            asked=len(range(points["start"], points["stop"], points["every"])),
            outside=outside,
            audit_share=audits.share or None,
            target_radii=None if sampling.target_radii is None else list(sampling.target_radii),
            looks=None if sampling.looks is None else sampling.looks.model_dump(),
            data_digest=_data_digest(fingerprint or {}),
            fingerprint_digest=None if fingerprint is None else digest(fingerprint),
            deviation=(fingerprint or {}).get("noise.deviation"),
            candidate=sampling.candidate,
            certificate_settings={smoothing.certificate.kind: own} if (own := smoothing.certificate.own) else {},
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


def _deterministic(
    path: str, job: Mapping[str, Any], points: Mapping[str, int], outside: int, fingerprint: Mapping[str, Any]
) -> RunInfo:
    """Of a run without samples: what belongs to these is 0."""
    try:
        certificate = LipschitzCertificate.model_validate(setting_of(job, "certificate"))
    except ValueError as error:
        raise RunDirectoryError(f"run.json holds no certificate: {error}") from error
    arch, kind = _name_of(job, "model.arch"), _name_of(job, "data.kind")
    here = {"model.arch": arch, **certificate.fingerprint()}
    changed = [
        f"{name} {fingerprint[name]!r}" for name in here if name in fingerprint and fingerprint[name] != here[name]
    ]
    if changed:
        said = printable("; ".join(changed))
        raise RunDirectoryError(f"run.json contradicts itself ({said} in its fingerprint alone)")
    return RunInfo(
        name=_last_part(path),
        path=path,
        arch=arch,
        data=" ".join(filter(None, [kind, setting_of(job, "data").get("split")])),
        method="none",
        setting="deterministic",
        reference="the exact equilibrium",
        sigma=0.0,
        n0=0,
        n=0,
        chains=None,
        certificate=certificate.kind,
        alpha=0.0,
        audit=0,
        start=points["start"],
        stop=points["stop"],
        every=points["every"],
        asked=len(range(points["start"], points["stop"], points["every"])),
        outside=outside,
        data_digest=_data_digest(fingerprint),
        deterministic=certificate.model_dump(),
    )


def _last_part(path: str) -> str:
    return printable((path.partition("?")[0] if "://" in path else path).rstrip("/").rsplit("/", 1)[-1])


# What certificates rest on and tables say: where run.json lacks it, a default of today would pass for the run's own.
_STATED = ("sampling.n0", "sampling.n", "certificate.kind", "certificate.alpha")
_STATED_OF_AUDITED = ("sampling.chains", "sampling.solver", "sampling.steps", "certificate.audit")
_STATED_OF_ARCHITECTURES = tuple(f"sampling.reference.{name}" for name in ("solver", "steps", "tolerance"))


def _smoothing_of(job: Mapping[str, Any]) -> Smoothing:
    kind = SAMPLINGS.get(setting_of(job, "sampling.method"))
    audited = () if kind is None or not kind.audited else _STATED_OF_AUDITED
    chains = [name for name in audited if kind is None or name.partition(".")[2] in ("audit", *kind.model_fields)]
    reference = _STATED_OF_ARCHITECTURES if "arch" in setting_of(job, "model") else ()
    for name in (*_STATED, *chains, *reference):
        setting_of(job, name)
    sections = setting_of(job, "noise.sigma"), setting_of(job, "sampling"), setting_of(job, "certificate")
    try:
        smoothing = smoothing_of(*sections)
    except (ValueError, ArithmeticError) as error:
        raise RunDirectoryError(f"run.json holds settings that do not go together: {error}") from error
    for name in smoothing.certificate.own:
        setting_of(job, f"certificate.{name}")
    return smoothing


def _refuse_other_settings(job: Mapping[str, Any], smoothing: Smoothing, fingerprint: Mapping[str, Any]) -> None:
    """RunDirectoryError where the job, which tables tell of, is not that of the fingerprint."""
    here = smoothing.fingerprint()
    for section, name in _NAMES:
        value = setting_of(job, section).get(name)
        if value is not None and (section, name) != ("data", "kind"):
            here[f"{section}.{name}"] = value.rsplit("/", 1)[-1] if name == "import" else value
    here["data.kind"] = "import" if "data.import" in here else setting_of(job, "data").get("kind")
    there = {
        name: printable_json(value)
        for name, value in fingerprint.items()
        if name in here or name.startswith(_SMOOTHING) or (name in _DOTTED and name != _MAY_BE_LEFT_OUT)
    }
    former = (f"sampling.{name}" for name in smoothing.sampling.former)
    ignored = {"sampling.version", *former}
    changed = [each for each in differences(there, here) if each[0] not in ignored]
    if changed:
        said = "; ".join(
            f"{printable(name)}: {was} in its fingerprint, {now} in its job" for name, was, now in changed[:4]
        )
        raise RunDirectoryError(f"run.json contradicts itself ({said}): it has been edited; restore it from a copy")


def _title(sampling: SamplingSettings, reference: str, fingerprint: Mapping[str, Any]) -> str:
    """The method as the literature writes it; of a run by an older version, as that version was written."""
    former = fingerprint.get("sampling.version", sampling.version) < sampling.version
    return (sampling.former_title if former else sampling.title)(reference).strip()


_SMOOTHING = ("sampling.", "certificate.")
_NAMES = (("model", "arch"), ("model", "import"), ("data", "kind"), ("data", "import"), ("data", "split"))
_DOTTED = tuple(map(".".join, _NAMES))
_MAY_BE_LEFT_OUT = "data.split"  # of a job that takes its kind's usual one

# The entries of a fingerprint that tell images and labels from others, whatever a model's preprocessing makes of them.
_OF_DATA = (
    "kind",
    "split",
    "points",
    "classes",
    "content",
    "image_column",
    "label_column",
    "import",
    "identity",
    "args",
)


def _data_digest(fingerprint: Mapping[str, Any]) -> str | None:
    entries = {
        name: value
        for name, value in fingerprint.items()
        if name.startswith("data.") and name.split(".")[1] in _OF_DATA
    }
    return digest(entries) if entries else None


def _name_of(job: Mapping[str, Any], dotted: str) -> str:
    """What a section is called in the package's own lists, or what it imports, by the last part of its path."""
    section = setting_of(job, dotted.partition(".")[0])
    if "import" in section:
        return str(section["import"]).rsplit("/", 1)[-1]
    return str(setting_of(job, dotted))


def report_radii(job: Mapping[str, Any]) -> list[float]:
    """The radii that a job's tables show; RunDirectoryError where it names none."""
    radii = setting_of(job, "report.radii")
    if not isinstance(radii, list) or not radii:
        raise RunDirectoryError(f"run.json names no radii for tables (report.radii is {radii!r})")
    return radii


def setting_of(job: Mapping[str, Any], dotted: str) -> Any:
    """The job's setting of that dotted name; RunDirectoryError naming it where there is none."""
    value: Any = job
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise RunDirectoryError(f"run.json holds no setting {dotted}: was it written by srs-ray, and is it whole?")
        value = value[key]
    return value
