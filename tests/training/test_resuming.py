from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from srs_ray.errors import WeightsError
from srs_ray.training import EpochReport, StepReport, TrainingResult, train
from srs_ray.training import checkpoint as checkpoints
from srs_ray.training.settings import TrainJob

EVERYTHING = {
    "unrolled_epochs": 1,
    "equilibrium_epochs": 1,
    "unrolled_steps": 2,
    "jacobian": {"weight": 1.0, "every": 2},
    "intermediate": {"weight": 0.3},
    "serial": {"weight": 1.0},
    "adversary": {"steps": 1, "warmup_epochs": 1},
    "dropout": 0.1,
    "batch": 48,
    "augment": "crop-flip",
    "warmup": 0.2,
    "ema": 0.9,
}


def at(job: TrainJob, path: Path) -> TrainJob:
    return TrainJob.model_validate(job.model_dump() | {"training": EVERYTHING, "output": str(path)})


def after(calls: int) -> Callable[[], bool]:
    """True from the `calls`-th question on."""
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked >= calls

    return stopped


@pytest.fixture(scope="module")
def unbroken(brief_job: dict, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    path = tmp_path_factory.mktemp("unbroken") / "w.safetensors"
    result = train(at(TrainJob.model_validate(brief_job), path))
    assert result is not None
    return result


# In the first epoch, at its end, in the second one.
@pytest.mark.slow
@pytest.mark.parametrize("calls", [1, 3, 4, 6])
def test_a_stopped_training_goes_on_to_the_weights_and_figures_of_an_unbroken_one(
    job: TrainJob, tmp_path: Path, unbroken: TrainingResult, calls: int
) -> None:
    job = at(job, tmp_path / "w.safetensors")
    assert train(job, stopped=after(calls)) is None
    assert not Path(job.output).exists()
    torch.manual_seed(99)  # the global generator has no part in it
    result = train(job)
    assert result is not None
    assert result.weights.digest == unbroken.weights.digest
    same = ("noisy_accuracy", "residual", "chain_agreement", "recipe", "fingerprint")
    assert {name: result.weights.card[name] for name in same} == {name: unbroken.weights.card[name] for name in same}

    logs = [pd.read_csv(w.path.with_suffix(".training") / "epochs.csv") for w in (result, unbroken)]
    pd.testing.assert_frame_equal(*(log.drop(columns="seconds") for log in logs), rtol=1e-12)
    assert list(logs[0]["epoch"]) == [1, 2]


@pytest.mark.slow
def test_a_stop_at_every_batch_still_gets_there(job: TrainJob, tmp_path: Path, unbroken: TrainingResult) -> None:
    job = at(job, tmp_path / "w.safetensors")
    starts = 1
    while (result := train(job, stopped=after(1))) is None:
        starts += 1
    assert starts == 8  # of 4 batches each, none at the very end
    assert result.weights.digest == unbroken.weights.digest


@pytest.mark.slow
def test_a_kill_between_checkpoints_loses_what_came_after_the_last(
    job: TrainJob, tmp_path: Path, unbroken: TrainingResult
) -> None:
    job = at(job, tmp_path / "w.safetensors")

    class Killed(BaseException):
        pass

    def killed_in_the_second_epoch(report: StepReport | EpochReport) -> None:
        if isinstance(report, StepReport) and report.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(job, killed_in_the_second_epoch)
    told: list[StepReport | EpochReport] = []
    result = train(job, told.append)
    assert result is not None
    assert {report.epoch for report in told} == {2}
    assert result.weights.digest == unbroken.weights.digest


def test_a_finished_training_is_not_done_again(unbroken: TrainingResult, job: TrainJob) -> None:
    result = train(at(job, unbroken.path), pytest.fail)
    assert result is not None
    assert result.weights.digest == unbroken.weights.digest
    assert not (unbroken.path.with_suffix(".training") / "checkpoint.pt").exists()


def test_another_training_neither_goes_on_from_a_checkpoint_nor_overwrites_weights(
    job: TrainJob, tmp_path: Path, unbroken: TrainingResult
) -> None:
    job = at(job, tmp_path / "w.safetensors")
    assert train(job, stopped=after(1)) is None
    other = job.model_copy(update={"training": job.training.model_copy(update={"learning_rate": 0.5})})
    with pytest.raises(WeightsError, match=r"another training \(training\.learning_rate: 0\.001 there, 0\.5 here\)"):
        train(other)
    with pytest.raises(WeightsError, match=r"holds other weights \(training\.learning_rate: 0\.001 there, 0\.5 here"):
        train(other.model_copy(update={"output": str(unbroken.path)}))


def test_a_damaged_checkpoint_is_named_and_half_a_new_one_does_no_harm(
    job: TrainJob, tmp_path: Path, unbroken: TrainingResult
) -> None:
    job = at(job, tmp_path / "w.safetensors")
    assert train(job, stopped=after(5)) is None
    path = tmp_path / "w.training" / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"checkpoint\.pt is not a readable checkpoint.*remove it to start anew"):
        train(job)
    path.write_bytes(whole)
    path.with_suffix(".new").write_bytes(whole[: len(whole) // 2])  # a kill while the next one was written
    result = train(job)
    assert result is not None
    assert result.weights.digest == unbroken.weights.digest


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(job: TrainJob, tmp_path: Path) -> None:
    job = at(job, tmp_path / "w.safetensors")
    assert train(job, stopped=after(1)) is None
    path = tmp_path / "w.training" / "checkpoint.pt"
    before = path.read_bytes()
    kept = checkpoints.Checkpoint(**torch.load(path, weights_only=True))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(WeightsError, match="cannot write the checkpoint"):
            checkpoints.save(kept, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before


def test_a_checkpoint_of_an_older_program_goes_on_without_what_its_fingerprint_did_not_know(tmp_path: Path) -> None:
    kept = checkpoints.Checkpoint({"data.kind": "imagefolder"}, 1, 0, {}, {}, 0.0, [])
    checkpoints.save(kept, tmp_path / "checkpoint.pt")
    now = {"data.kind": "imagefolder", "data.sample": "abc", "evaluation.sample": "def"}
    assert checkpoints.load(tmp_path / "checkpoint.pt", now, torch.device("cpu")) == kept
    with pytest.raises(WeightsError, match=r"data\.new"):
        checkpoints.load(tmp_path / "checkpoint.pt", {**now, "data.new": 1}, torch.device("cpu"))
