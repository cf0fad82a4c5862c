"""Runs with target radii: their rows whatever the worker, their fingerprint, and their certificates computed again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import srs_ray
from srs_ray.analysis import load_points, recertify
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import certificate_line
from srs_ray.errors import JobError, RunDirectoryError, SrsRayError
from srs_ray.runner.feasibility import check_feasible
from srs_ray.runner.preparation import JobInputs, fingerprint_of
from srs_ray.runner.worker import PointWorker
from srs_ray.smoothing.audit import Fixed, Share
from srs_ray.smoothing.bounds import Evidence, bound_named
from srs_ray.smoothing.plan import Plan
from srs_ray.smoothing.radius import certified_radius

TARGETS = [0, 0.125, 0.25]
LOOKS = {"target_radii": TARGETS, "looks": {"first": 50}, "n": 400}
METHODS = ("srs", "standard", "auto")


@pytest.fixture
def job_by_looks(digits_job, tmp_path):
    """A quick job by looks; `sampling` and `certificate` are laid over it."""

    def make(method: str, sampling=None, certificate=None, **sections):
        base = digits_job(**sections).model_dump(mode="json")
        chains = {"chains": 16, "steps": 1} if method == "srs" else {}
        base["sampling"] = {"method": method, "n0": 20, **LOOKS, **chains, **(sampling or {})}
        base["certificate"] = {"alpha": 0.01, **(certificate or {})}
        base["report"] = {"radii": TARGETS}
        return type(digits_job()).model_validate(base)

    return make


def fingerprint(job) -> dict[str, object]:
    inputs = JobInputs.read(job)
    return fingerprint_of(inputs.resolve("cpu"), inputs.source)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_interrupted_has_the_rows_of_one_that_is_not(
    job_by_looks, tmp_path, run_in_process, result_rows, method
):
    """Sigma 0.4 is more than the weights were trained for: points end for all reasons and at many looks."""
    noise = {"noise": {"sigma": 0.4}}
    apart, whole = job_by_looks(method, output=str(tmp_path / "apart"), **noise), job_by_looks(method, **noise)
    short = job_by_looks(method, data={"stop": 30}, **noise)
    assert (run_in_process(short).finished, run_in_process(whole).finished, run_in_process(whole).finished) == (3, 3, 0)
    run_in_process(apart)
    rows = result_rows(whole.output)
    assert rows == result_rows(apart.output)
    assert len({row["n"] for row in rows}) > 1
    assert {row["stopped"] for row in rows} <= {"resolved", "futile", "spent"}


def test_ray_workers_and_this_process_give_the_same_rows_by_looks(
    job_by_looks, tmp_path, run_on_ray, run_in_process, result_rows
):
    execution = {"execution": {"workers": 2, "device": "cpu"}, "noise": {"sigma": 0.3}, "data": {"stop": 30}}
    ray, here = (job_by_looks("auto", output=str(tmp_path / name), **execution) for name in ("ray", "here"))
    assert run_on_ray(ray).exit_code == run_in_process(here).exit_code == 0
    rows = result_rows(here.output)
    assert rows == result_rows(ray.output)
    assert len({(row["method"], row["audit_share"]) for row in rows}) > 1, "points go different ways"


def test_every_setting_of_looks_reaches_the_point(job_by_looks):
    looks = {"first": 40, "growth": 2.0, "power": 0.5, "futility": 0.2}
    job = job_by_looks("srs", {"looks": looks}, {"kind": "union", "audit_share": 0.6}, noise={"sigma": 0.4})
    inputs = JobInputs.read(job)
    row = PointWorker(inputs.resolve("cpu"), inputs.cargo, 1).certify(40)
    settings = {"sigma": 0.4, "n0": 20, "n": 400, "chains": 16, "steps": 1, "alpha": 0.01, "index": 40}
    expected = srs_ray.certify_point(
        srs_ray.load_model(job.model.arch, job.model.weights),
        inputs.dataset.image(40),
        **settings,
        label=inputs.dataset.label(40),
        looks=srs_ray.Looks(tuple(TARGETS), **looks),
        audit_share=0.6,
        certificate="union",
    )
    apart = ("seconds", "finished_at", "source", "class_name")
    assert {k: v for k, v in row.items() if k not in apart} == {
        k: v for k, v in dataclasses.asdict(expected).items() if k not in apart
    }
    auto = job_by_looks("auto", {"most_lost": 0.3})
    inputs = JobInputs.read(auto)
    assert PointWorker(inputs.resolve("cpu"), inputs.cargo, 1).judge.smoothing.sampling.most_lost == 0.3


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"sampling": {"target_radii": [0, 0.125]}}, "sampling.target_radii"),
        ({"sampling": {"looks": {"first": 51}}}, "sampling.looks.first"),
        ({"sampling": {"looks": {"first": 50, "growth": 1.6}}}, "sampling.looks.growth"),
        ({"sampling": {"looks": {"first": 50, "power": 0.9}}}, "sampling.looks.power"),
        ({"sampling": {"looks": {"first": 50, "futility": 0.02}}}, "sampling.looks.futility"),
        ({"certificate": {"audit_share": 0.2}}, "certificate.audit_share"),
    ],
)
def test_whatever_ends_a_point_or_audits_it_is_in_the_fingerprint(job_by_looks, change, setting):
    before, after = fingerprint(job_by_looks("srs")), fingerprint(job_by_looks("srs", **change))
    assert {key for key in before | after if before.get(key) != after.get(key)} == {setting}


def test_what_auto_may_lose_is_in_the_fingerprint_and_so_is_auto(job_by_looks):
    auto, srs = fingerprint(job_by_looks("auto")), fingerprint(job_by_looks("srs"))
    assert (auto["sampling.method"], srs["sampling.method"]) == ("auto", "srs")
    chains = {f"sampling.{name}" for name in ("chains", "steps", "warmup_steps")}
    assert auto.keys() ^ srs.keys() == {"sampling.most_lost", "certificate.audit_share", *chains}
    other = fingerprint(job_by_looks("auto", {"most_lost": 0.1}))
    assert {key for key in auto if auto[key] != other[key]} == {"sampling.most_lost"}


def test_the_fingerprint_of_a_run_with_fixed_n_knows_nothing_of_looks(digits_job):
    found = fingerprint(digits_job(sampling={"reference": {"tolerance": None}}))
    names = {"sampling.method", "sampling.n0", "sampling.n", "sampling.chains", "sampling.steps", "sampling.solver"}
    names |= {"sampling.warmup_steps", "sampling.max_nonfinite", "sampling.version"}
    names |= {f"sampling.reference.{name}" for name in ("solver", "steps", "tolerance")}
    names |= {"certificate.kind", "certificate.alpha", "certificate.audit"}
    assert {key for key in found if key.startswith(("sampling", "certificate"))} == names
    assert found["sampling.reference.tolerance"] is None


def test_a_run_by_looks_is_not_continued_without_them_or_with_others(job_by_looks, digits_job, run_in_process):
    run_in_process(job_by_looks("srs", data={"stop": 10}))
    with pytest.raises(RunDirectoryError, match=r"sampling\.target_radii"):
        run_in_process(job_by_looks("srs", {"target_radii": [0]}, data={"stop": 10}))
    with pytest.raises(RunDirectoryError, match=r"sampling\.looks\.growth"):
        run_in_process(digits_job())


@pytest.mark.parametrize("method", METHODS)
def test_certificates_by_looks_are_computed_again_from_the_looks_of_each_row(job_by_looks, run_in_process, method):
    job = job_by_looks(method, {"n0": 40}, noise={"sigma": 0.3})
    run_in_process(job)
    df = load_points(job.output)
    again, smaller = recertify(df), recertify(df, alpha=1e-5)
    computed = ["predicted", "radius", "p_lower", "correct"]
    assert again[computed].equals(df[computed])
    assert RunInfo.of(again) == RunInfo.of(df)
    assert (df["radius"] > 0).sum() >= 5
    assert (smaller["p_lower"] <= df["p_lower"]).all()
    assert (smaller["radius"] < df["radius"])[df["radius"] > 0].all()
    if method == "auto":
        assert set(df["method"]) == {"anchored", "standard"}, "each row by its own way"
    for row in smaller.itertuples():
        kind = "mixture" if row.method == "standard" else "exact"
        audit = Share(row.audit_share) if row.audit_share else Fixed(0)
        looks = {"first": 50, "growth": job.sampling.looks.growth, "power": job.sampling.looks.power}
        plan = Plan.geometric(bound_named(kind), 1e-5, 400, **looks, audit=audit)
        counts = zip(row.look_n, row.look_hits, row.look_audited, row.look_disagreed, strict=True)
        bound = plan.p_lower([Evidence(*map(int, count)) for count in counts])
        assert row.p_lower == pytest.approx(bound, rel=1e-12)
        assert row.radius == certified_radius(row.p_lower, 0.3)
    other = "cohen" if method == "standard" else "union"
    assert RunInfo.of(recertify(df, other)).recomputed_from.startswith("mixture" if method == "standard" else "exact")
    for wrong in ("released", "exact" if method == "standard" else "mixture"):
        with pytest.raises(SrsRayError, match=f"'{wrong}' does not fit"):
            recertify(df, wrong)


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("srs", {"target_radii": [0, 50]}, "sampling.target_radii: no probability below 1 earns radius 50"),
        ("standard", {"target_radii": [50]}, "sampling.target_radii: no probability below 1"),
        ("srs", {"looks": {"power": 1000}}, "sampling.looks: power 1000.0 leaves a look"),
        ("auto", {"looks": {"power": 1000}}, "sampling.looks: power 1000.0 leaves a look"),
        ("srs", {"n": 5}, "exact with n = 5, audits of 15% of the hits, alpha = 0.01 can certify nothing"),
    ],
)
def test_looks_that_no_plan_can_be_made_of_are_refused_before_anything_starts(
    job_by_looks, run_in_process, method, change, message
):
    job = job_by_looks(method, change)
    with pytest.raises(JobError) as error:
        run_in_process(job)
    assert message in str(error.value)
    assert not Path(job.output).exists()


@pytest.mark.parametrize(("method", "audits"), [("srs", True), ("standard", False), ("auto", False)])
def test_targets_beyond_what_the_looks_can_earn_are_named_with_what_would_help(job_by_looks, method, audits):
    [warning] = check_feasible(job_by_looks(method, {"target_radii": [0, 0.9]}))
    assert "no point can be certified at the radius 0.9" in warning
    assert "more samples (sampling.n)" in warning
    assert ("certificate.audit_share" in warning) == audits


def test_a_run_by_looks_says_so_by_its_numbers(job_by_looks, run_in_process):
    job = job_by_looks("srs", data={"stop": 20})
    run_in_process(job)
    line = certificate_line(RunInfo.of(load_points(job.output)))
    assert line.startswith("exact, alpha = 0.01, looks at up to n = 400, audits of 15% of the hits: radius capped at ")
