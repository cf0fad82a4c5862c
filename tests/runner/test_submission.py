"""Jobs submitted to a real head with its dashboard, which asks for a token, from another process and folder."""

from __future__ import annotations

import os
import random
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.job_submission import JobSubmissionClient

from srs_ray.errors import JobError, RunDirectoryError, SrsRayError
from srs_ray.job import Job
from srs_ray.job_file import load_job
from srs_ray.runner.packing import pack
from srs_ray.runner.submission import Submission, submit
from srs_ray.runs import RunDirectory

COMMANDS = Path(sys.executable).parent
SUBMIT = [sys.executable, "-m", "srs_ray.cli", "submit"]


def free_ports(count: int) -> list[int]:
    """Below those that the system gives away by itself: a Ray of another test could take one before the head does, and
    `ray start` goes on without a dashboard then.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


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


def run(command: list[str], head: dict[str, str], cwd: Path | None = None) -> tuple[int, str]:
    """Exit code and all that was written."""
    done = subprocess.run(
        command, env=head, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )
    return done.returncode, done.stdout


def test_a_submitted_job_is_followed_to_its_table(head, job_file, tmp_path):
    output = tmp_path / "elsewhere"
    command = [*SUBMIT, str(job_file()), "--output", str(output), "--set", "data.stop=20"]
    code, out = run([*command, "--set", "execution.workers=1"], head)
    assert code == 0, out
    assert "submitted raysubmit_" in out
    assert re.search(r"with these files and no others:\n  job\.yaml \([\d,]+ bytes\)\n  to look", out)
    assert "2 of 2 points certified, 2 of them now" in out
    assert "Certificate: exact" in out
    assert RunDirectory.open(output).finished() == {0, 10}


NET = """
    import torch
    from parts.layers import PRINTED, Layers

    def make(width):
        print(PRINTED, flush=True)
        torch.manual_seed(0)
        return Layers(width).eval()
"""
LAYERS = """
    from torch import nn
    from . import names

    PRINTED = names.PRINTED

    class Layers(nn.Sequential):
        def __init__(self, width):
            super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""
PATCHES = """
    from reading import digits

    class Patches:
        class_names = [str(digit) for digit in range(10)]

        def __init__(self):
            self.images, self.labels = digits()

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, index):
            return self.images[index], self.labels[index]
"""
READING = """
    import numpy as np
    from sklearn.datasets import load_digits

    def digits():
        bunch = load_digits()
        return (bunch.images / 16).astype(np.float32), bunch.target
"""


@pytest.fixture
def own_files(tmp_path) -> Path:
    """A folder `mine` with a model in `nets` and a data set in `sets`, each with modules of its own."""
    files = {
        "nets/net.py": NET,
        "nets/parts/__init__.py": "",
        "nets/parts/layers.py": LAYERS,
        "nets/parts/names.py": "PRINTED = 'made by the code that came along'",
        "nets/train.py": "raise RuntimeError('nothing imports this')",
        "sets/patches.py": PATCHES,
        "sets/reading.py": READING,
    }
    for name, text in files.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "mine"


@pytest.fixture
def job_of_own(digits_job, own_files) -> Callable[..., Job]:
    """A job whose model and data are files in `own_files`; sections given replace its own."""

    def make(**sections: Any) -> Job:
        settings = digits_job().model_dump(mode="json") | {
            "model": {
                "import": f"{own_files}/nets/net.py:make",
                "args": {"width": 16},
                "input_shape": [1, 8, 8],
                "classes": 10,
            },
            "data": {"import": f"{own_files}/sets/patches.py:Patches", "stop": 20, "every": 10, "pixels": "rounded"},
            "sampling": {"method": "standard", "n0": 20, "n": 100},
            "certificate": {"alpha": 0.01},
        }
        return Job.model_validate(settings | sections)

    return make


@pytest.mark.slow
def test_a_job_of_ones_own_code_is_submitted_with_its_files_and_is_the_same_run(
    head, job_of_own, own_files, tmp_path, result_rows
):
    job_file = tmp_path / "mine" / "job.yaml"
    model = {"import": "nets/net.py:make", "args": {"width": 16}, "input_shape": [1, 8, 8], "classes": 10}
    data = {"import": "sets/patches.py:Patches", "stop": 20, "every": 10, "pixels": "rounded"}
    job_file.write_text(yaml.safe_dump(job_of_own().model_dump(mode="json") | {"model": model, "data": data}))
    there, here = tmp_path / "there", tmp_path / "here"
    code, out = run([*SUBMIT, "job.yaml", "--output", str(there)], head, cwd=own_files)
    assert code == 0, out
    assert "2 of 2 points certified, 2 of them now" in out
    assert "made by the code that came along" in out
    local = [sys.executable, "-m", "srs_ray.cli", "certify", "job.yaml", "--no-ray", "--output", str(here)]
    code, out = run(local, head, cwd=own_files)
    assert code == 0, out
    assert RunDirectory.open(there).fingerprint == RunDirectory.open(here).fingerprint
    code = {name for name in RunDirectory.open(there).fingerprint if ".code." in name}
    assert code == {
        "data.code.patches.py",
        "data.code.reading.py",
        "model.code.net.py",
        "model.code.parts/__init__.py",
        "model.code.parts/layers.py",
        "model.code.parts/names.py",
    }
    assert result_rows(str(there)) == result_rows(str(here))


