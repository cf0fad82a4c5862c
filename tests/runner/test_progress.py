from __future__ import annotations

import io

from rich.console import Console

from srs_ray.runner.progress import RunProgress, Tally

OK = {"status": "ok", "predicted": 3, "correct": True, "index": 1}
WRONG = OK | {"predicted": 4, "correct": False}
ABSTAINED = OK | {"predicted": -1, "correct": False}
FAILED = {"status": "error", "predicted": None, "correct": None, "index": 2}


def test_the_tally_counts_what_became_of_points():
    tally = Tally()
    for row in (OK, OK, WRONG, ABSTAINED, FAILED):
        tally.add(row)
    assert (tally.done, tally.correct, tally.abstained, tally.errors) == (4, 2, 1, 1)
    assert str(tally) == "certified 50% at radius 0, abstained 25%, 1 errors"


def test_the_time_to_go_is_not_flattered_by_resumed_points(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("srs_ray.runner.progress.time.monotonic", lambda: now[0])
    progress = RunProgress(Console(file=io.StringIO()), asked=100, tally=Tally(done=90))
    assert progress.pace() == "no point finished yet"
    now[0] += 60
    progress.add(OK)
    assert progress.pace() == "60 points/h, 0:09:00 to go"


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("srs_ray.runner.progress.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=200)
    with RunProgress(console, asked=10, tally=Tally()) as progress:
        for _ in range(10):
            now[0] += 25
            progress.add(OK)
    lines = console.file.getvalue().splitlines()
    assert [line.split(" of")[0] for line in lines] == ["3", "6", "9"]
    assert "0:00:25 to go" in lines[-1]
