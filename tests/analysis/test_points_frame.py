"""The frame of a run's points: its rows, their types, and what it remembers of the run."""

from __future__ import annotations

import copy
from datetime import timedelta

import pandas as pd
import pytest

from srs_ray.analysis.points import load_points
from srs_ray.analysis.run_info import RunInfo
from srs_ray.errors import RunDirectoryError, SrsRayError
from srs_ray.runs.directory import RunDirectory
from srs_ray.smoothing.limits import p_cap
from srs_ray.smoothing.radius import certified_radius


def test_columns_have_the_documented_types_with_and_without_errors(write_run, points):
    types = {"index": "int64", "attempt": "int32", "label": "Int32", "predicted": "Int32", "n": "Int64"}
    types |= {"correct": "boolean", "radius": "float64", "p_lower": "float64", "sigma": "float64", "seconds": "float64"}
    for name, some in (("with", points), ("without", points[:4]), ("only", points[4:])):
        df = load_points(write_run(name, some))
        assert {column: str(df[column].dtype) for column in types} == types
        assert isinstance(df["finished_at"].dtype, pd.DatetimeTZDtype)


def test_results_of_rows_in_error_are_missing_and_not_zero(write_run, points):
    row = load_points(write_run("small", points)).iloc[4]
    assert row["status"] == "error"
    assert row[["label", "predicted", "radius", "correct", "counts"]].isna().all()


def test_the_frame_knows_its_run(write_run, points):
    info = RunInfo.of(load_points(write_run("small-srs3a", points, start=0, stop=200)))
    assert (info.name, info.arch, info.data) == ("small-srs3a", "mdeq-small-cifar10", "cifar10 test")
    assert (info.method, info.setting, info.reference) == ("srs", "SRS 3A", "30A, tolerance 0.001")
    assert (info.sigma, info.n0, info.n, info.chains, info.audit) == (0.5, 100, 1000, 400, 100)
    assert (info.certificate, info.alpha, info.recomputed_from) == ("exact", 0.001, None)
    assert (info.start, info.stop, info.every, info.asked, info.outside) == (0, 200, 20, 10, 0)


def test_a_standard_run_is_named_by_its_solver_and_has_neither_chains_nor_audit(write_run, points):
    info = RunInfo.of(load_points(write_run("small", points, method="standard", kind="cohen")))
    assert (info.setting, info.chains, info.audit) == ("standard 30A", None, 0)


def test_the_cap_is_what_all_hits_without_disagreement_would_give(write_run, points):
    srs = RunInfo.of(load_points(write_run("srs", points)))
    assert srs.radius_cap == certified_radius(p_cap("exact", 1000, 100, 0.001), 0.5)
    assert srs.radius_cap == pytest.approx(0.5 * srs.radius_cap_in_sigma)
    perfect = {"label": 1, "selected": 1, "hits": 999, "disagreed": 0}  # one sample of the fixture is 'no class'
    assert 0 < load_points(write_run("best", [perfect]))["radius"].max() < srs.radius_cap


def test_points_that_are_no_longer_asked_for_are_left_out_and_counted(write_run, points):
    path = write_run("small", points)
    run = RunDirectory.open(path)
    RunDirectory.create_or_continue(
        path,
        job=run.job,
        fingerprint=run.fingerprint,
        points={"start": 0, "stop": 100, "every": 40},
        session=run.sessions[-1],
    )
    df = load_points(path)
    assert df["index"].tolist() == [0, 40, 80]
    assert (RunInfo.of(df).asked, RunInfo.of(df).outside) == (3, 2)


def test_a_point_done_again_counts_once_with_its_ok_row(write_run, points):
    path = write_run("small", points)
    before = load_points(path)
    retried = RunDirectory.open(path).rows().to_pylist()[0] | {"index": 80, "attempt": 2}
    retried["finished_at"] += timedelta(hours=1)
    RunDirectory.open(path).append([retried])
    df = load_points(path)
    assert len(df) == len(before) == 5
    assert df["status"].tolist() == ["ok"] * 5


def test_the_run_survives_what_pandas_does_to_frames(write_run, points, tmp_path):
    df = load_points(write_run("small", points))
    info = RunInfo.of(df)
    assert RunInfo.of(df[df["status"] == "ok"].sort_values("radius").copy()) == info
    assert RunInfo.of(pd.concat([df.iloc[:2], df.iloc[2:]])) == info
    df.to_parquet(tmp_path / "frame.parquet")
    assert RunInfo.of(pd.read_parquet(tmp_path / "frame.parquet")) == info


def test_frames_of_two_runs_joined_are_refused(write_run, points):
    frames = [load_points(write_run("a", points)), load_points(write_run("b", points))]
    with pytest.raises(SrsRayError, match="which run"):
        RunInfo.of(pd.concat(frames))


def test_a_missing_run_is_a_run_directory_error(tmp_path):
    with pytest.raises(RunDirectoryError):
        load_points(tmp_path / "nothing")


@pytest.mark.parametrize(
    "setting",
    [
        "certificate.audit",
        "certificate.alpha",
        "certificate.kind",
        "noise.sigma",
        "model.arch",
        "data.kind",
        *(f"sampling.{name}" for name in ("method", "n0", "n", "chains", "solver", "steps")),
        *(f"sampling.reference.{name}" for name in ("solver", "steps", "tolerance")),
    ],
)
def test_a_setting_missing_from_run_json_is_named(write_run, points, setting):
    path = write_run("small", points)
    run = RunDirectory.open(path)
    job = copy.deepcopy(run.job)
    *sections, name = setting.split(".")
    section = job
    for each in sections:
        section = section[each]
    del section[name]
    RunDirectory.create_or_continue(path, job, run.fingerprint, run.points, run.sessions[-1])
    with pytest.raises(RunDirectoryError, match=rf"no setting {setting}: "):
        load_points(path)
