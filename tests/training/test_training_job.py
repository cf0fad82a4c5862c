from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from srs_ray.errors import DataError, JobError, SrsRayError, WeightsError
from srs_ray.models.mdeq.checkpoints import load_model, random_weights, read_weights
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.models.weights import write_weights
from srs_ray.solvers.iteration import SolverSetting
from srs_ray.training import EpochReport, StepReport, TrainingResult, train
from srs_ray.training.settings import SerialSettings, TrainJob
from srs_ray.training.training_job import Training

X_BCHW = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def result(brief_job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    path = tmp_path_factory.mktemp("trained") / "weights.safetensors"
    return trained(TrainJob.model_validate(brief_job | {"output": str(path)}))


def trained(job: TrainJob) -> TrainingResult:
    result = train(job, command="srs-ray train brief.yaml")
    assert result is not None
    return result


def changed(job: TrainJob, **sections: Any) -> TrainJob:
    return TrainJob.model_validate(job.model_dump() | sections)


def test_the_same_job_gives_the_same_weights_and_another_seed_gives_others(
    result: TrainingResult, job: TrainJob
) -> None:
    torch.manual_seed(1234)  # no random number may come from the global generator
    again = trained(job)
    assert again.weights.digest == result.weights.digest
    assert again.weights.card["chain_agreement"] == result.weights.card["chain_agreement"]
    elsewhere = str(Path(job.output).with_name("other.safetensors"))
    begun = [
        Training(changed(job, execution={"device": "cpu", "seed": seed}, output=elsewhere)).trainer for seed in (0, 1)
    ]
    states = [trainer.model.state_dict() for trainer in begun]
    assert any(not torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert begun[0].order(1, 64).tolist() != begun[1].order(1, 64).tolist()


def test_batches_and_epochs_are_reported_with_phase_losses_and_accuracies(job: TrainJob) -> None:
    told: list[StepReport | EpochReport] = []
    train(job, told.append)
    first, unrolled, second, equilibrium = told
    assert isinstance(first, StepReport)
    assert isinstance(second, StepReport)
    assert (first.epoch, first.batch, first.batches, first.step, first.phase) == (1, 4, 4, 4, "unrolled")
    assert (second.epoch, second.step, second.phase) == (2, 8, "equilibrium")
    assert first.losses.keys() == {"loss", "gradient"}
    assert second.losses.keys() == {"loss", "gradient", "jacobian"}
    assert first.rate > second.rate == pytest.approx(0.0)  # the cosine has come to its end

    assert isinstance(unrolled, EpochReport)
    assert isinstance(equilibrium, EpochReport)
    assert (unrolled.epoch, unrolled.epochs, unrolled.phase) == (1, 2, "unrolled")
    assert (equilibrium.epoch, equilibrium.epochs, equilibrium.phase) == (2, 2, "equilibrium")
    assert equilibrium.losses == second.losses  # the only report of that epoch
    assert list(equilibrium.evaluation.accuracy) == [1, 3, 30]
    assert equilibrium.evaluation.spectral_radius > 0
    assert equilibrium.agreement is not None
    assert equilibrium.agreement.false_mean.keys() == {1, 3}


def test_the_log_has_a_row_for_each_epoch_and_tensorboards_events(result: TrainingResult) -> None:
    folder = result.path.with_suffix(".training")
    table = pd.read_csv(folder / "epochs.csv")
    assert list(table["epoch"]) == [1, 2]
    wanted = {"loss", "loss.jacobian", "accuracy.1", "accuracy.30", "residual", "spectral_radius", "false.1", "seconds"}
    assert wanted <= set(table.columns)
    (events,) = folder.glob("events.out.tfevents.*")
    assert all(tag in events.read_bytes() for tag in (b"epoch/accuracy.30", b"batch/loss", b"batch/learning_rate"))


def test_the_written_file_is_a_plain_checkpoint_of_the_trained_model(result: TrainingResult) -> None:
    written = load_file(result.path)
    assert written.keys() == random_weights("mdeq-tiny-digits").tensors.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in result.weights.tensors.items())
    logits = load_model("mdeq-tiny-digits", result.path).logits(X_BCHW)
    assert torch.isfinite(logits).all()


def test_the_written_file_says_how_it_was_made(result: TrainingResult, brief_job: dict[str, Any]) -> None:
    said = read_weights(result.path).card
    assert said["architecture"] == "mdeq-tiny-digits"
    assert said["initial_weights"] == "none: random, seed 0"
    assert said["command"] == "srs-ray train brief.yaml"
    assert said["note"] is None
    assert said["sigma"] == 0.25
    assert said["epochs"] == 2
    assert said["seed"] == 0
    assert said["recipe"].items() >= {"unrolled_steps": 2, "batch": 48, "augment": "crop-flip"}.items()
    assert said["recipe"]["jacobian"] == {"weight": 1.0, "every": 2, "last_epoch": None}
    assert (said["data"]["split"], said["data"]["stop"], said["evaluation"]["start"]) == ("train", 192, 3)
    assert said["noisy_accuracy"].keys() == {"1", "3", "30"}
    assert said["chain_agreement"]["points"] == 1
    assert said["chain_agreement"]["false_mean"].keys() == {"1", "3"}
    assert said["versions"].keys() == {"srs-ray", "torch"}
    assert said["device"].startswith("cpu, ")
    assert said["hours"] > 0
    beside = json.loads(result.path.with_suffix(".json").read_text())
    assert beside.pop("digest") == result.weights.digest
    assert beside == said


def test_a_start_is_trained_written_measured_and_gone_on_from(job: TrainJob, brief_job: dict[str, Any]) -> None:
    recipe = brief_job["training"] | {"start": {"weight": 1.0}}
    first = trained(changed(job, training=recipe))
    assert first.weights.card["recipe"]["start"] == {"weight": 1.0, "steps": 1}
    assert first.weights.card["accuracy_from_start"].keys() == {"1", "2", "3"}
    reread = read_weights(first.path).tensors["start"]
    assert reread.any()
    reported = pd.read_csv(first.path.with_suffix(".training") / "epochs.csv")
    assert {"loss.start", "accuracy.start.1"} <= set(reported.columns)
    model = opened_mdeq(load_model("mdeq-tiny-digits", first.path))
    few = model.with_reference(SolverSetting.named("naive", 1, start="stored"))
    with torch.inference_mode():
        assert not torch.equal(few(X_BCHW), model(X_BCHW))
    further = changed(
        job, model={"arch": "mdeq-tiny-digits", "weights": str(first.path)}, training=recipe,
        output=str(Path(job.output).with_name("further.safetensors")),
    )  # fmt: skip
    assert Training(further).trainer.model.stored_D is not None
    assert torch.equal(Training(further).trainer.model.stored_D, reread)


def test_a_training_without_a_start_has_the_fingerprint_that_it_had_before_there_were_any(job: TrainJob) -> None:
    settings = Training(job).fingerprint
    assert not [name for name in settings if name.startswith("training.start") or name == "training.serial.aim"]
    anchors = job.training.model_copy(update={"serial": SerialSettings(weight=1.0, aim="anchor", copies=3)})
    other = Training(job.model_copy(update={"training": anchors, "output": job.output + ".safetensors"})).fingerprint
    assert other["training.serial.aim"] == "anchor"


def test_training_goes_on_from_given_weights(result: TrainingResult, job: TrainJob) -> None:
    onward = trained(changed(job, model={"arch": "mdeq-tiny-digits", "weights": str(result.path)}))
    assert first_loss(onward) < first_loss(result)
    assert onward.weights.card["initial_weights"] == {
        "digest": result.weights.digest,
        **{name: result.weights.card[name] for name in ("command", "epochs", "hours", "recipe", "initial_weights")},
    }


def first_loss(result: TrainingResult) -> float:
    return float(pd.read_csv(result.path.with_suffix(".training") / "epochs.csv")["loss"][0])


def test_a_diverging_training_says_at_which_epoch_and_what_to_try(job: TrainJob) -> None:
    wild = job.training.model_copy(update={"learning_rate": 1e30, "clip": 1e30})
    with pytest.raises(SrsRayError, match=r"not finite in epoch 1 .*training\.learning_rate \(now 1e\+30\)"):
        train(job.model_copy(update={"training": wild}))
    assert not Path(job.output).exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_training(job: TrainJob, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot write weights to"):
        train(job.model_copy(update={"output": str(tmp_path / "file" / "weights.safetensors")}), pytest.fail)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(WeightsError, match="it is a folder; give another output"):
        train(job.model_copy(update={"output": str(tmp_path / "folder.safetensors")}), pytest.fail)


def test_missing_data_and_weights_are_the_users_mistakes(job: TrainJob, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        train(changed(job, data={"kind": "parquet", "path": str(tmp_path / "nowhere.parquet")}))
    with pytest.raises(DataError, match="stop is 5000"):
        train(changed(job, data={"kind": "digits", "split": "train", "stop": 5000}))
    with pytest.raises(WeightsError, match="no weights at"):
        train(changed(job, model={"arch": "mdeq-tiny-digits", "weights": str(tmp_path / "none.safetensors")}))
    write_weights(random_weights("mdeq-small-cifar10"), tmp_path / "cifar.safetensors")
    with pytest.raises(WeightsError, match="these weights fit mdeq-small-cifar10"):
        train(changed(job, model={"arch": "mdeq-tiny-digits", "weights": str(tmp_path / "cifar.safetensors")}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_job_that_asks_for_cuda_never_falls_back_to_the_cpu(job: TrainJob) -> None:
    with pytest.raises(JobError, match=r"execution\.device is cuda"):
        train(changed(job, execution={"device": "cuda"}))


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("data", {"kind": "digits"}, "name the split to train on"),
        ("output", "weights.pt", r"\.safetensors"),
        ("noise", {"sigma": 0.25, "generator": "philox4x32"}, "generator"),
        ("training", {"unrolled_epochs": 0, "equilibrium_epochs": 0}, "expected at least one epoch"),
        ("training", {"unrolled_epochs": 0, "equilibrium_epochs": 1, "solve_steps": [5, 2]}, "least, most"),
        (
            "training",
            {"unrolled_epochs": 1, "equilibrium_epochs": 1, "unrolled_steps": 2, "start": {"weight": 1.0, "steps": 2}},
            r"start.steps is 2; expected fewer than unrolled_steps, 2",
        ),
    ],
)
def test_a_job_that_cannot_be_meant_is_refused(job: TrainJob, section: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(job, **{section: value})
