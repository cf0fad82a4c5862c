"""How points are certified by randomized smoothing: the noise, the sampling and the certificate together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from srs_ray.settings import flattened
from srs_ray.smoothing.audit import MISS_SHARE, Fixed
from srs_ray.smoothing.bounds import BOUNDS, fitting_bounds
from srs_ray.smoothing.certificate import Certificate, CertificateSettings
from srs_ray.smoothing.law import Law
from srs_ray.smoothing.plan import Goal, Plan
from srs_ray.smoothing.radius import certified_radius
from srs_ray.smoothing.samplers import SAMPLINGS, Sampling, SamplingSettings

Section = TypeVar("Section")
_SAMPLING: TypeAdapter[SamplingSettings] = TypeAdapter(Sampling)
_CERTIFICATE: TypeAdapter[CertificateSettings] = TypeAdapter(Certificate)


MAY_BE_UNSET = ("target_radii", "looks", "audit_share", "miss_share", "reference", "candidate", "start")


@dataclass(frozen=True)
class Smoothing:
    """Noise `sigma` in pixel units of [0, 1], how samples are drawn, and the certificate on their counts.

    `law` is how what is drawn stands to that noise, where a generator has told it. Raises ValueError for settings that
    do not go together.
    """

    sigma: float
    sampling: SamplingSettings
    certificate: CertificateSettings
    law: Law | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "sigma", float(self.sigma))  # also of numpy's numbers
        except TypeError:
            raise ValueError(f"sigma is {self.sigma!r}, expected a number") from None
        if not 0 < self.sigma < inf:
            raise ValueError(f"sigma is {self.sigma}, expected above 0 and finite")
        check_together(self.sampling, self.certificate)
        _ = self.plan, self.goal  # which refuse what no plan can be made of

    @cached_property
    def plan(self) -> Plan:
        """The plan of a point's estimation; of several, the one with the largest bound."""
        return self.sampling.plan(self.certificate)

    @cached_property
    def goal(self) -> Goal:
        """The bounds to pass for the target radii."""
        goal = self.sampling.goal(self.drawn.sigma)
        return replace(goal, p_targets=tuple(map(self.drawn.p_drawn, goal.p_targets)))

    @property
    def drawn(self) -> Law:
        """How what is drawn stands to the noise; as it should, where no generator has told it yet."""
        return self.law or Law(self.sigma)

    def radius(self, p_lower: float) -> float:
        """The l2 radius that a lower bound on p_A under Gaussian noise earns; 0.0: abstain."""
        return certified_radius(p_lower, self.drawn.sigma)

    @property
    def radius_cap(self) -> float:
        """The largest radius that a point can earn, all samples hits and all audited ones agreeing; 0: none."""
        return certified_radius(self.plan.p_cap, self.sigma)

    @property
    def limits(self) -> str:
        """n, K or the audits' share, and alpha, in words."""
        none = self.certificate.audits == Fixed(0) and self.sampling.default_audit_share is not None
        words = "" if none or not self.sampling.audited else f", {self.sampling.describe_audit(self.certificate)}"
        return f"n = {self.sampling.n:,}{words}, alpha = {self.certificate.alpha:g}"

    def describe(self) -> str:
        """Bound, alpha, n, audit, and the radius that they cap: the line that stands beside every number."""
        n = f"looks at up to n = {self.sampling.n:,}" if self.sampling.by_looks else f"n = {self.sampling.n:,}"
        audit = self.sampling.describe_audit(self.certificate)
        cap = "no counts could certify any radius"
        if self.radius_cap > 0:
            in_sigma = certified_radius(self.plan.p_cap, 1.0)
            cap = f"radius capped at {in_sigma:.2f} sigma = {self.radius_cap:.3g} (sigma = {self.sigma:g})"
        return f"{self.certificate.bound.label}, alpha = {self.certificate.alpha:g}, {n}, {audit}: {cap}"

    def guarantee(self, base_classifier: str) -> str:
        """The promise of one certificate, or that it promises nothing."""
        bound, caveat = self.certificate.bound, self.drawn.caveat
        if not bound.sound:
            return (
                f"none; the certificate '{bound.name}' is UNSOUND: it can certify radii above the true ones, "
                "and serves only to reproduce published tables"
            )
        return (
            f"each certificate is right with probability at least 1 - alpha = {1 - self.certificate.alpha:g} "
            f"(for the base classifier F = {base_classifier}{', ' * bool(caveat)}{caveat})"
        )

    def fingerprint(self) -> dict[str, Any]:
        """The settings that can change a count or a bound, by dotted name; those that may be unset, where set.

        Without those that are read for the sake of older runs alone.
        """
        sections = {"sampling": self.sampling.model_dump(), "certificate": self.certificate.model_dump()}
        flat: dict[str, Any] = {"noise.sigma": self.sigma}
        for section, settings in sections.items():
            flat |= flattened(section, settings)
        left_out = {f"sampling.{name}" for name in self.sampling.former}
        return {
            name: value
            for name, value in flat.items()
            if name not in left_out and (value is not None or name.rpartition(".")[2] not in MAY_BE_UNSET)
        }


