"""Files may be called anything: a name never costs a point, and reaches no terminal or file as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from srs_ray.data import open_dataset
from srs_ray.errors import RunDirectoryError
from srs_ray.job import Job
from srs_ray.job_file import parse_override
from srs_ray.runner.worker import LONGEST_ERROR, failed_row
from srs_ray.runs import Lease, RunDirectory
from srs_ray.runs.schema import check_row

NOT_UTF8 = os.fsdecode(b"caf\xe9")
STRANGE = {
    NOT_UTF8: r"caf\udce9",
    "x" * 240: "x" * 240,
    "a\nb\x1b[31m\u202e": r"a\nb\x1b[31m\u202e",
    "[bold]ü é": "[bold]ü é",
}


@pytest.fixture
def job_of(digits_job, tmp_path) -> Callable[..., Job]:
    """A quick job on ten class folders of one digit each, which lie in a folder of that name."""

    def make(folder: str = "data", **sections: Any) -> Job:
        root = tmp_path / folder
        for index in range(10):
            (root / f"d{index}").mkdir(parents=True, exist_ok=True)
            digit = open_dataset("digits", None, "test", (1, 16, 16)).image(index)
            Image.fromarray((digit[0].numpy() * 255).astype("uint8")).save(root / f"d{index}" / "00.png")
        settings = digits_job().model_dump(mode="json", by_alias=True)
        sampling = {"method": "standard", "n0": 10, "n": 20, "reference": {"steps": 3}}
        data = {"kind": "imagefolder", "path": str(root)}
        quick = {"sampling": sampling, "certificate": {"alpha": 0.05}, "data": data}
        return Job.model_validate({**settings, **quick, **sections})

    return make


def test_broken_images_of_strange_names_are_error_rows_and_the_other_points_are_certified(
    job_of, run_in_process, tmp_path
):
    job = job_of()
    for name in STRANGE:
        (tmp_path / "data" / "d1" / f"{name}.png").write_bytes(b"no image")
    for _ in range(2):
        summary = run_in_process(job)
        assert (summary.done, summary.errors, summary.exit_code) == (10, len(STRANGE), 3)
    rows = [row for row in RunDirectory.open(job.output).rows().to_pylist() if row["status"] == "error"]
    assert {row["source"] for row in rows} == {f"data/d1/{shown}.png" for shown in STRANGE.values()}
    for row in rows:
        assert row["error"].isprintable()
        assert "not readable as an image" in row["error"]


@pytest.mark.parametrize("name", STRANGE)
def test_readable_data_of_strange_names_are_certified(job_of, run_in_process, name):
    job = job_of(name)
    os.rename(Path(job.data.path) / "d3", Path(job.data.path) / name)
    assert run_in_process(job).exit_code == 0
    rows = RunDirectory.open(job.output).rows().to_pylist()
    assert STRANGE[name] in [row["class_name"] for row in rows]


def test_a_run_at_a_path_that_is_not_utf8_is_refused(job_of, run_in_process, tmp_path):
    job = job_of(output=str(tmp_path / NOT_UTF8))
    for use in (run_in_process, lambda job: RunDirectory.open(job.output), lambda job: Lease.acquire(job.output)):
        with pytest.raises(RunDirectoryError, match="a run cannot lie at a path that is not UTF-8"):
            use(job)


def test_a_run_at_a_path_that_is_too_long_is_refused(job_of, run_in_process, tmp_path):
    with pytest.raises(RunDirectoryError, match="File name too long"):
        run_in_process(job_of(output=str(tmp_path / ("x" * 300))))


def test_a_run_in_the_home_directory_is_there_for_whoever_reads_or_writes_it(
    job_of, run_in_process, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    job = job_of(output="~/runs/a", data={"kind": "imagefolder", "path": "~/data", "stop": 2})
    summary = run_in_process(job)
    assert summary.path == str(tmp_path / "runs" / "a")
    assert RunDirectory.open("~/runs/a").finished() == {0, 1}
    assert not (tmp_path / "~").exists()
    with pytest.raises(RunDirectoryError, match="~nobody-here/a names a home directory that there is not"):
        RunDirectory.open("~nobody-here/a")


def test_a_setting_that_is_not_utf8_can_be_given_on_the_command_line():
    assert parse_override(f"data.path={NOT_UTF8}") == ("data.path", NOT_UTF8)


def test_an_endless_error_is_cut():
    row = failed_row(0.5, 3, 1, "\udce9" * 10_000)
    assert LONGEST_ERROR < len(row["error"]) < LONGEST_ERROR + 100
    check_row(row)
