"""What a job's certificate can earn at most, said before the run starts and with what would be enough."""

from __future__ import annotations

from scipy.special import ndtr

from srs_ray.errors import JobError
from srs_ray.job import Job
from srs_ray.smoothing.certificates import certified_radius, p_cap, smallest_audit, smallest_n


def check_feasible(job: Job) -> list[str]:
    """Warnings about tabulated radii that n, K and alpha cannot earn; JobError where nothing can be certified."""
    kind, alpha, audit, n = job.certificate.kind, job.certificate.alpha, job.certificate.audit, job.sampling.n
    sigma = job.noise.sigma
    cap = certified_radius(p_cap(kind, n, audit, alpha), sigma)
    settings = _settings(job)
    if cap == 0:
        raise JobError(
            f"certificate {kind} with {settings} can certify nothing: "
            f"even if every sample agrees, its bound stays at 1/2 or below; {_enough(job, 0.5)}"
        )
    beyond = [radius for radius in job.report.radii if radius > cap]
    if not beyond:
        return []
    shown = ", ".join(f"{radius:g}" for radius in beyond)
    return [
        f"certificate {kind} with {settings} caps the radius at {cap:.3g} ({cap / sigma:.3g} sigma): no point can be "
        f"certified at the tabulated {'radii' if len(beyond) > 1 else 'radius'} {shown}; "
        f"for {max(beyond):g}, {_enough(job, float(ndtr(max(beyond) / sigma)))}"
    ]


def _settings(job: Job) -> str:
    audit = f", K = {job.certificate.audit:,}" if job.certificate.kind != "cohen" else ""
    return f"n = {job.sampling.n:,}{audit}, alpha = {job.certificate.alpha:g}"


def _enough(job: Job, p: float) -> str:
    """Which K, or else which n, lets the bound exceed p."""
    kind, alpha, n = job.certificate.kind, job.certificate.alpha, job.sampling.n
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
