from __future__ import annotations

import re

import pytest

from srs_ray.errors import JobError
from srs_ray.runner.feasibility import check_feasible


def test_a_job_that_can_certify_its_radii_is_not_commented(digits_job):
    assert check_feasible(digits_job()) == []


def enough(message: str) -> tuple[str, int]:
    found = re.search(r"(certificate\.audit|sampling\.n) of ([\d,]+) would be enough", message)
    assert found, message
    return found[1], int(found[2].replace(",", ""))


@pytest.mark.parametrize(
    "change",
    [
        {"certificate": {"audit": 0}},
        {"certificate": {"audit": 3}},
        {"certificate": {"audit": 3, "kind": "union"}},
        {"certificate": {"audit": 3, "kind": "weighted", "weight": 0.5}},
        {"certificate": {"audit": 3, "kind": "two-sided"}},
        {"sampling": {"n": 4}},
        {"sampling": {"n": 4, "method": "standard"}},
    ],
)
def test_settings_that_can_certify_nothing_are_refused_with_what_would_be_enough(digits_job, change):
    base = {"sampling": {}, "certificate": {}}
    job = digits_job(**(base | change)) if "method" not in change.get("sampling", {}) else _standard(digits_job, 4)
    with pytest.raises(JobError, match="can certify nothing") as error:
        check_feasible(job)
    name, value = enough(str(error.value))
    section, key = name.split(".")
    fixed = job.model_copy(update={section: getattr(job, section).model_copy(update={key: value})})
    check_feasible(fixed)
    short = job.model_copy(update={section: getattr(job, section).model_copy(update={key: value - 1})})
    with pytest.raises(JobError, match="can certify nothing"):
        check_feasible(short)


def _standard(digits_job, n):
    job = digits_job()
    raw = job.model_dump(mode="json")
    raw["sampling"] = {"method": "standard", "n": n}
    raw["certificate"] = {"kind": "cohen", "alpha": 0.01}
    return type(job).model_validate(raw)


def test_radii_beyond_the_cap_are_named_with_what_would_earn_them(digits_job):
    job = digits_job(
        sampling={"n": 10_000}, report={"radii": [0, 0.25, 0.625]}, certificate={"alpha": 0.001, "audit": 400}
    )
    [warning] = check_feasible(job)
    assert "caps the radius at 0.509 (2.04 sigma)" in warning
    assert "at the radius 0.625" in warning
    name, value = enough(warning)
    assert name == "certificate.audit"
    assert (
        check_feasible(job.model_copy(update={"certificate": job.certificate.model_copy(update={"audit": value})}))
        == []
    )


@pytest.mark.parametrize("chains", [150, 400])
def test_chains_that_never_get_past_their_warm_up_are_warned_of(digits_job, chains):
    [warning] = check_feasible(digits_job(sampling={"chains": chains}))
    assert warning.startswith(f"sampling.chains is {chains} and sampling.n 150: no chain gets past its warm-up")
    assert "sampling.method standard is cheaper" in warning
    assert check_feasible(digits_job(sampling={"chains": 149})) == []
