"""The state of a run, from its directory alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from srs_ray.analysis.points import load_points
from srs_ray.analysis.status import run_status, status_text
from srs_ray.analysis.table import comparison_table
from srs_ray.analysis.watch import HEADINGS, Look, look_again
from srs_ray.errors import RunDirectoryError
from srs_ray.runs.directory import RunDirectory


def test_asked_is_done_and_in_error_and_pending(write_run, points):
    status = run_status(write_run("small", points, stop=200))
    assert (status["asked"], status["done"], status["in_error"], status["pending"]) == (10, 4, 1, 5)
    assert status["errors"] == [{"index": 80, "error": points[4]["error"]}]
    assert status["abstained"] == pytest.approx(1 / 4)


def test_accuracy_so_far_is_at_zero_and_the_jobs_radii(write_run, points):
    path = write_run("small", points)
    at = run_status(path)["certified_accuracy"]
    assert [entry["radius"] for entry in at] == [0.0, 0.25, 0.5]
    radii = load_points(path)["radius"].iloc[:2]
    assert [entry["certified_accuracy"] for entry in at] == [(radii >= r).sum() / 5 for r in (0.0, 0.25, 0.5)]


def test_speed_is_the_last_sessions(write_run, points):
    path = write_run("small", points)
    # The fixture ends a point a minute.
    assert run_status(path)["points_per_hour"] == pytest.approx(60.0)
    run = RunDirectory.open(path)
    later = {**run.sessions[0], "started_at": "2025-03-01T12:04:00+00:00"}
    RunDirectory.create_or_continue(path, run.job, run.fingerprint, run.points, later)
    status = run_status(path)
    assert status["points_per_hour"] == pytest.approx(60.0)
    assert status["sessions"] == 2
    assert status["last_session_at"] == "2025-03-01T12:04:00+00:00"
    assert status["last_row_at"] == "2025-03-01T12:05:00+00:00"
    idle = {**run.sessions[0], "started_at": "2025-03-01T13:00:00+00:00"}
    RunDirectory.create_or_continue(path, run.job, run.fingerprint, run.points, idle)
    assert run_status(path)["points_per_hour"] is None


def test_workers_at_work_are_those_with_a_row_lately(write_run, points):
    path = write_run("small", points)
    assert run_status(path)["workers"] == 0  # the fixture's rows are old
    now = datetime.now(UTC)
    run = RunDirectory.open(path)
    rows = run.rows().to_pylist()
    for row, (worker, ago) in zip(rows, [("a", 1), ("a", 140), ("b", 140), ("c", 170), ("d", 200)], strict=True):
        row |= {"worker": worker, "seconds": 50.0, "finished_at": now - timedelta(seconds=ago)}
    run.append(rows)
    assert run_status(path)["workers"] == 2


def test_only_the_first_errors_are_told(write_run, points):
    status = run_status(write_run("small", [points[4]] * 9))
    assert status["in_error"] == 9
    assert [error["index"] for error in status["errors"]] == [0, 20, 40, 60, 80]


def test_it_is_json_from_the_first_moment_on(write_run, points):
    for path in (write_run("new", [], stop=100), write_run("small", points), write_run("broken", points[4:])):
        status = run_status(path)
        assert json.loads(json.dumps(status, allow_nan=False)) == status
    new = run_status(write_run("new", [], stop=100))
    assert (new["done"], new["pending"], new["abstained"], new["last_row_at"]) == (0, 5, None, None)
    assert new["certified_accuracy"][0]["certified_accuracy"] is None


def test_the_certificate_is_stated_in_full(write_run, points):
    status = run_status(write_run("small", points))
    assert status["certificate"].startswith("exact, alpha = 0.001, n = 1,000, K = 100: radius capped at")
    assert "probability at least 1 - alpha" in status["guarantee"]


def test_the_text_says_of_a_share_what_a_table_says(write_run, points):
    small = write_run("small", points, audit=20, stop=200)  # no counts certify 0.5
    text, table = status_text(run_status(small)), comparison_table([load_points(small)], "0.5", "markdown")
    assert "\N{EN DASH} at 0.5" in text
    assert " 0.0 at" not in text
    said = "above the cap, where no counts could have certified anything"
    assert said in text
    assert said in table
    assert "of the 5 of 10 points that ended" in text
    assert "5 of 10 points asked for have no row yet" in text


def test_accuracy_by_looks_is_a_floor_off_the_targets(write_run, points):
    by_looks = {"method": "standard", "kind": "mixture", "target_radii": [0, 0.5]}
    path = write_run("looks", points, **by_looks)
    assert [at["floor"] for at in run_status(path)["certified_accuracy"]] == [False, True, False]
    text = status_text(run_status(path))
    assert "40.0 (5-85) at 0, >= 40.0 (5-85) at 0.25, 20.0 (1-72) at 0.5" in text
    assert ">=: a floor; sampling of a point stops when its target radii (0, 0.5) are decided" in text
    assert "floor" not in status_text(run_status(write_run("full", points)))


def test_false_certificates_to_expect_are_told(write_run, points):
    status = run_status(write_run("small", points))
    assert status["false_certificates_at_most"] == pytest.approx(4 * 0.001)
    assert "in expectation at most 0.004" in status_text(status)
    assert run_status(write_run("unsound", points, kind="released"))["false_certificates_at_most"] is None


@pytest.mark.parametrize(
    ("section", "value", "found"),
    [
        ("noise", {"sigma": "a"}, "job.noise.sigma: Input should be a valid number, found 'a'"),
        ("report", {"radii": None}, r"no radii for tables \(report.radii is None\)"),
        ("report", {}, "no setting report.radii"),
    ],
)
def test_a_job_that_somebody_has_edited_is_told_by_name(write_run, points, section, value, found):
    path = write_run("small", points)
    document = json.loads((path / "run.json").read_text())
    document["job"][section] = value
    (path / "run.json").write_text(json.dumps(document))
    with pytest.raises(RunDirectoryError, match=found):
        run_status(path)


def test_a_missing_run_is_a_run_directory_error(tmp_path):
    with pytest.raises(RunDirectoryError):
        run_status(tmp_path / "nothing")


# The course of a run

NOW = pd.Timestamp("2025-03-01T12:09:30Z")  # the fixture's session starts at 12:00 and ends a point a minute


def edit(path, **report):
    """Has the run's stored job hold these settings of its report."""
    document = json.loads((path / "run.json").read_text())
    document["job"]["report"] |= report
    (path / "run.json").write_text(json.dumps(document))
    return path


