"""Rows and runs for the tests of the run directory, and the real ways in which writing can fail."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.fs as fs
import pytest

from srs_ray.runs import RunDirectory

Row = dict[str, Any]

FINGERPRINT = {"noise.sigma": 0.5, "sampling.steps": 3, "sampling.solver": "anderson", "data.classes": ["cat", "dog"]}

_DROP_ROOT = """
import os, sys
from srs_ray.errors import RunDirectoryError
from srs_ray.runs import RunDirectory
if os.geteuid() == 0:
    try:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
    except OSError as error:
        sys.exit(f"cannot drop root: {error}")
"""


@pytest.fixture(scope="session")
def ok_row() -> Callable[..., Row]:
    """A factory of whole `ok` rows, finished `second` seconds after a fixed time."""

    def make(index: int, second: int = 0, **values: Any) -> Row:
        return {
            "index": index,
            "label": 3,
            "status": "ok",
            "predicted": 3,
            "radius": 0.1 + 0.2,
            "correct": True,
            "selected": 3,
            "p_lower": 0.9,
            "n0": 100,
            "n": 10_000,
            "selection_classes": [-1, 3],
            "selection_counts": [1, 99],
            "classes": [3],
            "counts": [10_000],
            "audited": 400,
            "disagreed": 2,
            "function_evaluations": 30_000,
            "reference_evaluations": 12_000,
            "fallbacks": 0,
            "unconverged": 1,
            "sigma": 0.5,
            "seconds": 1.25,
            "worker": "worker-1",
            "device": "cpu",
            "dtype": "float32",
            "batch": 100,
            "attempt": 1,
            "finished_at": datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=second),
            **values,
        }

    return make


@pytest.fixture(scope="session")
def error_row() -> Callable[..., Row]:
    """A factory of `error` rows, finished `second` seconds after a fixed time."""

    def make(index: int, second: int = 0, **values: Any) -> Row:
        return {
            "index": index,
            "status": "error",
            "error": "image 7 has 1 channel, expected 3",
            "attempt": 1,
            "finished_at": datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=second),
            **values,
        }

    return make


@pytest.fixture(scope="session")
def start() -> Callable[..., RunDirectory]:
    """Start or continue a run at a path, with a usual job unless told otherwise."""

    def make(path: Path | str, **values: Any) -> RunDirectory:
        arguments = {
            "job": {"output": "runs/x"},
            "fingerprint": FINGERPRINT,
            "points": {"start": 0, "stop": 100, "every": 20},
            "session": {"started_at": "2025-01-01T00:00:00+00:00"},
        }
        return RunDirectory.create_or_continue(path, **{**arguments, **values})

    return make


@pytest.fixture(scope="session")
def full_disk() -> Callable[[], Any]:
    """A context in which the system refuses to write any file of this process further than so many bytes."""

    @contextmanager
    def context(after_bytes: int = 1024) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return context


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that other users can reach, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def unprivileged() -> Callable[..., list[str]]:
    """Run a script in a process that is not root, with arguments, and return the lines that it prints."""

    def run(script: str, *arguments: Path) -> list[str]:
        command = [sys.executable, "-c", _DROP_ROOT + script, *map(str, arguments)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.stderr.startswith("cannot drop root"):
            pytest.skip(process.stderr.strip())
        assert process.returncode == 0, process.stderr
        return process.stdout.splitlines()

    return run


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """host:port of a server that speaks the S3 protocol, on loopback; its objects are in its memory."""
    moto = pytest.importorskip("moto.server", reason="moto, the S3 server of the tests, is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for each request
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_endpoint, monkeypatch) -> str:
    """The URI of a new bucket, which the environment leads to."""
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{s3_endpoint}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "hush-hush",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    fs.S3FileSystem(endpoint_override=f"http://{s3_endpoint}", allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}"
