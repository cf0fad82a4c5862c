"""A run survives the death of its writer at any moment, and any history of appends, failures and resumes."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srs_ray.errors import RunDirectoryError
from srs_ray.runs import RunDirectory

# Continues a run and appends to it without end; a line is printed when a thing has been kept.
WRITER = """
import random, sys
from datetime import UTC, datetime
from srs_ray.runs import RunDirectory
path, first = sys.argv[1], int(sys.argv[2])
row = {"status": "error", "attempt": 1, "finished_at": datetime.now(UTC), "error": random.randbytes(30_000).hex()}
for number in range(first, first + 10_000_000, 3):
    run = RunDirectory.create_or_continue(path, {}, {"seed": 0}, {}, {"number": number, "versions": ["1"] * 1000})
    print("session", number, flush=True)
    run.append([{**row, "index": index} for index in range(number, number + 3)])
    print("rows", number, flush=True)
"""


def contents(folder: Path) -> list[tuple[str, int]]:
    found = []
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            found.append((entry.name, entry.stat().st_mtime_ns))
    return found


@pytest.mark.parametrize("moment", ["at random", "run.json is being replaced", "a part is being written"])
def test_run_killed_at_any_moment_opens_with_all_that_was_kept_and_whole_parts_only(tmp_path, caplog, moment) -> None:
    chance = random.Random(0)
    path = tmp_path / "run"
    watched = path / "points" if moment == "a part is being written" else path
    sessions: set[int] = set()
    rows: set[int] = set()
    for life in range(2):
        command = [sys.executable, "-c", WRITER, str(path), str(life * 10_000_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            said = "".join(process.stdout.readline() for _ in range(2))
            if moment == "at random":
                time.sleep(chance.uniform(0.0, 0.05))
            else:
                before = contents(watched)
                while contents(watched) == before and process.poll() is None:
                    pass
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read()
        for kind, number in (line.split() for line in said.splitlines()):
            if kind == "session":
                sessions.add(int(number))
            else:
                rows.update(range(int(number), int(number) + 3))
        with caplog.at_level(logging.WARNING):
            run = RunDirectory.open(path)
            kept = run.rows(["index", "error"]).to_pylist()
        assert caplog.messages == []
        assert rows <= {row["index"] for row in kept}
        assert len(kept) % 3 == 0
        assert {len(row["error"]) for row in kept} == {60_000}
        assert sessions <= {session["number"] for session in run.sessions}
    assert len(rows) >= 6


def test_run_killed_before_its_first_record_is_started_by_the_same_command(start, tmp_path) -> None:
    (tmp_path / ".srs-ray-0123456789abcdef0123456789abcdef").write_bytes(b'{"schema_ver')
    start(tmp_path)
    assert RunDirectory.open(tmp_path).rows().num_rows == 0


def test_run_whose_first_record_found_no_room_is_started_by_the_same_command(start, full_disk, tmp_path) -> None:
    job = {"files": ["x" * 100] * 100}
    with full_disk(), pytest.raises(RunDirectoryError, match=r"cannot write run.json \(File too large\)"):
        start(tmp_path / "run", job=job)
    assert start(tmp_path / "run", job=job).finished() == set()


attempts = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["ok", "error"]), st.integers(0, 3), st.integers(1, 3)),
    unique=True,
    min_size=1,
    max_size=4,
)
faults = ["disk full", "cut", "lost before its renaming"]
steps = st.one_of(
    st.tuples(st.sampled_from(["append", "append again", *faults]), attempts),
    st.tuples(st.sampled_from(["continue", "open", "compact", "compact, cut before it deleted all"]), st.just([])),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=8), st.lists(st.sampled_from([*faults, "compact"]), max_size=3))
def test_any_history_gives_each_index_the_row_of_a_plain_model_and_ends_with_every_point(
    start, ok_row, error_row, full_disk, history, resumes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = start(folder)
        model: dict[int, tuple[bool, int, int]] = {}
        # At the end the same command, again and again, does what is missing, and the last time nothing goes wrong.
        history = [*history, *((fault, None) for fault in [*resumes, "append"])]
        for step, made in history:
            if made is None:
                run = start(folder)
                made = [(index, "ok", 4, 1) for index in sorted(set(range(7)) - run.finished())]
            rows = [
                (ok_row if status == "ok" else error_row)(index, second, attempt=attempt)
                for index, status, second, attempt in made
            ]
            parts = {part: part.read_bytes() for part in Path(folder, "points").glob("part-*")}
            if step == "continue":
                run = start(folder)
            elif step == "open":
                run = RunDirectory.open(folder)
            elif step == "compact":
                run.compact()
            elif step == "compact, cut before it deleted all":
                run.compact()
                for part in list(parts)[::2]:
                    part.write_bytes(parts[part])
            elif not rows:
                continue
            elif step == "disk full":
                with full_disk(), pytest.raises(RunDirectoryError):
                    run.append(rows)
            elif step in ("cut", "lost before its renaming"):
                run.append(rows)
                (part,) = set(Path(folder, "points").glob("part-*")) - set(parts)
                if step == "cut":  # a part of which a broken filesystem kept only the beginning
                    part.write_bytes(part.read_bytes()[:-5])
                else:
                    part.rename(part.with_name(f".srs-ray-{part.name}"))
            else:
                for _ in range(2 if step == "append again" else 1):
                    run.append(rows)
                for index, status, second, attempt in made:
                    model[index] = max(model.get(index, (False, -1, -1)), (status == "ok", second, attempt))
            assert effective(run) == model
            assert run.finished() == {index for index, (ok, _, _) in model.items() if ok}
        assert {index for index, (ok, _, _) in effective(run).items() if ok} == set(range(7))


def effective(run: RunDirectory) -> dict[int, tuple[bool, int, int]]:
    rows = run.rows().to_pylist()
    assert len({row["index"] for row in rows}) == len(rows)
    return {row["index"]: (row["status"] == "ok", row["finished_at"].second, row["attempt"]) for row in rows}
