"""Attaching to Ray: an address where no head answers, and what a Ray of the run's own opens."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import ray

from srs_ray.errors import SrsRayError
from srs_ray.runner import connection

# The listening sockets of this process' Ray, found by the system's table and the processes' open files.
LOCAL_RAY = """
import json, os
from pathlib import Path
import ray
from srs_ray.runner.connection import attach

def descendants(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    below = [int(child) for task in tasks for child in task.read_text().split()]
    return [pid, *(each for child in below for each in descendants(child))]

place = attach("local", worker_logs=False)

@ray.remote
def mode():
    return os.environ.get("RAY_AUTH_MODE")

worker_mode = ray.get(mode.remote())
sockets = set()
for pid in descendants(os.getpid()):
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(file))
        except OSError:
            pass
listening = []
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
            listening.append(fields[1].partition(":")[0])
print(json.dumps([place, worker_mode, listening]))
ray.shutdown()
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and says nothing, as a machine does whose Ray was stopped."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(connection, "_PROBE_SECONDS", 0.5)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_an_address_where_no_head_answers_is_told_with_a_way_out(silent: str) -> None:
    with pytest.raises(SrsRayError, match=r"cannot reach a Ray cluster at .*no Ray head answers.*--address local"):
        connection.attach(silent, worker_logs=False)
    assert not ray.is_initialized()


def test_the_address_that_a_dead_ray_left_on_this_machine_is_told_too(silent: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(silent)
    with pytest.raises(SrsRayError, match=r"the last that was started on this machine: no Ray head answers"):
        connection.attach(None, worker_logs=False)


def test_a_refused_connection_is_told_for_ray_clients_as_well() -> None:
    with pytest.raises(SrsRayError, match="--address local"):
        connection.attach("ray://127.0.0.1:1", worker_logs=False)


def test_a_head_answers(cluster: str) -> None:
    connection._check_answers(cluster)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sockets are read from /proc")
def test_a_ray_of_the_runs_own_listens_on_loopback_alone_and_asks_for_a_token(tmp_path) -> None:
    unset = ("RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    environment = {name: value for name, value in connection.os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", LOCAL_RAY],
        env=environment | {"HOME": str(tmp_path)},  # where the token is kept
        capture_output=True,
        text=True,
        check=True,
    )
    place, mode, listening = json.loads(done.stdout.splitlines()[-1])
    assert place.startswith("Ray at 127.0.0.1:")
    assert mode == "token"
    assert len(listening) >= 5
    assert set(listening) <= LOOPBACK
