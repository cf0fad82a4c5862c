"""One process at a time writes a run: the second refuses while the first lives, and takes over when it is dead."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from srs_ray.errors import RunDirectoryError
from srs_ray.runs import Lease, RunDirectory
from srs_ray.runs.process import Process

HEARTBEAT = 0.1

# Takes the lease of a folder, says so, and holds it until it is told to end.
HOLDER = """
import sys
from srs_ray.runs import Lease
with Lease.acquire(sys.argv[1], float(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""

# Starts when told, and says whether it got the lease; holds it until it is told to end.
CONTENDER = """
import sys
from srs_ray.errors import RunDirectoryError
from srs_ray.runs import Lease
print("ready", flush=True)
sys.stdin.readline()
try:
    with Lease.acquire(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except RunDirectoryError:
    print("refused", flush=True)
"""


@contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def content(path: Path) -> dict[str, Any]:
    return json.loads((path / "lease.json").read_text())


def write_content(path: Path, **changes: object) -> None:
    """Change the lease of a folder in one step, as a process that holds it does; without one, make a dead host's."""
    path.mkdir(exist_ok=True)
    old = {"host": "elsewhere", "pid": 7, "pids": "another boot", "started": "1", "since": "yesterday", "token": "t"}
    if (path / "lease.json").exists():
        old = content(path)
    (path / "lease.new").write_text(json.dumps({**old, **changes}))
    (path / "lease.new").replace(path / "lease.json")


def wait_until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_second_driver_is_refused_at_once_while_the_first_lives_and_told_who_it_is(tmp_path, caplog) -> None:
    with process(HOLDER, tmp_path, 3600) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunDirectoryError) as refusal:
            Lease.acquire(tmp_path, HEARTBEAT)
        assert caplog.messages == []
        holder.communicate()
    message = str(refusal.value)
    since = message.partition("(since ")[2].partition(")")[0]
    assert message.startswith(f"{tmp_path}: process {holder.pid} of host {os.uname().nodename} (since 20")
    assert since.endswith("+00:00")
    assert list(tmp_path.iterdir()) == []
    with Lease.acquire(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("reaped", [True, False])
def test_lease_of_a_killed_process_of_this_machine_is_taken_over_at_once(tmp_path, caplog, reaped) -> None:
    with process(HOLDER, tmp_path, HEARTBEAT) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
        if reaped:
            holder.wait()
        else:  # its parent does not ask for it, as the first process of some containers never does
            wait_until(lambda: holder.stdout.read() == "")
            wait_until(lambda: " Z " in Path(f"/proc/{holder.pid}/stat").read_text())
        with Lease.acquire(tmp_path, heartbeat_seconds=3600):
            assert content(tmp_path)["pid"] == os.getpid()
    assert caplog.messages == []


def test_lease_of_an_earlier_process_with_the_number_of_a_living_one_is_taken_over_at_once(tmp_path, caplog) -> None:
    here = Process.current()
    write_content(tmp_path, host=here.host, pid=os.getppid(), pids=here.pids, started="1")
    with Lease.acquire(tmp_path, heartbeat_seconds=3600):
        assert content(tmp_path)["pid"] == os.getpid()
    assert caplog.messages == []


def test_lease_of_another_user_of_this_machine_is_respected(open_folder, unprivileged) -> None:
    open_folder.chmod(0o777)
    script = """
from srs_ray.runs import Lease
try:
    Lease.acquire(sys.argv[1])
except RunDirectoryError as error:
    print(error)
"""
    with Lease.acquire(open_folder, heartbeat_seconds=3600):
        (message,) = unprivileged(script, open_folder)
    assert f"process {os.getpid()} of host" in message


def test_of_two_simultaneous_starts_one_gets_the_lease(tmp_path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = Process.current()
    for left_behind in (False, True):
        path = tmp_path / str(left_behind)
        if left_behind:  # both find it, and both may take it over
            write_content(path, host=here.host, pid=dead.pid, pids=here.pids, started="1")
        with process(CONTENDER, path) as one, process(CONTENDER, path) as other:
            assert (one.stdout.readline(), other.stdout.readline()) == ("ready\n", "ready\n")
            for contender in (one, other):
                contender.stdin.write("go\n")
                contender.stdin.flush()
            assert {one.stdout.readline(), other.stdout.readline()} == {"held\n", "refused\n"}


def test_starts_that_meet_in_every_step_leave_one_holder(tmp_path) -> None:
    for trial in range(20):
        held: list[Lease] = []
        together = threading.Barrier(4)

        def contend(path: Path, held: list[Lease] = held, together: threading.Barrier = together) -> None:
            together.wait()
            with suppress(RunDirectoryError):
                held.append(Lease.acquire(path, heartbeat_seconds=3600))

        contenders = [threading.Thread(target=contend, args=(tmp_path / str(trial),)) for _ in range(4)]
        for contender in contenders:
            contender.start()
        for contender in contenders:
            contender.join()
        (lease,) = held
        with lease:
            assert lease.lost is None


def test_silent_lease_of_another_host_is_taken_over_after_saying_what_is_waited_for(tmp_path, caplog) -> None:
    write_content(tmp_path)
    with Lease.acquire(tmp_path, HEARTBEAT) as lease:
        assert content(tmp_path)["pid"] == os.getpid()
        assert lease.lost is None
    assert caplog.messages == [
        f"{tmp_path}: process 7 of host elsewhere (since yesterday) wrote this run, and cannot be asked from here; "
        "waiting 0.3 s for a sign of life"
    ]


def test_lease_of_another_host_that_changes_is_respected(tmp_path) -> None:
    write_content(tmp_path)
    ended = threading.Event()

    def live() -> None:
        beat = 0
        while not ended.wait(1.0):  # between the first look at the lease and the last
            beat += 1
            write_content(tmp_path, beat=beat)

    other = threading.Thread(target=live)
    other.start()
    try:
        with pytest.raises(RunDirectoryError, match="process 7 of host elsewhere"):
            Lease.acquire(tmp_path, heartbeat_seconds=2.0)
    finally:
        ended.set()
        other.join()
    assert content(tmp_path)["token"] == "t"


def test_lease_that_its_holder_gives_back_while_it_is_watched_is_taken(tmp_path) -> None:
    write_content(tmp_path)
    threading.Timer(HEARTBEAT, (tmp_path / "lease.json").unlink).start()
    with Lease.acquire(tmp_path, heartbeat_seconds=4 * HEARTBEAT):
        assert content(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', '{"host": "h", "pid": 1e999, "pids": 0, "started": 0}'])
def test_lease_that_cannot_be_read_is_watched_like_one_of_another_host(tmp_path, caplog, text) -> None:
    (tmp_path / "lease.json").write_text(text)
    with Lease.acquire(tmp_path, HEARTBEAT / 5):
        assert content(tmp_path)["pid"] == os.getpid()
    assert "somebody unknown wrote this run" in caplog.text


def test_holder_whose_lease_was_taken_over_learns_by_whom_and_leaves_it_alone(tmp_path) -> None:
    with Lease.acquire(tmp_path, HEARTBEAT) as lease:
        write_content(tmp_path, host="else\x1b[31mwhere", pid=7, token="theirs")
        wait_until(lambda: lease.lost)
        assert lease.lost.startswith(f"{tmp_path}: process 7 of host else\\x1b[31mwhere (since ")
    assert content(tmp_path)["token"] == "theirs"


def test_lease_is_renewed_while_the_process_is_busy(tmp_path) -> None:
    with Lease.acquire(tmp_path, HEARTBEAT):
        first = content(tmp_path)["beat"]
        wait_until(lambda: content(tmp_path)["beat"] > first + 1)


def test_lease_that_was_deleted_is_written_again(tmp_path) -> None:
    with Lease.acquire(tmp_path, HEARTBEAT) as lease:
        (tmp_path / "lease.json").unlink()
        wait_until((tmp_path / "lease.json").exists)
        assert lease.lost is None


def test_heartbeat_that_cannot_be_written_is_said_once_for_each_outage_and_ends_nothing(tmp_path, caplog) -> None:
    path, away = tmp_path / "run", tmp_path / "away"
    with Lease.acquire(path, HEARTBEAT) as lease:
        for outage in (1, 2):
            path.rename(away)
            wait_until(lambda outage=outage: len(caplog.messages) >= outage)
            time.sleep(3 * HEARTBEAT)
            away.rename(path)
            beat = content(path)["beat"]
            wait_until(lambda beat=beat: content(path)["beat"] > beat)
        assert lease.lost is None
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith(f"{path}/lease.json cannot be renewed ([Errno 2]")


def test_lease_is_given_back_after_an_error_too(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), Lease.acquire(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_lease_that_cannot_be_written_is_an_error_that_names_the_reason(tmp_path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunDirectoryError, match=r"cannot write lease.json \((Not a directory|File exists)\)"):
        Lease.acquire(tmp_path / "file")


def test_job_that_is_refused_leaves_the_folder_as_it_was(start, tmp_path) -> None:
    start(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for name in ("run", "other"):
        with pytest.raises(RunDirectoryError), Lease.acquire(tmp_path / name):
            start(tmp_path / name, fingerprint={"seed": 1})
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_run_is_started_and_continued_under_a_lease(start, ok_row, tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        for index in (0, 1):
            with Lease.acquire(tmp_path / "run"):
                start(tmp_path / "run").append([ok_row(index)])
    assert RunDirectory.open(tmp_path / "run").finished() == {0, 1}
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["points", "run.json"]
    assert caplog.messages == []