def smoothing_of(sigma: float, sampling: Mapping[str, Any], certificate: Mapping[str, Any]) -> Smoothing:
    """From raw sections `sampling` and `certificate`, as job files and run directories hold them.

    Raises ValueError that names the first setting that is wrong.
    """
    sections = _section("sampling", _SAMPLING, sampling), _section("certificate", _CERTIFICATE, certificate)
    return Smoothing(sigma, *sections)


def _section(name: str, kinds: TypeAdapter[Section], raw: Mapping[str, Any]) -> Section:
    try:
        return kinds.validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([name, *map(str, first["loc"][1:])])  # the first part is the kind of section
        message, found = first["msg"].removeprefix("Value error, "), first["input"]
        shown = "" if isinstance(found, Mapping) else f", found {found!r}"
        raise ValueError(f"{place}: {message}{shown}") from error


def sampling_defaults(sampling: Mapping[str, Any], reference: Mapping[str, Any] | None) -> dict[str, Any]:
    """A raw section `sampling` with the solvers of the model: that of its base classifier, and of chains."""
    kind = SAMPLINGS.get(str(sampling.get("method")))
    if reference is None or kind is None:
        return dict(sampling)
    solver = {"solver": reference["solver"]} if "solver" in kind.model_fields and "solver" in reference else {}
    own = sampling.get("reference")
    if own is None or isinstance(own, Mapping):
        return {**solver, **sampling, "reference": {**reference, **(own or {})}}
    return {**solver, **sampling}


def certificate_defaults(sampling: Mapping[str, Any], certificate: Mapping[str, Any]) -> dict[str, Any]:
    """A raw section `certificate` with the defaults that depend on the raw section `sampling`."""
    kind_of_sampling = SAMPLINGS.get(str(sampling.get("method")))
    if kind_of_sampling is None:
        return dict(certificate)
    by_looks, audited = sampling.get("target_radii") is not None, kind_of_sampling.audited
    usual = {"kind": fitting_bounds(audited=audited, by_looks=by_looks)[0].name, **certificate}
    bound = BOUNDS.get(str(usual["kind"]))
    if by_looks and audited and (bound is None or bound.audited):
        share = kind_of_sampling.default_audit_share
        return {"audit": 0, **({} if share is None else {"audit_share": share}), **usual}
    return {"miss_share": MISS_SHARE, **usual} if bound is not None and bound.misses else usual


def check_together(sampling: SamplingSettings, certificate: CertificateSettings) -> None:
    """Raise ValueError where the certificate is not for samples of that kind, or its audit not of that way."""
    method, by_looks = sampling.method_name, sampling.by_looks
    allowed = [bound.name for bound in fitting_bounds(audited=sampling.audited, by_looks=by_looks)]
    if certificate.kind not in allowed:
        raise ValueError(
            f"certificate.kind {certificate.kind} does not go with sampling.method {method} "
            f"{'and' if by_looks else 'without'} target_radii, which takes {' or '.join(allowed)}"
        )
    shares = by_looks and sampling.default_audit_share is not None
    audit, share = getattr(certificate, "audit", 0), getattr(certificate, "audit_share", None)
    if by_looks and audit:
        instead = "certificate.audit_share" if shares else "which auto chooses for each point"
        raise ValueError(
            f"certificate.audit is {audit}: with target_radii a share of the hits is audited instead, "
            f"{instead}; take audit out of the job file, or --set certificate.audit=0"
        )
    miss_share = getattr(certificate, "miss_share", None)
    if by_looks and miss_share is not None:
        raise ValueError(
            f"certificate.miss_share is {miss_share}: with target_radii each sample, hit or not, is audited with the "
            "same probability; take miss_share out of the job file"
        )
    if (share is not None) != shares:
        raise ValueError(
            f"certificate.audit_share is {share}: sampling.method srs with target_radii "
            "needs one, and nothing else has it (auto chooses it for each point)"
        )
