from __future__ import annotations

import io
from math import ceil, floor
from statistics import fmean

import pytest
from rich.console import Console
from scipy.special import ndtr

from srs_ray.errors import RunDirectoryError
from srs_ray.planning.pilot import pilot_indices, run_pilot
from srs_ray.planning.plan import expected_cost, plan_job
from srs_ray.planning.target_radius import expected_bound, plan_target, with_settings
from srs_ray.planning.text import print_plan
from srs_ray.runner.backend import InProcess
from srs_ray.runs import RunDirectory
from srs_ray.smoothing.audit import BothSides, Fixed, Share
from srs_ray.smoothing.bounds import Evidence, bound_named, p_lower
from srs_ray.smoothing.plan import Plan
from srs_ray.smoothing.radius import certified_radius

STANDARD = {"method": "standard", "n0": 20, "n": 80}


def by_looks(method, **certificate):
    srs = {"method": method, "n0": 20, "n": 400, "target_radii": [0, 0.1], "reference": {"steps": 10}}
    chains = {} if method == "standard" else {"chains": 16, "steps": 1}
    return {"sampling": srs | chains, "certificate": {"alpha": 0.01, **certificate}}


@pytest.fixture
def remade_job(digits_settings, tmp_path):
    """The quick digits job with sections replaced as a whole."""
    from srs_ray.job import Job

    return lambda **sections: Job.model_validate({**digits_settings(output=str(tmp_path / "run")), **sections})


def piloted(job, console, points=2):
    return run_pilot(job, lambda: InProcess(job.execution), console, points)


def planned(job, console, points=2, target=None):
    done = piloted(job, console, points)
    return plan_job(job, done.indices, done.pilot, done.rows, done.workers, target)


def said(plan, width=120):
    text = Console(file=io.StringIO(), width=width)
    print_plan(plan, text)
    return text.file.getvalue()


def never():
    raise AssertionError("nothing was to be started")


def test_pilot_points_are_spread_evenly_over_those_of_the_job():
    assert list(pilot_indices(range(5, 505, 5), 20)) == list(range(5, 505, 25))
    assert list(pilot_indices(range(0, 24), 20)) == list(range(0, 24, 2))
    assert list(pilot_indices(range(0, 60, 10), 100)) == list(range(0, 60, 10))
    assert not pilot_indices(range(0, 60, 10), 0)


def test_certify_goes_on_from_the_pilot_and_does_nothing_twice(digits_job, run_in_process, console, result_rows):
    job = digits_job()
    done = piloted(job, console)
    assert (list(done.pilot), done.summary.finished, done.workers) == ([0, 30], 2, 1)
    kept = {row["index"]: row["finished_at"] for row in RunDirectory.open(job.output).rows().to_pylist()}
    assert run_in_process(job).finished == 4
    run = RunDirectory.open(job.output)
    after = {row["index"]: row["finished_at"] for row in run.rows().to_pylist()}
    assert list(after) == [0, 10, 20, 30, 40, 50]
    assert {index: after[index] for index in kept} == kept
    assert run.points == {"start": 0, "stop": 60, "every": 10}

    other = job.model_copy(update={"output": job.output + "-straight"})
    run_in_process(other)
    assert result_rows(job.output) == result_rows(other.output)


def test_a_pilot_that_is_there_is_not_done_again_and_leaves_the_run_as_it_is(digits_job, run_in_process, console):
    job = digits_job()
    run_in_process(job)
    before = RunDirectory.open(job.output)
    done = run_pilot(job, never, console, 3)
    assert done.summary is None
    after = RunDirectory.open(job.output)
    assert (after.points, after.sessions) == (before.points, before.sessions)
    plan = plan_job(job, done.indices, done.pilot, done.rows, done.workers, None)
    assert (plan.points, plan.done, plan.todo, plan.pilot) == (6, 6, 0, 3)
    assert plan.costs.evaluations.todo.mean == 0
    spent = sum(row["function_evaluations"] + row["reference_evaluations"] for row in done.rows)
    assert plan.costs.evaluations.all.mean == plan.costs.evaluations.all.high == spent
    assert "0 to do" in said(plan)


def test_a_run_of_other_settings_is_refused_before_anything_is_started(digits_job, run_in_process, console):
    run_in_process(digits_job(data={"stop": 10}))
    for device in ("cpu", "auto"):
        job = digits_job(sampling={"n": 300}, execution={"device": device})
        with pytest.raises(RunDirectoryError, match=r"sampling\.n: 150 there, 300 now"):
            run_pilot(job, never, console, 2)
        with pytest.raises(RunDirectoryError, match=r"sampling\.n"):
            run_pilot(job, never, console, 0)


