"""What asks a run to stop."""

from __future__ import annotations

import os
import signal

import pytest

from srs_ray.runner import signals
from srs_ray.runner.certification import RunSummary
from srs_ray.runner.signals import StopRequest


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["HUP", "INT", "TERM"]
)
def test_the_first_signal_asks_and_the_second_one_stops_at_once(number, code, monkeypatch):
    deadlines: list[int] = []
    monkeypatch.setattr(signals, "end_later", deadlines.append)
    before = signal.signal(number, signal.SIG_DFL)  # whatever the tests were started by: nohup ignores one
    try:
        with StopRequest() as stop:
            assert stop.received is None
            os.kill(os.getpid(), number)
            assert stop.received == number
            with pytest.raises(signals.StoppedAtOnce) as stopped:
                os.kill(os.getpid(), number)
            assert stopped.value.number == number
            assert deadlines == [number]
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert RunSummary("run", 6, 2, 2, 0, stop.received).exit_code == code


def test_a_process_under_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
