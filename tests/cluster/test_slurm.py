"""The Slurm script, run as Slurm would run it, with stand-ins for Slurm's own `srun` and `scontrol` alone.

`ray symmetric-run` ends with `ray stop`, which stops every Ray that it sees: so it runs where it sees no other process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from srs_ray.runs import RunDirectory

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "slurm.sh"
ALONE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
STAND_INS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": '[[ $1 == show ]] && echo 127.0.0.1 || echo "$@" >> scontrol.log\n',
}


@pytest.fixture
def allocation(tmp_path, digits_settings) -> Callable[..., subprocess.Popen[str]]:
    """Starts the script in a folder with a job file, as the first node of an allocation of one node with one CPU."""
    try:
        seen = subprocess.run([*ALONE, "ps", "-e"], capture_output=True, text=True, timeout=30).stdout
    except FileNotFoundError:
        seen = ""
    if len(seen.splitlines()) != 2:  # a heading and itself
        pytest.skip("`ray stop` cannot be kept from other processes here: no process namespaces for this user")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(digits_settings(data={"stop": 20})))
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    (tmp_path / "slurm").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / "slurm" / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tmp_path / "slurm" / name).chmod(0o755)

    def start(*options: str, cpus: str = "1") -> subprocess.Popen[str]:
        slurm = {"JOB_ID": str(os.getpid()), "JOB_NODELIST": "n[1-1]", "JOB_NUM_NODES": "1"}
        environment = os.environ | {f"SLURM_{key}": value for key, value in slurm.items()}
        environment |= {"SLURM_CPUS_PER_TASK": cpus, "PATH": f"{tmp_path / 'slurm'}:{os.environ['PATH']}"}
        environment |= {"OMP_NUM_THREADS": "1"}
        environment.pop("RAY_ADDRESS", None)
        return subprocess.Popen(
            [*ALONE, "bash", SCRIPT, "job.yaml", *options],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def test_the_script_is_valid_shell_and_its_requests_come_before_its_first_command():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    lines = SCRIPT.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    requests = {line.split()[1] for line in lines[:first] if line.startswith("#SBATCH ")}
    assert {"--signal=B:TERM@120", "--requeue", "--exclusive", "--ntasks-per-node=1"} <= requests
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


@pytest.mark.slow
def test_the_script_certifies_a_job_on_a_ray_of_its_own(allocation, tmp_path):
    process = allocation("--set", "report.radii=[0]")
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert "2 of 2 points certified" in out
    assert RunDirectory.open(tmp_path / "run").finished() == {0, 10}
    assert not Path(f"/tmp/ray-{os.getpid()}").exists()


def test_a_ray_that_does_not_start_is_a_failure(allocation):
    process = allocation(cpus="none")
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 1, out
    assert "the job was not started" in out


@pytest.mark.slow
def test_the_end_of_the_allocation_keeps_points_and_the_next_one_goes_on(allocation, tmp_path):
    process = allocation("--set", "data.every=1", "--set", "data.stop=200")
    _wait_for_a_busy_worker(process)
    time.sleep(10)  # for some points
    os.kill(_child(process.pid), signal.SIGTERM)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 143, out
    assert "stopped by a signal" in out
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {os.getpid()}\n"
    kept = RunDirectory.open(tmp_path / "run").finished()
    assert 0 < len(kept) < 200

    stop = max(kept) + 3
    process = allocation("--set", "data.every=1", "--set", f"data.stop={stop}")
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert f"{stop} of {stop} points certified, {stop - len(kept)} of them now" in out


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _wait_for_a_busy_worker(process: subprocess.Popen[str]) -> None:
    """Until an actor below this script's Ray certifies a point."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (folder / "cmdline").read_text().startswith("ray::CertifierActor.certify"):
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    if f"/tmp/ray-{os.getpid()}/" in Path(f"/proc/{parent}/cmdline").read_text():
                        return
        time.sleep(0.1)
    raise AssertionError("no worker began to certify")
