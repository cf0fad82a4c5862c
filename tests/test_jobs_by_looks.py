"""Job files with target radii: what is filled in, and what does not go together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from srs_ray.errors import JobError
from srs_ray.job import Job
from srs_ray.job_file import load_job, parse_override


@pytest.fixture
def load(tmp_path: Path, digits_settings: Callable[..., dict[str, Any]]) -> Callable[..., Job]:
    """Loads a job file of these two sections."""

    def make(sampling: dict[str, Any], certificate: dict[str, Any] | None = None, **sections: Any) -> Job:
        job = {**digits_settings(), "sampling": sampling, "certificate": certificate or {}} | sections
        if "report" not in sections:
            del job["report"]
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        return load_job(tmp_path / "job.yaml")

    return make


RADII = [0, 0.25, "36/255"]


@pytest.mark.parametrize(
    ("method", "kind", "share"),
    [("srs", "exact", 0.15), ("anchored", "exact", 0.15), ("standard", "mixture", None), ("auto", "exact", None)],
)
def test_target_radii_bring_their_looks_certificate_share_and_table(load, method, kind, share):
    job = load({"method": method, "target_radii": RADII})
    assert job.sampling.target_radii == (0.0, 0.25, 36 / 255) == job.report.radii
    assert (job.certificate.kind, job.certificate.audit_share, job.certificate.audit) == (kind, share, 0)
    looks = job.sampling.looks
    assert (looks.first, looks.growth, looks.power, looks.futility) == (100, 1.25, 2.0, 0.01)
    assert load({"method": method, "target_radii": RADII, "looks": None}) == job
    if method == "auto":
        assert job.sampling.most_lost == 0.02


def test_without_target_radii_nothing_is_different(load):
    job = load({"method": "srs"})
    assert (job.sampling.target_radii, job.sampling.looks, job.certificate.audit_share) == (None, None, None)
    assert (job.certificate.audit, job.report.radii[-1]) == (400, 1.5)


def test_what_is_given_wins(load):
    sampling = {"method": "srs", "target_radii": [0.25], "looks": {"growth": 2}}
    job = load(sampling, {"audit_share": 1, "kind": "union"}, report={"radii": [0.5]})
    assert (job.sampling.looks.growth, job.sampling.looks.first) == (2.0, 100)
    assert (job.certificate.audit_share, job.certificate.kind, job.report.radii) == (1.0, "union", (0.5,))


@pytest.mark.parametrize("method", ["srs", "standard", "auto"])
def test_a_dumped_job_by_looks_is_the_job(load, method, tmp_path):
    job = load({"method": method, "target_radii": RADII})
    (tmp_path / "dumped.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    assert load_job(tmp_path / "dumped.yaml") == job


def test_target_radii_may_come_from_the_command_line(load, tmp_path):
    load({"method": "srs"})
    job = load_job(tmp_path / "job.yaml", dict([parse_override("sampling.target_radii=[0, 0.5]")]))
    assert (job.sampling.target_radii, job.certificate.audit_share) == ((0.0, 0.5), 0.15)


TARGETS = {"target_radii": [0, 0.25]}


@pytest.mark.parametrize(
    ("sampling", "certificate", "expected"),
    [
        ({"method": "srs", "looks": {}}, {}, "looks are for target_radii"),
        ({"method": "auto"}, {}, "sampling.method auto needs sampling.target_radii"),
        ({"method": "srs", "target_radii": []}, {}, "sampling.target_radii"),
        ({"method": "srs", "target_radii": [-1]}, {}, "sampling.target_radii.0: found -1"),
        ({"method": "srs", "target_radii": [0.5, float("inf")]}, {}, "sampling.target_radii.1"),
        ({"method": "srs", "target_radii": [True]}, {}, "no setting is true or false"),
        ({"method": "srs", **TARGETS, "looks": {"first": 0}}, {}, "sampling.looks.first: found 0"),
        ({"method": "srs", **TARGETS, "looks": {"growth": 1}}, {}, "sampling.looks.growth: found 1"),
        ({"method": "srs", **TARGETS, "looks": {"power": 0}}, {}, "sampling.looks.power: found 0"),
        ({"method": "srs", **TARGETS, "looks": {"futility": 1}}, {}, "sampling.looks.futility: found 1"),
        ({"method": "srs", **TARGETS, "looks": {"grow": 2}}, {}, "looks.grow: unknown setting; did you mean growth?"),
        ({"method": "srs", **TARGETS, "most_lost": 0.1}, {}, "sampling.most_lost: unknown setting"),
        ({"method": "auto", **TARGETS, "most_lost": 1.1}, {}, "sampling.most_lost: found 1.1"),
        ({"method": "srs", **TARGETS}, {"audit": 400}, "certificate.audit is 400: with target_radii a share"),
        ({"method": "srs", **TARGETS}, {"audit": 400}, "certificate.audit_share; take audit out"),
        ({"method": "auto", **TARGETS}, {"audit": 400}, "which auto chooses for each point; take audit out"),
        ({"method": "auto", **TARGETS}, {"audit_share": 0.1}, "certificate.audit_share is 0.1"),
        ({"method": "srs", **TARGETS}, {"audit_share": None}, "certificate.audit_share is None"),
        ({"method": "srs", **TARGETS}, {"audit_share": 0}, "certificate.audit_share: found 0"),
        ({"method": "srs"}, {"audit_share": 0.1}, "certificate.audit_share is 0.1"),
        ({"method": "standard", **TARGETS}, {"audit_share": 0.1}, "certificate.audit_share: unknown setting"),
        ({"method": "srs", **TARGETS}, {"kind": "released"}, "released does not go with sampling.method srs and"),
        ({"method": "srs", **TARGETS}, {"kind": "mixture"}, "mixture does not go with sampling.method srs and"),
        ({"method": "auto", **TARGETS}, {"kind": "cohen"}, "cohen does not go with sampling.method auto and"),
        ({"method": "standard", **TARGETS}, {"kind": "exact"}, "exact does not go with sampling.method standard and"),
        ({"method": "standard"}, {"kind": "mixture"}, "mixture does not go with sampling.method standard without"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_their_names(load, sampling, certificate, expected):
    with pytest.raises(JobError) as error:
        load(sampling, certificate)
    assert expected in str(error.value)