def packed(job: Job, folder: Path) -> tuple[dict[str, Any], set[str]]:
    """The job's settings as a cluster gets them, and all other files that go along."""
    folder.mkdir()
    pack(job, folder)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    settings = yaml.safe_load((folder / "job.yaml").read_text())
    assert load_job(folder / "job.yaml").model_dump(exclude={"model", "data"}) == job.model_dump(
        exclude={"model", "data"}
    )
    return settings, files - {"job.yaml"}


def test_only_files_that_can_be_imported_go_along_and_nothing_of_them_runs_here(job_of_own, own_files, tmp_path):
    (own_files / "nets/parts/names.py").write_text("raise RuntimeError('this ran')")
    for secret in (".env", "nets/.env", "nets/.git/config", "nets/key.pem", "nets/id_rsa", "nets/.secret/__init__.py"):
        (own_files / secret).parent.mkdir(exist_ok=True)
        (own_files / secret).write_text("password")
    settings, files = packed(job_of_own(), tmp_path / "packed")
    assert files == {
        "code-1/net.py",
        "code-1/parts/__init__.py",
        "code-1/parts/layers.py",
        "code-1/parts/names.py",
        "code-2/patches.py",
        "code-2/reading.py",
    }
    assert settings["model"]["import"] == "code-1/net.py:make"
    assert settings["data"]["import"] == "code-2/patches.py:Patches"
    assert not [name for name in sys.modules if name.endswith(("_net", "_patches"))]


def test_files_keep_their_places_to_each_other(job_of_own, own_files, tmp_path):
    for name in ("patches.py", "reading.py"):
        (own_files / "nets" / name).write_text((own_files / "sets" / name).read_text())
    data = {"import": f"{own_files}/nets/patches.py:Patches"}
    settings, _ = packed(job_of_own(data=data), tmp_path / "one folder")
    assert (settings["model"]["import"], settings["data"]["import"]) == (
        "code-1/net.py:make",
        "code-1/patches.py:Patches",
    )
    (own_files / "nets/sub").mkdir()
    for name in ("patches.py", "reading.py"):
        (own_files / "nets" / name).rename(own_files / "nets/sub" / name)
    data = {"import": f"{own_files}/nets/sub/patches.py:Patches"}
    settings, files = packed(job_of_own(data=data), tmp_path / "one in the other")
    assert settings["data"]["import"] == "code-1/sub/patches.py:Patches"
    assert {"code-1/sub/patches.py", "code-1/sub/reading.py"} < files


def test_an_installed_module_is_the_clusters(job_of_own, tmp_path):
    model = {"import": "torchvision.models:resnet18", "input_shape": [3, 32, 32], "classes": 1000}
    settings, files = packed(job_of_own(model=model), tmp_path / "packed")
    assert settings["model"]["import"] == "torchvision.models:resnet18"
    assert files == {"code-1/patches.py", "code-1/reading.py"}


@pytest.mark.parametrize("section", ["model", "data"])
def test_a_file_that_is_not_there_is_named_before_anything_is_sent(job_of_own, own_files, section):
    job = job_of_own()
    path = own_files / ("nets/net.py" if section == "model" else "sets/patches.py")
    path.unlink()
    with pytest.raises(JobError, match=f"there is no file {path}"):
        submit(job, "http://127.0.0.1:1")


def test_files_of_many_bytes_are_refused_with_the_largest_of_them(job_of_own, own_files):
    (own_files / "nets/parts/names.py").write_text(f"PRINTED = {'7' * 50_000_000!r}")
    with pytest.raises(JobError, match=r"50\.0 MB together, and 50 MB can be submitted \(the largest: names\.py"):
        submit(job_of_own(), "http://127.0.0.1:1")


def test_weights_of_a_model_of_ones_own_may_be_absent_and_are_the_clusters(job_of_own, own_files):
    model = job_of_own().model_dump(mode="json")["model"] | {"weights": "mine.safetensors"}
    with pytest.raises(JobError, match=r"model\.weights mine\.safetensors.*absolute"):
        submit(job_of_own(model=model), "http://127.0.0.1:1")


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
