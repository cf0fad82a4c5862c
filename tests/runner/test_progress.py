from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console

from srs_ray.runner.progress import RunProgress, Tally
from srs_ray.runs.outlook import FEWEST

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
    assert str(tally) == "certified at 0: 40% (5-85), at 0.5: 20% (1-72), abstained: 20%, errors: 1"


def test_the_time_to_go_is_not_flattered_by_resumed_points(clock):
    progress = RunProgress(Console(file=io.StringIO()), asked=100, tally=Tally(0.5, done=90))
    progress.tick(workers=3)
    assert progress.pace() == "3 workers, no point finished yet"
    for _ in range(FEWEST):
        assert "time to go unknown" in progress.pace() or not progress.finished
        clock[0] += 60
        progress.add(OK | {"seconds": 180.0})
    assert progress.pace() == "3 workers, 60 points/h, 0:05:00 to go (0:05:00 to 0:05:00)"
    clock[0] += 300
    assert progress.pace().startswith("3 workers, 30 points/h (0 in the last 5 min), 0:10:00 to go")


def test_a_line_of_the_log_every_minute_says_how_far_the_run_is(clock, caplog):
    with caplog.at_level(logging.INFO), RunProgress(Console(file=io.StringIO()), 10, Tally(0.5)) as progress:
        for _ in range(10):
            clock[0] += 25
            progress.add(OK | {"seconds": 25.0, "worker": "a/1", "audited": 100, "disagreed": progress.finished // 5})
            progress.tick(workers=1)
    assert [line.split(" of")[0] for line in caplog.messages] == ["3", "6", "9"]
    assert caplog.messages[-1] == (
        "9 of 10 points; 1 worker, 144 points/h, 0:00:25 to go (0:00:25 to 0:00:25); certified at 0: 100% (66-100), "
        "at 0.5: 100% (66-100), abstained: 0%; "
        "disagreement of audits: 0.00% in the first half of the points, 0.80% in the second"
    )


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize(("asked", "workers"), [(500, 1), (50_000, 128)])
def test_the_live_view_fits_the_terminal_and_says_the_time_to_go(clock, width, asked, workers):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=width, height=30, color_system=None)
    progress = RunProgress(console, asked, Tally(0.75, done=asked // 10, correct=asked // 20, errors=12))
    for number in range(FEWEST):
        clock[0] += 3600
        progress.add(OK | {"seconds": 100.0 + 20 * number})
    progress.tick(workers)
    with console.capture() as shown:
        for part in progress.bar.get_renderables():
            console.print(part)
    lines = [line.rstrip() for line in shown.get().splitlines()]
    assert len(lines) == 2, lines
    assert max(map(len, lines)) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown.get()
    assert re.search(r" to go( \(.* to .*\))?$", lines[0])
    assert lines[1].startswith("certified at 0: ")
    assert lines[1].endswith("errors: 12")


def test_a_target_is_warned_of_once_when_it_is_unlikely_and_once_when_it_cannot_be_met(clock, caplog):
    progress = RunProgress(Console(file=io.StringIO()), 40, Tally(0.5, targets={0.5: 0.9, 0.1: 0.1}))
    for number in range(20):
        clock[0] += 1
        progress.add(NEAR if number % 2 else OK)  # half of the points are certified at 0.5
    at_first, at_last = caplog.messages
    assert at_first.startswith("the target 90.0% certified at radius 0.5 (report.targets) is unlikely to be met: ")
    assert at_last == (
        "the target 90.0% certified at radius 0.5 (report.targets) can no longer be met: "
        "5 of the 10 points that ended are, 30 of 40 remain: at most 87.5%"
    )


def test_the_live_view_tells_radii_disagreement_and_errors_by_node(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    progress = RunProgress(console, 10, Tally(0.5, radii=(0.0, 0.5, 0.7)))
    for number in range(4):
        clock[0] += 1
        progress.add(OK | {"seconds": 1.0, "audited": 100, "disagreed": number})
    for index in (7, 8):
        progress.add(FAILED | {"worker": "node-a/123", "error": f"PointError: image {index} is broken"})
    clock[0] += 1
    progress.tick(2)
    assert progress.bar.below[1:] == (
        "at 0: 67% (22-96), 0.5: 67% (22-96), 0.7: 0% (0-46)",
        "disagreement of audits: 0.50% in the first half of the points, 2.50% in the second",
        "errors: 2 on node-a: PointError: image N is broken",
    )
