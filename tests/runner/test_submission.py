"""Jobs submitted to a real head with its dashboard, which asks for a token, from another process and folder."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.job_submission import JobSubmissionClient

from srs_ray.errors import JobError, RunDirectoryError, SrsRayError
from srs_ray.job import Job
from srs_ray.runner.submission import Submission, submit
from srs_ray.runs import RunDirectory

COMMANDS = Path(sys.executable).parent
SUBMIT = [sys.executable, "-m", "srs_ray.cli", "submit"]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A head of its own on this machine; gives the environment in which commands reach it."""
    dashboard, client, agent = free_ports(3)
    folder = Path(f"/tmp/srs-ray-{os.getpid()}")  # sockets below it: their paths may have 107 bytes
    environment = {
        **os.environ,
        "PATH": f"{COMMANDS}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    environment.pop("RAY_ADDRESS", None)
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            shlex.split(
                f"ray start --head --block --port=0 --temp-dir={folder} --num-cpus=2 --object-store-memory=100000000 "
                f"--dashboard-port={dashboard} --ray-client-server-port={client} --dashboard-agent-listen-port={agent} "
                "--min-worker-port=0 --max-worker-port=0 --disable-usage-stats"
            ),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", dashboard), timeout=1):
                break
            time.sleep(0.2)
        else:
            pytest.fail(f"the head did not start:\n{log.read_text()}")
        yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for pid in processes_naming(str(folder)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def processes_naming(text: str, name: str = "") -> list[int]:
    """Processes whose command line, or whose parent's, contains the text, and whose own begins with the name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            own = (folder / "cmdline").read_text()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if own.startswith(name) and (text in own or text in (Path("/proc") / parent / "cmdline").read_text()):
                found.append(int(folder.name))
    return found


@pytest.fixture
def job_file(digits_job, tmp_path) -> Callable[..., Path]:
    def write(**sections: Any) -> Path:
        path = tmp_path / "local" / "my-job.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(digits_job(**sections).model_dump(mode="json")))
        return path

    return write


def run(command: list[str], head: dict[str, str]) -> tuple[int, str]:
    """Exit code and all that was written."""
    done = subprocess.run(command, env=head, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    return done.returncode, done.stdout


def test_a_submitted_job_is_followed_to_its_table(head, job_file, tmp_path):
    output = tmp_path / "elsewhere"
    command = [*SUBMIT, str(job_file()), "--output", str(output), "--set", "data.stop=20"]
    code, out = run([*command, "--set", "execution.workers=1"], head)
    assert code == 0, out
    assert "submitted raysubmit_" in out
    assert "2 of 2 points certified, 2 of them now" in out
    assert "Certificate: exact" in out
    assert RunDirectory.open(output).finished() == {0, 10}


def test_a_cluster_that_asks_for_its_token_says_how_to_give_it(head, digits_job, monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SrsRayError, match="RAY_AUTH_TOKEN"):
        submit(digits_job(), head["RAY_API_SERVER_ADDRESS"])


def test_a_job_that_is_out_of_sight_is_said_to_be_so(head):
    client = JobSubmissionClient(
        head["RAY_API_SERVER_ADDRESS"], headers={"Authorization": f"Bearer {head['RAY_AUTH_TOKEN']}"}
    )
    with pytest.raises(SrsRayError, match=r"lost sight of raysubmit_gone.*ray job logs --follow raysubmit_gone"):
        Submission(client, "raysubmit_gone").follow(print)


@pytest.mark.slow
def test_no_wait_returns_before_the_job_ends_and_the_printed_command_shows_its_log(head, job_file, tmp_path):
    code, out = run([*SUBMIT, str(job_file()), "--no-wait"], head)
    assert code == 0, out
    assert "points certified" not in out
    code, log = run(shlex.split(printed(out, "to look")), head)
    assert code == 0, log
    assert "6 of 6 points certified" in log


@pytest.mark.slow
def test_the_exit_code_is_that_of_the_job(head, job_file, tmp_path):
    path = job_file()
    assert run([*SUBMIT, str(path), "--set", "data.stop=10"], head)[0] == 0
    code, out = run([*SUBMIT, str(path), "--set", "noise.sigma=0.5"], head)
    assert code == 2
    assert "noise.sigma: 0.25 there, 0.5 now" in out


@pytest.mark.slow
def test_a_stopped_job_keeps_its_points_and_the_same_command_does_the_rest(head, job_file, tmp_path):
    output = tmp_path / "run"
    command = [*SUBMIT, str(job_file(data={"every": 1, "stop": 300}, sampling={"n": 400}))]

    # Ctrl-C stops following; the job goes on.
    following, out = follow_until_at_work(command, head)
    following.send_signal(signal.SIGINT)
    rest = following.communicate(timeout=60)[0]
    assert following.returncode == 130, out + rest
    assert "goes on" in rest
    assert run(shlex.split(printed(out, "to stop").replace("stop", "status", 1)), head)[1].count("RUNNING")

    time.sleep(5)  # for some points
    assert run(shlex.split(printed(out, "to stop")), head)[0] == 0
    kept = rows(output)
    assert 0 < len(kept) < 300

    # Whoever follows a job that is stopped sees it end with 143.
    following, out = follow_until_at_work(command, head)
    assert run(shlex.split(printed(out, "to stop")), head)[0] == 0
    out += following.communicate(timeout=60)[0]
    assert following.returncode == 143, out
    assert "stopped by a signal" in out

    stop = max(rows(output)) + 4
    before = len(rows(output))
    code, out = run([*command, "--set", f"data.stop={stop}"], head)
    assert code == 0, out
    assert f"{stop} of {stop} points certified, {stop - before} of them now" in out
    after = rows(output)
    assert sorted(after) == list(range(stop))
    assert {index: after[index] for index in kept} == kept


def rows(output: Path) -> dict[int, Any]:
    """When each point was finished, by its index."""
    return {row["index"]: row["finished_at"] for row in RunDirectory.open(output).rows().to_pylist()}


def printed(out: str, what: str) -> str:
    return next(line.partition(": ")[2] for line in out.splitlines() if line.strip().startswith(what))


def follow_until_at_work(command: list[str], head: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """A submission that is followed, when its log has begun and a worker certifies; and what it wrote until then."""
    command = ["env", "--default-signal=INT", *command]  # a test run in the background would have it ignored
    following = subprocess.Popen(command, env=head, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out = ""
    assert following.stdout is not None
    for line in following.stdout:
        out += line
        if "points to do" in line:
            break
    deadline = time.monotonic() + 120
    while not processes_naming(f"/tmp/srs-ray-{os.getpid()}", "ray::CertifierActor.certify"):
        assert time.monotonic() < deadline, out
        assert following.poll() is None, out
        time.sleep(0.1)
    return following, out


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"output": "runs/x"}, "output runs/x"),
        ({"data": {"kind": "cifar10", "path": "data"}}, "data.path data"),
        ({"data": {"kind": "cifar10", "path": "~/data"}}, "data.path ~/data"),
        ({"model": {"arch": "mdeq-tiny-digits", "weights": "mine.safetensors"}}, "model.weights mine.safetensors"),
    ],
)
def test_paths_that_mean_nothing_on_the_cluster_are_refused(digits_job, changes, named):
    job = Job.model_validate(digits_job().model_dump(mode="json") | changes)
    with pytest.raises(JobError, match="absolute") as error:
        submit(job, "http://127.0.0.1:1")
    assert named in str(error.value)
    setting = named.split()[0]
    assert f"--set {setting}=" in str(error.value)


def test_credentials_in_a_uri_never_leave_this_machine(digits_job):
    with pytest.raises(RunDirectoryError, match="must not carry credentials") as error:
        submit(digits_job(output="s3://key:secret@bucket/run"), "http://127.0.0.1:1")
    assert "secret@" not in str(error.value)


@pytest.mark.parametrize("output", ["/shared/run", "s3://bucket/run"])
def test_paths_of_the_cluster_pass_and_an_address_where_nothing_answers_is_named(digits_job, output, monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    [port] = free_ports(1)
    with pytest.raises(SrsRayError, match=f"no Ray dashboard answers at http://127.0.0.1:{port}"):
        submit(digits_job(output=output), f"127.0.0.1:{port}")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{port}/")
    with pytest.raises(SrsRayError, match=f"no Ray dashboard answers at http://127.0.0.1:{port}/"):
        submit(digits_job(output=output), "http://127.0.0.1:1")