def test_expected_evaluations_are_the_pilots_mean_times_the_points(digits_job, console):
    job = digits_job()
    done = piloted(job, console)
    costs = plan_job(job, done.indices, done.pilot, done.rows, done.workers, None).costs
    for cost, names in (
        (costs.sampler_evaluations, ["function_evaluations"]),
        (costs.audit_evaluations, ["reference_evaluations"]),
        (costs.evaluations, ["function_evaluations", "reference_evaluations"]),
    ):
        mean = fmean(sum(row[name] for name in names) for row in done.rows)
        assert cost.per_point == mean
        assert (cost.todo.mean, cost.all.mean) == (pytest.approx(4 * mean), pytest.approx(6 * mean))
        assert cost.todo.low <= cost.todo.mean <= cost.todo.high
    assert costs.wall_hours.mean == pytest.approx(4 * fmean(row["seconds"] for row in done.rows) / 3600)


def test_the_interval_of_the_rest_is_students_with_the_finite_population():
    sample = [10.0, 14.0, 9.0, 12.0, 15.0]
    cost = expected_cost(sample, [*sample, 11.0], 20)
    mean, variance = 12.0, 6.5
    half = 2.7764451 * (variance * (20**2 / 5 + 20)) ** 0.5
    assert cost.todo.mean == 20 * mean
    assert cost.todo.high - cost.todo.mean == pytest.approx(half, rel=1e-6)
    assert cost.all.mean == 71 + 20 * mean
    assert cost.all.mean - cost.all.low == pytest.approx(half, rel=1e-6)
    alone = expected_cost([3.0], [3.0], 4)
    assert (alone.all.mean, alone.all.low, alone.all.high) == (15.0, None, None)


def test_without_a_pilot_the_plan_says_what_the_settings_allow(digits_job, console):
    job = digits_job()
    done = run_pilot(job, never, console, 0)
    assert (done.rows, done.summary) == ([], None)
    plan = plan_job(job, done.indices, done.pilot, done.rows, done.workers, 0.25)
    assert (plan.costs, plan.savings) == (None, ())
    assert plan.radius_cap == certified_radius(p_lower("exact", 150, 150, 100, 0, 0.01), 0.25)
    assert plan.target.proposal is not None
    text = said(plan)
    assert "no point is done yet" in text
    assert "none is assumed" in text


def test_points_in_error_are_counted_and_in_no_figure(digits_job, console):
    job = digits_job()
    done = piloted(job, console)
    rows = [done.rows[0], {"index": 30, "status": "error", "error": "no image [there]", "device": None}]
    plan = plan_job(job, done.indices, done.pilot, rows, 1, None)
    assert (plan.pilot, plan.errors, plan.done, plan.todo) == (1, 1, 1, 5)
    assert "1 of 2 points ended in error" in said(plan)
    assert "no image [there]" in said(plan)


def plan_of_looks(job, kind, n, share=0.0):
    """The plan of a certificate by the job's own looks."""
    looks = job.sampling.looks
    schedule = {"first": looks.first, "growth": looks.growth, "power": looks.power}
    return Plan.geometric(bound_named(kind), 0.01, n, **schedule, audit=Share(share) if share else Fixed(0))


def counts(job, target, n, audited):
    """What a point of the target's p_A has on average, rounded against it."""
    hits = floor(n * target.p_true)
    return hits, n, min(audited, hits), ceil(min(audited, hits) * target.disagreement.rate)


