"""What a job's certificate can earn at most, said before the run starts and with what would be enough."""

from __future__ import annotations

from scipy.special import ndtr

from srs_ray.errors import JobError
from srs_ray.job import Job
from srs_ray.smoothing.certificates import certified_radius, p_cap, smallest_audit, smallest_n
from srs_ray.smoothing.looks import capping_certificate, plan_of_looks, target_p

BFLOAT16_RESIDUAL = 4e-3  # what solves in it hardly get below: half a unit of its last place


def check_feasible(job: Job) -> list[str]:
    """Warnings about radii, tabulated or targets, that n, K and alpha cannot earn, and a tolerance no solve reaches.

    JobError where nothing can be earned, and for looks or target radii that no plan can be made of.
    """
    _check_looks(job)
    sigma, cap, settings = job.noise.sigma, radius_cap(job), sampling_limits(job)
    kind = capping_certificate(job.sampling.method, job.certificate.kind)
    if cap == 0:
        raise JobError(
            f"certificate {kind} with {settings} can certify nothing: "
            f"even if every sample agrees, its bound stays at 1/2 or below; {_enough(job, 0.5)}"
        )
    beyond = sorted({radius for radius in (*job.report.radii, *(job.sampling.target_radii or ())) if radius > cap})
    warnings = []
    tolerance = job.sampling.reference.tolerance
    if job.execution.dtype == "bfloat16" and tolerance is not None and tolerance < BFLOAT16_RESIDUAL:
        warnings.append(
            f"in bfloat16 residuals stay at about 3e-3: with sampling.reference.tolerance {tolerance:g} every run of "
            f"the base classifier takes all of its {job.sampling.reference.steps} steps; 0.01 lets it stop"
        )
    if not beyond:
        return warnings
    shown = ", ".join(f"{radius:g}" for radius in beyond)
    return [
        *warnings,
        f"certificate {kind} with {settings} caps the radius at {cap:.3g} ({cap / sigma:.3g} sigma): "
        f"no point can be certified at the {'radii' if len(beyond) > 1 else 'radius'} {shown}; "
        f"for {max(beyond):g}, {_enough(job, float(ndtr(max(beyond) / sigma)))}",
    ]


def radius_cap(job: Job) -> float:
    """The largest radius that a point of the job can earn, all samples hits and all audited ones agreeing; 0: none."""
    certificate, sampling = job.certificate, job.sampling
    if sampling.looks is None:
        p = p_cap(certificate.kind, sampling.n, certificate.audit, certificate.alpha)
    else:
        share = certificate.audit_share or 0.0
        kind = capping_certificate(sampling.method, certificate.kind)
        p = plan_of_looks(kind, certificate.alpha, sampling.n, sampling.looks.model_dump(), share).p_cap
    return certified_radius(p, job.noise.sigma)


def _check_looks(job: Job) -> None:
    sampling, certificate = job.sampling, job.certificate
    if sampling.looks is None:
        return
    try:
        for radius in sampling.target_radii or ():
            target_p(radius, job.noise.sigma)
    except ValueError as error:
        raise JobError(f"sampling.target_radii: {error}") from error
    share = 0.5 if sampling.method == "auto" else certificate.audit_share or 0.0
    try:
        plan_of_looks(certificate.kind, certificate.alpha, sampling.n, sampling.looks.model_dump(), share)
    except ValueError as error:
        raise JobError(f"sampling.looks: {error}") from error


def sampling_limits(job: Job) -> str:
    """n, K or the audits' share, and alpha, in words."""
    certificate = job.certificate
    audit = f", K = {certificate.audit:,}" if certificate.audit else ""
    audit = audit if certificate.audit_share is None else f", audits of {certificate.audit_share:.0%} of the hits"
    return f"n = {job.sampling.n:,}{audit}, alpha = {certificate.alpha:g}"


def _enough(job: Job, p: float) -> str:
    """Which K, or else which n, lets the bound exceed p."""
    kind, alpha, n = job.certificate.kind, job.certificate.alpha, job.sampling.n
    if job.sampling.looks is not None:
        audits = " or a larger share of audits (certificate.audit_share)" if job.sampling.method == "srs" else ""
        return f"more samples (sampling.n){audits} may be enough"
    if kind == "cohen":
        least = smallest_n(kind, alpha, 0, p)
        return f"sampling.n of {least:,} would be enough" if least else "no sampling.n is enough"
    audit = smallest_audit(kind, n, alpha, p)
    if audit is not None:
        return f"certificate.audit of {audit:,} would be enough"
    least = smallest_n(kind, alpha, job.certificate.audit, p)
    if least is not None:
        return f"sampling.n of {least:,} would be enough"
    return "no certificate.audit is enough at this n, and no sampling.n at this K: raise both"
