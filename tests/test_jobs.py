"""The job files beside the published tables (Gao et al. 2024): one per row, each with that row's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import norm

from srs_ray.job import Job, completed
from srs_ray.job_file import load_job
from srs_ray.models.opening import read_model
from srs_ray.runner.feasibility import check_feasible
from srs_ray.smoothing.limits import p_cap, smallest_audit
from srs_ray.smoothing.radius import certified_radius

JOBS = Path(__file__).resolve().parent.parent / "jobs" / "paper"
CIFAR_RADII = (0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
IMAGENET_RADII = (0, 0.5, 1, 1.5, 2, 2.5, 3)

# name: (architecture, method, solver, steps, sigma, every, what is published: certified accuracy in %, or only ACR)
ROWS = {
    "cifar10-large-standard-1a": ("large-cifar10", "standard", "anderson", 1, 0.5, 20, "28 19 13 8 5 3 1"),
    "cifar10-large-standard-5a": ("large-cifar10", "standard", "anderson", 5, 0.5, 20, "50 41 32 21 15 10 6"),
    "cifar10-large-standard-30a": ("large-cifar10", "standard", "anderson", 30, 0.5, 20, "67 55 45 33 23 16 12"),
    "cifar10-large-srs-1n": ("large-cifar10", "srs", "naive", 1, 0.5, 20, "61 52 44 31 22 15 11"),
    "cifar10-large-srs-1a": ("large-cifar10", "srs", "anderson", 1, 0.5, 20, "63 53 45 32 22 16 12"),
    "cifar10-large-srs-3a": ("large-cifar10", "srs", "anderson", 3, 0.5, 20, "66 54 45 33 23 16 11"),
    "cifar10-small-standard-30a": ("small-cifar10", "standard", "anderson", 30, 0.5, 20, "62 50 38 30 22 13 9"),
    "cifar10-small-srs-1a": ("small-cifar10", "srs", "anderson", 1, 0.5, 20, "ACR 0.56"),
    "cifar10-small-srs-3a": ("small-cifar10", "srs", "anderson", 3, 0.5, 20, "60 50 38 29 21 12 8"),
    "cifar10-small-standard-30a-smoothadv": (
        *("small-cifar10", "standard", "anderson", 30, 0.5, 20),
        "62 54 43 37 30 23 14",
    ),
    "imagenet-small-standard-14b": ("small-imagenet", "standard", "broyden", 14, 1.0, 100, "45 39 33 28 22 17 11"),
    "imagenet-small-srs-1b": ("small-imagenet", "srs", "broyden", 1, 1.0, 100, "40 34 32 27 21 16 10"),
    "imagenet-small-srs-3b": ("small-imagenet", "srs", "broyden", 3, 1.0, 100, "44 39 33 28 22 17 11"),
}


def test_every_published_row_has_its_job_and_there_is_no_other():
    assert {path.stem for path in JOBS.glob("*.yaml")} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_job_has_the_settings_of_its_row(name):
    arch, method, solver, steps, sigma, every, published = ROWS[name]
    job = load_job(JOBS / f"{name}.yaml")
    sampling = job.sampling
    step = sampling if method == "srs" else sampling.reference
    assert (job.model.arch, sampling.method, step.solver, step.steps) == (f"mdeq-{arch}", method, solver, steps)
    assert (job.noise.sigma, job.data.every, job.data.start, job.data.stop) == (sigma, every, 0, None)
    assert (sampling.n0, sampling.n, job.certificate.alpha) == (100, 10_000, 0.001)
    assert job.certificate.kind == ("exact" if method == "srs" else "cohen")
    if method == "srs":
        reference = ("broyden", 14) if "imagenet" in arch else ("anderson", 30)
        assert (sampling.reference.solver, sampling.reference.steps, sampling.warmup_steps) == (*reference, 10)
        assert sampling.chains == (64 if "imagenet" in arch else 400)
    assert job.output == f"runs/{name}"
    assert f"\n#   {published}" in (JOBS / f"{name}.yaml").read_text()


def test_the_small_cifar10_jobs_take_the_weights_that_ship_with_the_package():
    names = [name for name in ROWS if name.startswith("cifar10-small-") and not name.endswith("-smoothadv")]
    weights = {load_job(JOBS / f"{name}.yaml").model.weights for name in names}
    assert (len(names), weights) == (3, {"mdeq-small-cifar10-sigma50"})


@pytest.mark.parametrize("name", ROWS)
def test_a_job_reports_the_published_radii_that_its_certificate_can_earn(name):
    job = load_job(JOBS / f"{name}.yaml")
    assert check_feasible(job) == []
    published = IMAGENET_RADII if job.data.kind == "imagenet" else CIFAR_RADII
    assert job.report.radii == tuple(radius for radius in published if radius <= cap(job))


@pytest.mark.parametrize("name", [name for name in ROWS if "-srs-" in name])
def test_a_serialized_job_says_where_it_differs_from_its_row(name):
    job, text = load_job(JOBS / f"{name}.yaml"), (JOBS / f"{name}.yaml").read_text()
    assert "`released` certificate, which is unsound" in text
    assert f"{cap(job) / job.noise.sigma:.2f} sigma" in text
    if job.data.kind == "cifar10":
        for radius in (1.25, 1.5):
            audit = smallest_audit("exact", job.sampling.n, job.certificate.alpha, norm.cdf(radius / job.noise.sigma))
            assert f"K = {audit} reaches {radius}" in text


def cap(job: Job) -> float:
    """The largest radius that the job's certificate can give, in pixel units."""
    certificate = job.certificate
    p = p_cap(certificate.kind, job.sampling.n, certificate.audit, certificate.alpha)
    return certified_radius(p, job.noise.sigma)


def test_the_fast_job_certifies_one_step_from_the_start_that_its_weights_hold():
    job = load_job(JOBS.parent / "cifar10-fast.yaml")
    source = read_model(job.model)
    assert source.has_start
    assert completed(job, source) == job
    sampling = job.sampling
    assert (sampling.method, sampling.candidate, sampling.n0, sampling.n) == ("standard", "label", 0, 4000)
    assert sampling.reference.title == "1N from the stored start"
    assert (job.certificate.kind, job.data.every) == ("mixture", 20)
    [warning] = check_feasible(job)
    assert "no point can be certified at the radius 1.5" in warning