def test_pace_is_told_of_the_session_and_of_the_last_five_minutes(write_run, points):
    path = write_run("small", points * 2, stop=400)
    status = run_status(path, NOW)
    assert status["points_per_hour"] == pytest.approx(60.0)
    assert status["points_per_hour_lately"] == pytest.approx(6 * 12)  # 12:05 to 12:10
    assert status["age_seconds"] == 0  # a clock that is a little behind
    assert run_status(path, pd.Timestamp("2025-03-01T12:20Z"))["points_per_hour_lately"] == 0
    assert run_status(path, pd.Timestamp("2025-03-01T12:20Z"))["age_seconds"] == 600
    assert run_status(path, pd.Timestamp("2025-03-01T12:04Z"))["points_per_hour_lately"] is None
    assert "60 points an hour in the last session (72 in the last 5 minutes)" in status_text(status)


def test_the_time_to_go_counts_points_in_error_and_is_unknown_at_first(write_run, points):
    status = run_status(write_run("small", points * 2, stop=400), NOW)
    assert status["seconds_to_go"]["expected"] == pytest.approx(60.0 * 12)  # 10 pending, 2 in error
    assert "at that pace 0:12:00 to go (0:12:00 to 0:12:00)" in status_text(status)
    early = run_status(write_run("early", points[:4], stop=400), NOW)
    assert early["seconds_to_go"] is None
    assert "time to go unknown" in status_text(early)
    assert "all done" in status_text(run_status(write_run("done", points[:4]), NOW))


def test_disagreement_and_errors_are_told_over_time_and_by_node(write_run, points):
    status = run_status(write_run("small", points * 2), NOW)
    first, second = status["disagreement"]
    assert (first["audited"], first["disagreed"], second["disagreed"]) == (400, 4, 4)
    assert status["errors_by_node"] == [{"node": "worker-0", "errors": 2}]
    reason = "PointError: row N of cifarN-test.parquet: truncated image"
    assert status["errors_by_reason"] == [{"reason": reason, "errors": 2}]
    assert f"errors: 2 x {reason}" in status_text(status)
    assert run_status(write_run("standard", points, method="standard", kind="cohen"))["disagreement"] is None


def test_a_target_that_can_no_longer_be_met_is_warned_of(write_run, points):
    path = edit(write_run("small", points, stop=120), targets={"0.25": 0.9, "0": 0.4})
    status = run_status(path)
    assert [target["warning"] is None for target in status["targets"]] == [True, False]
    assert (
        "WARNING: the target 90.0% certified at radius 0.25 (report.targets) can no longer be met: "
        "2 of the 5 points that ended are, 2 of 6 remain: at most 66.7%"
    ) in status_text(status)
    assert run_status(write_run("none", points))["targets"] == []


@pytest.mark.parametrize("targets", [{"a": 0.5}, {"0.5": 2}, [0.5], "x\x1b"])
def test_targets_that_somebody_has_edited_are_refused(write_run, points, targets):
    with pytest.raises(RunDirectoryError, match=r"report\.targets: Input should be"):
        run_status(edit(write_run("small", points), targets=targets))


# Looked at again and again


def test_a_run_that_cannot_be_read_for_a_moment_keeps_its_state(write_run, points, tmp_path):
    path = write_run("small", points)
    [look] = look_again([Look(str(path))])
    assert look.at_rest
    path.rename(tmp_path / "away")
    [gone] = look_again([look])
    assert gone.state == look.state
    assert "small: cannot be read now" in gone.notes[0]
    assert gone.text.startswith("small: cannot be read now")
    assert gone.text.endswith(look.text)
    assert not gone.at_rest
    (tmp_path / "away").rename(path)
    assert look_again([gone])[0].fault is None


def test_a_line_of_the_table_has_a_cell_for_each_heading(write_run, points):
    look = look_again([Look(str(write_run("small", points, stop=200)))])[0]
    assert len(look.cells) == len(Look("never").cells) == len(HEADINGS)
    assert look.cells[:3] == ("small", "4/10", "1")
    assert "0: 40.0 (5-85), 0.25: 40.0 (5-85)" in look.cells[6]
