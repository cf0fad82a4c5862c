from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from srs_ray.train_job import JacobianSettings, TrainingSettings
from srs_ray.training import EpochReport, TrainingProgress
from srs_ray.training.evaluation import NoisyEvaluation
from srs_ray.training.trainer import EpochLosses, Phase

SETTINGS = TrainingSettings(
    unrolled_epochs=2,
    equilibrium_epochs=3,
    unrolled_steps=4,  # work 12 an epoch
    solve_steps=(4, 8),
    gradient_steps=2,
    jacobian=JacobianSettings(weight=1.0, every=1),  # work 6 + 6 + 6 an epoch
)
EVALUATION = NoisyEvaluation({1: 0.1, 3: 0.876, 30: 0.95}, 1.5e-5)


def ended(epoch: int, seconds: float) -> EpochReport:
    phase: Phase = "unrolled" if epoch <= 2 else "equilibrium"
    return EpochReport(epoch, 5, EpochLosses(phase, 0.5, None), EVALUATION, seconds)


def test_time_to_go_is_by_the_phases_own_epochs_and_by_work_before_a_phase_begins() -> None:
    progress = TrainingProgress(Console(file=StringIO()), SETTINGS)
    with progress as report:
        report(ended(1, 2.0))
        assert progress.seconds_to_go() == pytest.approx(2.0 + 3 * 2.0 * 18 / 12)
        report(ended(2, 4.0))
        assert progress.seconds_to_go() == pytest.approx(3 * 3.0 * 18 / 12)
        report(ended(3, 10.0))
        assert progress.seconds_to_go() == pytest.approx(2 * 10.0)
        report(ended(4, 12.0))
        report(ended(5, 12.0))
        assert progress.seconds_to_go() == 0.0


def test_without_a_terminal_there_is_one_plain_line_for_each_epoch() -> None:
    text = StringIO()
    with TrainingProgress(Console(file=text, width=40), SETTINGS) as report:
        report(ended(1, 2.0))
        report(ended(2, 4.0))
    assert text.getvalue().splitlines() == [
        "epoch 1/5 unrolled: loss 0.500; noisy accuracy (steps) 10.0% (1), 87.6% (3), 95.0% (30); residual 1.5e-05; "
        "2.0 s, 0:00:11 to go",
        "epoch 2/5 unrolled: loss 0.500; noisy accuracy (steps) 10.0% (1), 87.6% (3), 95.0% (30); residual 1.5e-05; "
        "4.0 s, 0:00:14 to go",
    ]


def test_on_a_terminal_there_is_a_bar_with_the_time_to_go() -> None:
    text = StringIO()
    with TrainingProgress(Console(file=text, force_terminal=True, width=200), SETTINGS) as report:
        report(ended(1, 2.0))
        report.bar.refresh()
    assert "1/5" in text.getvalue()
    assert "0:00:11 to go" in text.getvalue()
