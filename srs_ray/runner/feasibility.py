"""What a job's certificate can earn at most, said before the run starts and with what would be enough."""

from __future__ import annotations

from scipy.special import ndtr

from srs_ray.errors import JobError
from srs_ray.job import AnyJob, Job, LipschitzJob
from srs_ray.smoothing.limits import smallest_audit, smallest_n

MANY = 10**9  # hits: more than any run has
BFLOAT16_RESIDUAL = 4e-3  # half a unit of its last place: solves stay above it


def check_feasible(job: AnyJob) -> list[str]:
    """Warnings about radii, tabulated or targets, that n, K and alpha cannot earn, and a tolerance no solve reaches.

    JobError where nothing can be earned, and for looks or target radii that no plan can be made of.
    """
    if isinstance(job, LipschitzJob):
        return []
    try:
        job.sampling.goal(job.noise.sigma)
    except ValueError as error:
        raise JobError(f"sampling.target_radii: {error}") from error
    try:
        smoothing = job.smoothing
    except ValueError as error:
        raise JobError(f"sampling.looks: {error}") from error
    sigma, cap, kind = smoothing.sigma, smoothing.radius_cap, smoothing.plan.bound.name
    if cap == 0:
        raise JobError(
            f"certificate {kind} with {smoothing.limits} can certify nothing: "
            f"even if every sample agrees, its bound stays at 1/2 or below; {_enough(job, 0.5)}"
        )
    asked = (*job.report.radii, *(job.report.targets or ()), *(job.sampling.target_radii or ()))
    beyond = sorted({radius for radius in asked if radius > cap})
    warnings = []
    reference = job.sampling.reference
    tolerance = None if reference is None else reference.tolerance
    if reference is not None and job.execution.dtype == "bfloat16" and tolerance and tolerance < BFLOAT16_RESIDUAL:
        warnings.append(
            f"in bfloat16 residuals stay at about 3e-3: with sampling.reference.tolerance {tolerance:g} every run of "
            f"the base classifier takes all of its {reference.steps} steps; 0.01 lets it stop"
        )
    chains = job.sampling.at_once
    if chains is not None and chains >= job.sampling.n:
        warnings.append(
            f"sampling.chains is {chains:,} and sampling.n {job.sampling.n:,}: no chain gets past its warm-up, and its "
            "samples are audited besides; sampling.method standard is cheaper, or fewer chains"
        )
    if job.sampling.without_effect:
        names = ", ".join(f"sampling.{name}" for name in job.sampling.without_effect)
        warnings.append(f"without effect, since method {job.sampling.method_name} samples otherwise now: {names}")
    if not beyond:
        return warnings
    shown = ", ".join(f"{radius:g}" for radius in beyond)
    return [
        *warnings,
        f"certificate {kind} with {smoothing.limits} caps the radius at {cap:.3g} ({cap / sigma:.3g} sigma): "
        f"no point can be certified at the {'radii' if len(beyond) > 1 else 'radius'} {shown}; "
        f"for {max(beyond):g}, {_enough(job, float(ndtr(max(beyond) / sigma)))}",
    ]


def _enough(job: Job, p: float) -> str:
    """Which K, or else which n, lets the bound exceed p."""
    certificate, sampling = job.certificate, job.sampling
    bound, alpha = certificate.bound, certificate.alpha
    if sampling.by_looks:
        by_share = certificate.audits.share > 0
        audits = " or a larger share of audits (certificate.audit_share)" if by_share else ""
        return f"more samples (sampling.n){audits} may be enough"
    if not bound.audited:
        least = smallest_n(bound, alpha, 0, p)
        return f"sampling.n of {least:,} would be enough" if least else "no sampling.n is enough"
    audit = smallest_audit(bound, sampling.n, alpha, p)
    if audit is not None:
        return f"certificate.audit of {audit:,} would be enough"
    least = smallest_n(bound, alpha, certificate.audits.at_most(MANY), p)
    if least is not None:
        return f"sampling.n of {least:,} would be enough"
    return "no certificate.audit is enough at this n, and no sampling.n at this K: raise both"