@pytest.mark.parametrize("kind", ["exact", "union", "paper"])
def test_the_proposed_samples_and_audits_certify_the_target_and_half_the_audits_do_not(digits_job, kind, console):
    job = digits_job(certificate={"kind": kind}, sampling={"n": 300}, execution={"seed": 1})
    target = planned(job, console, 3, target=0.2).target
    n, audit = target.proposal.settings["sampling.n"], target.proposal.settings["certificate.audit"]
    assert target.p_true == ndtr(1.1 * 0.2 / 0.25)
    bound = p_lower(kind, *counts(job, target, n, audit), 0.01)
    assert certified_radius(bound, 0.25) >= 0.2
    assert certified_radius(p_lower(kind, *counts(job, target, n, audit // 2), 0.01), 0.25) < 0.2
    seed = target.proposal.settings["execution.seed"]
    options = f"--set sampling.n={n} --set certificate.audit={audit} --set execution.seed={seed}"
    assert target.proposal.options == options
    standard = target.standard.settings["sampling.n"]
    hits = floor(standard * target.p_true)
    assert certified_radius(p_lower("cohen", hits, standard, 0, 0, 0.01), 0.25) >= 0.2


def test_a_pilot_that_audits_misses_tells_how_often_chains_miss_and_the_plan_counts_on_it(digits_job, console):
    job = digits_job(certificate={"kind": "two-sided", "audit": 150}, sampling={"n": 300, "steps": 1})
    plan = planned(job, console, 3, target=0.2)
    rows = piloted(job, console, 3).rows
    seen = plan.target.disagreement
    assert seen.audited_misses == sum(row["audited_misses"] for row in rows) > 0
    assert seen.found == sum(row["found"] for row in rows)
    per_audit = sum(row["reference_evaluations"] for row in rows) / (seen.audited + seen.audited_misses)
    assert plan.target.standard.evaluations / plan.target.standard.settings["sampling.n"] == pytest.approx(per_audit)
    n, audit = (plan.target.proposal.settings[name] for name in ("sampling.n", "certificate.audit"))
    bound = expected_bound(with_settings(job, n, Fixed(audit)), plan.target.p_true, seen.rate, seen.missed)
    hits = floor(n * plan.target.p_true)
    audited, of_misses = BothSides(audit).expected(hits, n - hits)
    found = floor(of_misses * seen.missed)
    assert bound == p_lower("two-sided", hits, n, audited, ceil(audited * seen.rate), 0.01, of_misses, found)
    assert certified_radius(bound, 0.25) >= 0.2
    savings = {saving.setting: saving for saving in plan.savings}
    assert savings["certificate.audit"].value == 75
    assert "certificate.miss_share" not in savings
    assert "of the misses" in said(plan)


def test_the_job_as_it_is_may_be_enough(digits_job):
    job = digits_job(sampling={"n": 20_000}, certificate={"audit": 8000})
    assert plan_target(job, [], 0.2).enough_now
    assert not plan_target(digits_job(), [], 0.2).enough_now


def test_where_chains_disagree_too_often_nothing_is_proposed(digits_job, console):
    job = digits_job()
    done = piloted(job, console)
    row = done.rows[0] | {"audited": 100, "disagreed": 40}
    target = plan_target(job, [row], 0.3)
    assert (target.disagreement.rate, target.proposal) == (0.4, None)
    plan = plan_job(job, done.indices, done.pilot, [row], 1, 0.3)
    assert "nothing up to 10,000,000 samples certifies it: F confirms" in said(plan)


@pytest.mark.parametrize("section", [STANDARD, by_looks("standard")["sampling"]], ids=["fixed", "looks"])
def test_standard_sampling_is_proposed_the_fewest_samples(remade_job, section):
    job = remade_job(sampling=section, certificate={"alpha": 0.01})
    target = plan_target(job, [], 0.2)
    n = target.proposal.settings["sampling.n"]
    hits = floor(n * target.p_true)
    if job.sampling.looks is None:
        bound, short = p_lower("cohen", hits, n, 0, 0, 0.01), p_lower("cohen", hits // 2, n // 2, 0, 0, 0.01)
    else:
        bound = plan_of_looks(job, "mixture", n).p_lower([Evidence(n, hits)])
        short = expected_bound(with_settings(job, n // 2), target.p_true, 0.0)
        assert target.proposal.settings["sampling.target_radii"] == [0.0, 0.1, 0.2]
    assert bound > target.p_needed >= short


@pytest.mark.parametrize("method", ["srs", "auto", "standard"])
def test_a_job_by_looks_is_planned(remade_job, method, console):
    job = remade_job(**by_looks(method))
    done = piloted(job, console)
    plan = plan_job(job, done.indices, done.pilot, done.rows, done.workers, 0.125)
    assert plan.samples == fmean(row["n"] for row in done.rows)
    assert sum(plan.methods.values()) == 2
    settings = plan.target.proposal.settings
    assert settings["sampling.target_radii"] == [0.0, 0.1, 0.125]
    assert ("certificate.audit_share" in settings) == (method == "srs")
    share = settings.get("certificate.audit_share", 0.0)
    n = settings["sampling.n"]
    kind = "exact" if method == "srs" else "mixture"
    looks = plan_of_looks(job, kind, n, share)
    hits = floor(n * plan.target.p_true)
    audited = floor(hits * share)
    disagreed = ceil(audited * plan.target.disagreement.rate)
    assert certified_radius(looks.p_lower([Evidence(n, hits, audited, disagreed)]), 0.25) >= 0.125
    if method == "srs":
        half = with_settings(job, n, Share(share / 2))
        assert expected_bound(half, plan.target.p_true, plan.target.disagreement.rate) <= plan.target.p_needed
    text = said(plan)
    assert "samples drawn to estimate" in text
    assert f"--set sampling.n={n}" in text


def test_what_a_pilot_chose_is_certified_on_noise_that_the_pilot_did_not_see(digits_job, run_in_process, console):
    job = digits_job()
    plan = planned(job, console, 2, target=0.2)
    proposals = [plan.target.proposal.settings, plan.target.standard.settings]
    changes = [{saving.setting: saving.value, "execution.seed": saving.seed} for saving in plan.savings]
    chosen = [*proposals, *(change for change in changes if "data.every" not in change)]
    seeds = [settings["execution.seed"] for settings in chosen]
    assert len({job.execution.seed, *seeds}) == len(seeds) + 1
    text = said(plan)
    assert plan.target.proposal.options in text
    assert "the seed is fresh: these settings were chosen by what the job's own noise gave" in text
    assert {change["execution.seed"] for change in changes if "data.every" in change} == {None}  # the same run goes on


def test_a_run_beside_one_on_the_same_noise_is_warned_of(digits_job, run_in_process, console, tmp_path):
    first = digits_job(data={"stop": 10}, output=str(tmp_path / "first"))

    def said_of(name, **sections):
        console.file.truncate(0)
        run_in_process(digits_job(data={"stop": 10}, output=str(tmp_path / name), **sections))
        return console.file.getvalue()

    run_in_process(first)
    assert "wrong more often than alpha" not in console.file.getvalue()
    assert "wrong more often" not in said_of("again")
    warned = said_of("more", sampling={"n": 160})
    assert f"warning: {tmp_path}/first has results of the same model, data and seed" in warned
    assert "by other settings (sampling.n 150 there, 160 here)" in " ".join(warned.split())
    assert "certificate.audit 100 there, 90 here" in said_of("audits", certificate={"audit": 90})
    assert "certificate.kind" in said_of("kind", certificate={"kind": "union"})
    assert "wrong more often" not in said_of("fresh", sampling={"n": 170}, execution={"seed": 1})
    console.file.truncate(0)
    run_in_process(digits_job(data={"stop": 20}, output=str(tmp_path / "first")))  # that came before them
    assert "wrong more often" not in console.file.getvalue()


@pytest.mark.parametrize("chains", [16, 100])  # fewer than selection has samples, and more
def test_savings_say_what_is_left_of_the_evaluations_and_of_the_radius(
    digits_job, run_in_process, console, tmp_path, chains
):
    job = digits_job(sampling={"steps": 2, "chains": chains})
    plan = planned(job, console, 6)
    savings = {saving.setting: saving for saving in plan.savings}
    assert set(savings) == {"sampling.n", "certificate.audit", "sampling.steps", "data.every"}
    assert [abs(saving.evaluations - 0.5) for saving in plan.savings] == sorted(
        abs(saving.evaluations - 0.5) for saving in plan.savings
    )
    audits = plan.costs.audit_evaluations.per_point / plan.costs.evaluations.per_point
    assert savings["certificate.audit"].evaluations == pytest.approx(1 - audits / 2)
    assert savings["certificate.audit"].radius_cap == certified_radius(p_lower("exact", 150, 150, 50, 0, 0.01), 0.25)
    assert savings["certificate.audit"].median_radius < savings["certificate.audit"].median_radius_now
    # What fewer steps and samples leave is what a run with them costs, audits of other hits aside.
    for setting, change in (("sampling.steps", {"steps": 1}), ("sampling.n", {"n": 75})):
        other = digits_job(sampling={"steps": 2, "chains": chains, **change}, output=str(tmp_path / setting))
        run_in_process(other)
        rows = RunDirectory.open(other.output).rows().to_pylist()
        left = fmean(row["function_evaluations"] for row in rows) - plan.costs.sampler_evaluations.per_point
        audited = savings[setting].evaluations * plan.costs.evaluations.per_point - plan.costs.evaluations.per_point
        if setting == "sampling.steps":
            assert audited == pytest.approx(left)
        else:
            cheaper = fmean(row["reference_evaluations"] for row in rows) - plan.costs.audit_evaluations.per_point
            assert audited == pytest.approx(left + cheaper, rel=0.05)


def test_a_narrow_terminal_costs_no_digit(digits_job, console):
    job = digits_job(certificate={"audit": 150}, sampling={"n": 300})
    plan = planned(job, console)
    lines = [line.rstrip() for line in said(plan, 40).splitlines()]
    seeds = [str(saving.seed) for saving in plan.savings if saving.seed is not None]
    assert seeds
    for seed in seeds:
        assert any(seed in line for line in lines)
    tables = [line.rstrip() for line in said(plan, 160).splitlines() if line.startswith("  ")]
    assert [line for line in tables if line not in lines] == []
