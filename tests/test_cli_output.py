"""What is printed never ends the work that it tells of."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from srs_ray.runs import RunDirectory

PRINTS = """
import sys
from srs_ray.cli_output import keep_printing
keep_printing()
sys.stdin.readline()
for stream in (sys.stdout, sys.stderr):
    for _ in range(3):
        print("caf\\u00e9 \\udce9 \\u2013", file=stream, flush=True)
open(sys.argv[1], "w").write("went on")
"""


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1", "utf-8"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_any_text_is_printed_in_any_encoding(tmp_path, encoding, unbuffered):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", PRINTS, str(tmp_path / "after")]
    done = subprocess.run(command, env=environment, input=b"\n", capture_output=True, check=True)
    assert (tmp_path / "after").read_text() == "went on"
    for printed in (done.stdout, done.stderr):
        assert rb"\udce9" in printed
        assert printed.decode(encoding.partition(":")[0]).startswith("caf")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_or_a_terminal_that_is_closed_ends_nothing(tmp_path, terminal, unbuffered):
    reading, writing = pty.openpty() if terminal else os.pipe()
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS, str(tmp_path / "after")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    os.close(reading)
    process.communicate(b"\n")
    assert process.returncode == 0
    assert (tmp_path / "after").read_text() == "went on"


REFUSES = """
from srs_ray.cli_output import refuse_lost_output
try:
    refuse_lost_output()
except Exception as error:
    print(type(error).__name__, error, file=sys.stderr)
"""


def test_a_full_disk_ends_nothing_and_is_told_by_commands_that_do_nothing_but_print(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    command = [sys.executable, "-c", PRINTS + REFUSES, str(tmp_path / "after")]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, input=b"\n", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert (tmp_path / "after").read_text() == "went on"
    assert b"SrsRayError standard output goes to a disk that is full" in done.stderr
    assert b"SrsRayError" not in subprocess.run(command, input=b"\n", capture_output=True).stderr


def test_a_run_goes_on_when_nobody_reads_and_has_its_own_exit_code(
    tmp_path, digits_settings: Callable[..., dict[str, Any]]
):
    settings = digits_settings(data={"stop": 20}, output=str(tmp_path / "run"))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "COLUMNS": "40"}
    command = [sys.executable, "-m", "srs_ray.cli", "certify", str(tmp_path / "job.yaml"), "--no-ray"]
    done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert RunDirectory.open(tmp_path / "run").finished() == {0, 10}
