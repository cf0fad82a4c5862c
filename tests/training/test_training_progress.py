from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from srs_ray.training import EpochReport, StepReport, TrainingProgress
from srs_ray.training.evaluation import NoisyEvaluation
from srs_ray.training.settings import JacobianSettings, SerialSettings, TrainingSettings
from srs_ray.training.trainer import Phase

SETTINGS = TrainingSettings(
    unrolled_epochs=2,
    equilibrium_epochs=3,
    unrolled_steps=4,  # work 12 an epoch
    solve_steps=(4, 8),
    jacobian=JacobianSettings(weight=1.0, every=1),  # work 6 + 6 + 6 an epoch
    serial=SerialSettings(weight=1.0, first_epoch=5),  # and in the last one 2 (6 + 6 + 3 + 6)
)
EVALUATION = NoisyEvaluation({1: 0.1, 3: 0.876, 30: 0.95}, 1.5e-5, 0.61)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def phase(epoch: int) -> Phase:
    return "unrolled" if epoch <= 2 else "equilibrium"


def batches(epoch: int, done: int) -> StepReport:
    return StepReport(epoch, done, 40, phase(epoch), {"loss": 0.5, "gradient": 1.0}, 1e-3)


def ended(epoch: int) -> EpochReport:
    return EpochReport(epoch, 5, phase(epoch), {"loss": 0.5, "gradient": 1.0}, EVALUATION, None, 3.0)


def test_time_to_go_is_by_the_pace_of_like_epochs_and_by_work_for_those_that_were_not_seen() -> None:
    clock = Clock()
    progress = TrainingProgress(Console(file=StringIO()), SETTINGS, clock)
    with progress as report:
        clock.seconds = 1.0
        report(batches(1, 20))
        assert progress.seconds_to_go() == pytest.approx(0.5 * 2 + 2 + 2 * 2 * 18 / 12 + 2 * 42 / 12)
        clock.seconds = 2.0
        report(batches(1, 40))
        clock.seconds = 3.0  # the evaluation's second is part of the epoch's pace
        report(ended(1))
        assert progress.seconds_to_go() == pytest.approx(3 + 2 * 3 * 18 / 12 + 3 * 42 / 12)
        clock.seconds = 6.0
        report(batches(2, 40))
        clock.seconds = 16.0
        report(batches(3, 40))
        assert progress.seconds_to_go() == pytest.approx(10 + 10 * 42 / 18)
        clock.seconds = 26.0
        report(batches(4, 40))
        clock.seconds = 36.0
        report(batches(5, 20))
        assert progress.seconds_to_go() == pytest.approx(10)
        report(batches(5, 40))
        assert progress.seconds_to_go() == 0.0


def test_a_training_that_goes_on_in_mid_epoch_is_not_credited_with_batches_from_before() -> None:
    clock = Clock()
    progress = TrainingProgress(Console(file=StringIO()), SETTINGS, clock)
    with progress as report:
        clock.seconds = 4.0
        report(batches(4, 30))  # 20 batches at most lie between two reports
        assert progress.seconds_to_go() == pytest.approx(2 + 8 * 42 / 18)


def test_without_a_terminal_there_is_one_plain_line_for_each_epoch() -> None:
    text, clock = StringIO(), Clock()
    with TrainingProgress(Console(file=text, width=40), SETTINGS, clock) as report:
        for done in (20, 40):
            clock.seconds += 1.0
            report(batches(1, done))
        report(ended(1))
    assert text.getvalue().splitlines() == [
        "epoch 1/5 unrolled: loss 0.5; noisy accuracy (steps) 10.0% (1), 87.6% (3), 95.0% (30); residual 1.5e-05, "
        "spectral radius 0.61; 3.0 s, 0:00:15 to go",
    ]


def test_on_a_terminal_there_is_a_live_line_with_loss_accuracies_and_the_time_to_go() -> None:
    text, clock = StringIO(), Clock()
    with TrainingProgress(Console(file=text, force_terminal=True, width=240), SETTINGS, clock) as report:
        for done in (20, 40):
            clock.seconds += 1.0
            report(batches(1, done))
        report(ended(1))
        report.bar.refresh()
    shown = text.getvalue()
    for part in ("epoch 1 unrolled 40/40", "loss 0.500", "87.6% (3)", "residual 2e-05, radius 0.61", "0:00:15 to go"):
        assert part in shown


def test_without_a_terminal_a_long_epoch_says_every_minute_how_far_it_is() -> None:
    text, clock = StringIO(), Clock()
    with TrainingProgress(Console(file=text, width=40), SETTINGS, clock) as report:
        for done in (10, 20, 30, 40):
            clock.seconds += 45.0
            report(batches(1, done))
    assert [line.partition(", ")[0] for line in text.getvalue().splitlines()] == [
        "epoch 1 unrolled 20/40 · loss 0.500",
        "epoch 1 unrolled 40/40 · loss 0.500",
    ]


@pytest.mark.parametrize("width", [80, 110])
def test_the_live_line_fits_the_terminal(width: int) -> None:
    clock, console = Clock(), Console(file=StringIO(), force_terminal=True, width=width, color_system=None)
    report = TrainingProgress(console, SETTINGS, clock)
    clock.seconds = 3600.0
    for told in (batches(1, 40), ended(1), batches(2, 20)):
        report(told)
    with console.capture() as shown:
        console.print(report.bar.get_renderable())
    [line] = [line.rstrip() for line in shown.get().splitlines()]
    assert "epoch 2 unrolled 20/40 · loss 0.500" in line
    assert line.endswith(" to go")
