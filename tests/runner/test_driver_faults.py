"""The driver, as a user starts it: killed, short of disk, started twice, at points that take too long."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import yaml

from srs_ray.errors import RunDirectoryError
from srs_ray.job import Job
from srs_ray.runner.certification import certify
from srs_ray.runner.ray_backend import RayBackend
from srs_ray.runs import RunDirectory


@pytest.fixture
def command(digits_job, tmp_path):
    """The command line that certifies a digits job; sections given are laid over it."""

    def make(*arguments: str, **sections) -> list[str]:
        job_file = tmp_path / "job.yaml"
        job_file.write_text(yaml.safe_dump(digits_job(**sections).model_dump(mode="json")))
        return [sys.executable, "-m", "srs_ray.cli", "certify", str(job_file), *arguments]

    return make


def start(command: list[str], **options) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def finished(path: str) -> set[int]:
    try:
        return RunDirectory.open(path).finished()
    except RunDirectoryError:  # killed before there was a run
        return set()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("kills", "points"), [(1, 6), pytest.param(20, 60, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_a_driver_killed_at_random_moments_finishes_with_the_rows_of_an_undisturbed_one(
    command, digits_job, cluster, tmp_path, run_in_process, result_rows, kills, points
):
    chance = random.Random(kills)
    run = str(tmp_path / "run")
    certify_points = command("--address", cluster, data={"stop": points, "every": 1})
    kept: set[int] = set()
    for _ in range(kills):
        driver = start(certify_points)
        time.sleep(chance.uniform(3, 25 if kills > 1 else 9))
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        assert kept <= finished(run)
        kept = finished(run)
    driver = start(certify_points)
    out, _ = driver.communicate()
    assert driver.returncode == 0, out
    undisturbed = digits_job(data={"stop": points, "every": 1}, output=str(tmp_path / "undisturbed"))
    run_in_process(undisturbed)
    assert len(result_rows(run)) == points
    assert result_rows(run) == result_rows(undisturbed.output)


def test_a_full_disk_ends_the_run_with_a_clear_error_and_harms_nothing(
    digits_job, tmp_path, run_in_process, result_rows
):
    points = tmp_path / "run" / "points"
    assert run_in_process(digits_job(data={"stop": 20})).exit_code == 0
    before = {part.name: part.read_bytes() for part in points.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = max(map(len, before.values())) - 1  # run.json fits, a part does not
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(RunDirectoryError, match=r"cannot write 1 rows to points/ \(File too large\); make room"):
            run_in_process(digits_job())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {part.name: part.read_bytes() for part in points.iterdir()} == before
    assert run_in_process(digits_job()).finished == 4
    assert [row["index"] for row in result_rows(str(tmp_path / "run"))] == [0, 10, 20, 30, 40, 50]


def test_a_second_driver_refuses_while_the_first_lives_and_takes_over_when_it_is_dead(
    command, digits_job, tmp_path, run_in_process
):
    run = tmp_path / "run"
    first = start(command("--no-ray", data={"stop": 300, "every": 1}))
    try:
        wait_for(lambda: (run / "run.json").exists())
        with pytest.raises(RunDirectoryError, match=f"process {first.pid} of host"):
            run_in_process(digits_job(data={"stop": 300, "every": 1}))
        wait_for(lambda: finished(str(run)))
    finally:
        first.kill()
        first.communicate()
    kept = finished(str(run))
    summary = run_in_process(digits_job(data={"stop": max(kept) + 2, "every": 1}))
    assert (summary.exit_code, summary.finished) == (0, max(kept) + 2 - len(kept))
    assert not (run / "lease.json").exists()


WAITING = """
    import os, time
    import numpy as np

    class Waiting:
        identity = "an image that a worker gets once the gate is open"

        def __init__(self, driver, gate):
            self.driver, self.gate = driver, gate

        def __len__(self):
            return 1

        def __getitem__(self, index):
            if os.getpid() == self.driver:
                raise OSError("the driver gets no image, which it would send along")
            while not os.path.exists(self.gate):
                time.sleep(0.1)
            return np.full((16, 16), 128, dtype=np.uint8), 0
"""


def test_a_point_over_its_time_limit_is_an_error_row_and_done_once_there_is_time(
    digits_settings, cluster, console, tmp_path
):
    (tmp_path / "waiting.py").write_text(textwrap.dedent(WAITING))
    gate = tmp_path / "gate"
    data = {"import": f"{tmp_path}/waiting.py:Waiting", "args": {"driver": os.getpid(), "gate": str(gate)}}

    def job(**execution) -> Job:
        settings = digits_settings(output=str(tmp_path / "run"), execution=execution)
        return Job.model_validate(settings | {"data": data})

    limited, free = job(point_seconds=1), job()
    summary = certify(limited, lambda: RayBackend(limited.execution, cluster), console)
    assert (summary.done, summary.errors, summary.exit_code) == (0, 1, 3)
    [error] = RunDirectory.open(limited.output).rows(["error"])["error"].to_pylist()
    assert error == "given up after it failed once: it took longer than execution.point_seconds (1 s)"
    gate.touch()
    assert certify(free, lambda: RayBackend(free.execution, cluster), console).exit_code == 0
