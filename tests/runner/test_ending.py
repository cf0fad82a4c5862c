"""The command at the end of a run."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from srs_ray.errors import JobError
from srs_ray.execution import ExecutionSettings
from srs_ray.job_file import load_job, parse_override
from srs_ray.planning.pilot import run_pilot
from srs_ray.runner.backend import InProcess
from srs_ray.runner.certification import RunSummary, certify
from srs_ray.runner.ending import ended, run_command
from srs_ray.runs import RunDirectory

WRITE = """
import json, os, sys
json.dump({name: value for name, value in os.environ.items() if "SRS_RAY_" in name}, open(sys.argv[1], "w"))
"""


def told(path: Path) -> dict[str, str]:
    return json.loads(path.read_text())


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A command that writes what it is told into `told.json`."""
    return [sys.executable, "-c", WRITE, str(tmp_path / "told.json")]


def test_a_run_that_is_done_tells_its_command_so(digits_job, run_in_process, console, command, tmp_path):
    job = digits_job(execution={"on_end": command})
    summary = run_in_process(job)
    found = told(tmp_path / "told.json")
    shares = {name: float(value) for name, value in found.items() if "ACCURACY" in name}
    assert shares == {
        "SRS_RAY_CERTIFIED_ACCURACY_0": summary.certified_accuracy[0],
        "SRS_RAY_CERTIFIED_ACCURACY_0_125": summary.certified_accuracy[0.125],
    }
    assert {name: value for name, value in found.items() if name not in shares} == {
        "SRS_RAY_RUN": job.output,
        "SRS_RAY_STATUS": "done",
        "SRS_RAY_EXIT_CODE": "0",
        "SRS_RAY_ASKED": "6",
        "SRS_RAY_POINTS": "6",
        "SRS_RAY_ERRORS": "0",
    }
    assert "execution.on_end: at its end the run starts: " in console.file.getvalue()
    assert not any("on_end" in name for name in RunDirectory.open(job.output).fingerprint)


def test_a_run_that_an_error_ends_tells_its_command_so_and_raises_it(digits_job, console, command, tmp_path):
    def no_backend() -> InProcess:
        raise RuntimeError("no GPU is\nthere")

    with pytest.raises(RuntimeError, match="no GPU is"):
        certify(digits_job(execution={"on_end": command}), no_backend, console)
    found = told(tmp_path / "told.json")
    assert (found["SRS_RAY_STATUS"], found["SRS_RAY_FAULT"]) == ("failed", "no GPU is there")


@pytest.mark.parametrize(
    ("asked", "done", "stopped", "status"), [(6, 6, None, "done"), (6, 5, None, "failed"), (6, 2, 15, "stopped")]
)
def test_the_status_says_how_the_run_ended(asked, done, stopped, status):
    variables = ended(RunSummary("run", asked, done, done, 0, stopped, {0.5: 1 / 3, 1e-5: 0.5}))
    assert variables["SRS_RAY_STATUS"] == status
    assert variables["SRS_RAY_CERTIFIED_ACCURACY_0_5"] == "0.333333"
    assert variables["SRS_RAY_CERTIFIED_ACCURACY_1e_05"] == "0.5"


def test_a_pilot_is_no_end_of_a_run(digits_job, console, command, tmp_path):
    job = digits_job(execution={"on_end": command})
    run_pilot(job, lambda: InProcess(job.execution), console, 1)
    assert not (tmp_path / "told.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/nowhere/program"], "could not be started: No such file or directory"),
        ([sys.executable, "-c", "raise SystemExit(7)"], "failed with exit code 7"),
    ],
)
def test_a_command_that_fails_is_a_warning_and_nothing_more(digits_job, run_in_process, words, said, caplog):
    assert run_in_process(digits_job(execution={"on_end": words})).exit_code == 0
    assert said in caplog.text


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path, caplog):
    marker = tmp_path / "pid"
    run_command(["sh", "-c", f"sleep 600 & echo $! > {marker}; wait"], {}, 3.0)
    assert "was ended: it took more than 3 s" in caplog.text
    assert gone(int(marker.read_text()))


def gone(pid: int) -> bool:
    """Whether that process ends soon; one that its parent did not wait for is a zombie, which is enough."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_signal_ends_the_command_and_not_the_driver(caplog):
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
    with caplog.at_level(logging.WARNING):
        run_command(["sleep", "600"], {}, 600.0)
    assert "was ended: a signal asked to stop" in caplog.text


def test_a_command_is_words_and_no_shell_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ExecutionSettings(on_end="notify 'a run' $HOME").on_end == ("notify", "a run", "$HOME")
    run_command(ExecutionSettings(on_end="touch a;touch $b").on_end, {"b": "c"}, 60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["$b", "a;touch"]


@pytest.mark.parametrize("value", ["''", "[]", '"a \'b"', '["a\\0"]', "[1]"])
def test_what_is_no_command_is_refused(value):
    with pytest.raises(JobError, match=r"execution\.on_end"):
        load_job("digits-srs", dict([parse_override(f"execution.on_end={value}")]))


def test_a_job_without_a_command_is_stored_as_before(digits_job):
    assert "on_end" not in str(digits_job().model_dump(mode="json"))
    stored = digits_job(execution={"on_end": "a b", "on_end_seconds": 5}).model_dump(mode="json")["execution"]
    assert (stored["on_end"], stored["on_end_seconds"]) == (["a", "b"], 5.0)
