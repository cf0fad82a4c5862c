"""What cluster/README.md tells a new user to type."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from srs_ray.errors import SrsRayError
from srs_ray.runner.submission import submit

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster" / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.startswith("srs-ray ")]


def test_every_file_that_is_named_exists():
    named = [name for name in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in name]
    assert {"grafana-dashboard.json", "slurm.sh", "rayjob.yaml", "Dockerfile", "aws.yaml", "gcp.yaml"} == set(named)
    assert all((ROOT / "cluster" / name).is_file() for name in named)
    in_commands = re.findall(r"\b(?:cluster|jobs)/[\w./-]+", "".join(BLOCKS))
    assert in_commands
    assert all((ROOT / name).is_file() for name in in_commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_of_ours_and_makes_a_job(command, job_of_command):
    job_of_command(command, lambda name: ROOT / name)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("srs-ray submit")])
def test_submitted_jobs_name_places_of_the_cluster(command, job_of_command, monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    job = job_of_command(command, lambda name: ROOT / name)
    with pytest.raises(SrsRayError, match="no Ray dashboard answers"):  # and not: an absolute path, please
        submit(job, "http://127.0.0.1:1")
