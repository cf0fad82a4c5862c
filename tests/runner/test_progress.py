from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from srs_ray.runner.progress import RunProgress, Tally

OK = {"status": "ok", "predicted": 3, "correct": True, "radius": 0.6, "index": 1}
NEAR = OK | {"radius": 0.4}
WRONG = OK | {"predicted": 4, "correct": False}
ABSTAINED = OK | {"predicted": -1, "correct": False, "radius": 0.0}
FAILED = {"status": "error", "predicted": None, "correct": None, "radius": None, "index": 2}


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("srs_ray.runner.progress.time.monotonic", lambda: now[0])
    return now


def test_the_tally_counts_what_became_of_points():
    tally = Tally(radius=0.5)
    for row in (OK, NEAR, WRONG, ABSTAINED, FAILED):
        tally.add(row)
    assert (tally.done, tally.correct, tally.correct_at_radius, tally.abstained, tally.errors) == (4, 2, 1, 1, 1)
    assert str(tally) == "certified at 0: 40%, at 0.5: 20%, abstained: 20%, errors: 1"


def test_the_time_to_go_is_not_flattered_by_resumed_points(clock):
    progress = RunProgress(Console(file=io.StringIO()), asked=100, tally=Tally(0.5, done=90))
    progress.tick(workers=3)
    assert progress.pace() == "3 workers, no point finished yet"
    clock[0] += 60
    progress.add(OK)
    assert progress.pace() == "3 workers, 60 points/h, 0:09:00 to go"


def test_a_line_of_the_log_every_minute_says_how_far_the_run_is(clock, caplog):
    with caplog.at_level(logging.INFO), RunProgress(Console(file=io.StringIO()), 10, Tally(0.5)) as progress:
        for _ in range(10):
            clock[0] += 25
            progress.add(OK)
            progress.tick(workers=1)
    assert [line.split(" of")[0] for line in caplog.messages] == ["3", "6", "9"]
    assert caplog.messages[-1] == (
        "9 of 10 points; 1 worker, 144 points/h, 0:00:25 to go; certified at 0: 100%, at 0.5: 100%, abstained: 0%"
    )


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize(("asked", "workers"), [(500, 1), (50_000, 128)])
def test_the_live_view_fits_the_terminal_and_says_the_time_to_go(clock, width, asked, workers):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=width, height=30, color_system=None)
    progress = RunProgress(console, asked, Tally(0.75, done=asked // 10, correct=asked // 20, errors=12))
    clock[0] += 3600
    progress.add(OK)
    progress.tick(workers)
    with console.capture() as shown:
        for part in progress.bar.get_renderables():
            console.print(part)
    lines = [line.rstrip() for line in shown.get().splitlines()]
    assert len(lines) == 2, lines
    assert max(map(len, lines)) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown.get()
    assert lines[0].endswith(" to go")
    assert lines[1].startswith("certified at 0: ")
    assert lines[1].endswith("errors: 12")
