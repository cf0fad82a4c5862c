"""Trainings by two processes: over a real Ray, and, where Ray has no part in the promise, by themselves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from srs_ray.data import load_all, open_dataset
from srs_ray.errors import JobError, SrsRayError
from srs_ray.models.mdeq.checkpoints import build_model, random_weights, read_weights
from srs_ray.models.mdeq.weight_normalization import folded_tensors
from srs_ray.runner.distributed_training import train_on_ray
from srs_ray.training import EpochReport, StepReport, Training, TrainingResult
from srs_ray.training.settings import TrainingSettings, TrainJob
from srs_ray.training.share import Share
from srs_ray.training.trainer import Trainer

ARCH = "mdeq-tiny-digits"
EPOCHS = 24  # so many that a signal finds it at work


def job_at(output: Path, **sections: Any) -> TrainJob:
    """Two processes on 65 images; the last of each epoch's batches is a single image."""
    settings: dict[str, Any] = {
        "model": {"arch": ARCH},
        "data": {"kind": "digits", "split": "train", "stop": 65},
        "evaluation": {
            "kind": "digits",
            "split": "test",
            "stop": 1,
            "epoch_agreement_points": 0,
            "draws": 1,
            "agreement_points": 1,
        },
        "noise": {"sigma": 0.25},
        "training": {
            "unrolled_epochs": 1,
            "equilibrium_epochs": EPOCHS - 1,
            "unrolled_steps": 2,
            "solve_steps": [2, 3],
            "batch": 16,
            "learning_rate": 1e-2,
        },
        "execution": {"device": "cpu", "workers": 2},
        "output": str(output),
    }
    for name, section in sections.items():
        settings[name] = {**settings[name], **section}
    return TrainJob.model_validate(settings)


Together = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    """What `function(share, *arguments)` returns in this process and in another one, over gloo and without Ray."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:

        def run(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            store = str(tmp_path_factory.mktemp("gloo") / "store")
            other = pool.submit(as_process, 1, store, function, *arguments)
            return [as_process(0, store, function, *arguments), other.result()]

        yield run


def as_process(rank: int, store: str, function: Callable[..., Any], *arguments: Any) -> Any:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        return function(Share(rank, 2), *arguments)
    finally:
        torch.distributed.destroy_process_group()


def trained(share: Share, folder: Path, stopped: bool) -> dict[str, Tensor]:
    """The tensors at the end; only process 0 can reach the output."""
    job = job_at((folder if share.rank == 0 else Path("/proc/nowhere")) / "w.safetensors")
    if stopped:
        asked = iter([False] * 7 + [True])
        assert Training(job, share=share).run(stopped=lambda: share.rank == 0 and next(asked)) is None
    training = Training(job, share=share)
    assert (training.epoch, training.batch) == ((2, 3) if stopped else (1, 0))
    training.run()
    return folded_tensors(training.trainer.trained)


@pytest.fixture(scope="module")
def plain(in_two_processes: Together, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """The tensors that two processes without Ray come to, unbroken."""
    return in_two_processes(trained, tmp_path_factory.mktemp("plain"), False)


def same(these: dict[str, Tensor], those: dict[str, Tensor]) -> bool:
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


@pytest.mark.slow
def test_both_processes_hold_the_same_weights_at_the_end_though_one_cannot_reach_the_output(
    plain: list[dict[str, Tensor]], in_two_processes: Together, tmp_path: Path
) -> None:
    assert same(*plain)
    assert not same(plain[0], random_weights(ARCH).tensors)
    after_a_stop = in_two_processes(trained, tmp_path, True)
    assert same(after_a_stop[0], plain[0])
    assert same(after_a_stop[1], plain[0])


def gradients_of(share: Share) -> list[Tensor]:
    """Of five digits, three of them in process 0, with running statistics in place of the batch's."""
    x_BCHW, y_B = (tensor[:5] for tensor in load_all(open_dataset("digits", None, "train", (1, 16, 16))))
    model = build_model(ARCH, random_weights(ARCH))
    settings = TrainingSettings(unrolled_epochs=1, equilibrium_epochs=0, clip=1e9, optimizer="sgd")
    trainer = Trainer(model, settings, 0.25, seed=0, batches=1, share=share)
    model.eval()
    here = share.rows(torch.arange(5))
    z_ND = model.f(model.zero_state(len(here)), model.inject(x_BCHW[here]))
    trainer._descend(F.cross_entropy(model.head(z_ND), y_B[here]), len(here))
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_the_gradient_of_two_unequal_shares_is_that_of_their_union(in_two_processes: Together) -> None:
    whole = gradients_of(Share())
    assert len(whole) > 10
    for shared in in_two_processes(gradients_of):
        torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-6)


def statistics_of(share: Share) -> tuple[Tensor, Tensor]:
    """A constant of the model, and a running mean, of which process 0 has seen 0 and process 1 has seen 1."""
    model = build_model("mdeq-small-cifar10", random_weights("mdeq-small-cifar10"))
    settings = TrainingSettings(unrolled_epochs=1, equilibrium_epochs=0)
    trainer = Trainer(model, settings, 0.5, seed=0, batches=1, share=share)
    running_mean = model.stage0[1].running_mean.fill_(share.rank)
    trainer._descend(model.classifier.weight.square().sum(), images=48)
    return model.mean, running_mean


def test_running_statistics_are_averaged_and_constants_are_left_as_they_are(in_two_processes: Together) -> None:
    constant = build_model("mdeq-small-cifar10", random_weights("mdeq-small-cifar10")).mean
    for mean, running_mean in in_two_processes(statistics_of):
        assert torch.equal(mean, constant)  # a mean of equal numbers can be off by a rounding
        assert torch.equal(running_mean, torch.full_like(running_mean, 0.5))


def test_every_image_of_a_batch_is_in_a_share_and_no_share_is_empty() -> None:
    for images in range(1, 8):
        for size in range(1, 5):
            shares = [Share(rank, size).rows(torch.arange(images)).tolist() for rank in range(size)]
            assert all(shares)
            assert {image for share in shares for image in share} == set(range(images))
            if images >= size:
                assert sum(map(len, shares)) == images


def refusal(share: Share, folder: Path) -> str:
    try:
        Training(job_at(folder / "w.safetensors", data={"stop": 65 - share.rank}), share=share)
    except JobError as error:
        return str(error)
    return ""


def test_a_process_that_finds_other_data_than_process_0_refuses_to_train(
    in_two_processes: Together, tmp_path: Path
) -> None:
    zero, one = in_two_processes(refusal, tmp_path)
    assert zero == ""
    assert "process 1 does not find what process 0 does (data.stop: 65 there, 64 here)" in one


def told_by(job: TrainJob, cluster: str) -> tuple[TrainingResult, list[StepReport | EpochReport]]:
    told: list[StepReport | EpochReport] = []
    result = train_on_ray(job, "the command", cluster, told.append, lambda: False)
    assert result is not None
    return result, told


@pytest.mark.slow
def test_sigterm_stops_a_training_over_ray_and_the_same_command_goes_on_to_the_weights_of_an_unbroken_one(
    cluster: str, tmp_path: Path, plain: list[dict[str, Tensor]]
) -> None:
    job = job_at(tmp_path / "w.safetensors", execution={"workers": 1})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json") | {"output": "w.safetensors"}))
    command = ["-m", "srs_ray.cli", "train", "job.yaml", "--workers", "2", "--address", cluster]
    with subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        assert driver.stdout is not None
        first = driver.stdout.readline()
        assert f"epoch 1/{EPOCHS} unrolled: loss" in first, first + driver.stdout.read()
        driver.send_signal(signal.SIGTERM)
        rest = driver.stdout.read()
    assert driver.returncode == 143, rest
    assert rest.splitlines()[-1] == "stopped by a signal; run the same command again to go on"
    assert "Traceback" not in rest
    assert (tmp_path / "w.training" / "checkpoint.pt").exists()
    assert not (tmp_path / "w.safetensors").exists()

    result, told = told_by(job_at(tmp_path / "w.safetensors"), cluster)
    assert same(result.weights.tensors, plain[0])
    assert told[0].epoch > 1
    epochs = [report for report in told if isinstance(report, EpochReport)]
    assert epochs[-1].losses["loss"] < 0.9 * float(first.split("loss ")[1].split(";")[0])
    assert result.weights.card["device"] == "cpu, 1 threads, 2 workers"
    assert read_weights(result.path).card["command"] == "the command"
    assert {path.name.partition(".")[0] for path in result.path.parent.glob("w*/*")} == {"epochs", "events"}


@pytest.mark.slow
def test_a_diverging_training_ends_with_the_message_that_one_process_gives(cluster: str, tmp_path: Path) -> None:
    job = job_at(tmp_path / "w.safetensors", training={"learning_rate": 1e30, "clip": 1e30})
    with pytest.raises(SrsRayError, match=r"^training diverged: \w+ is not finite in epoch 1 ") as caught:
        train_on_ray(job, None, cluster, lambda _: None, lambda: False)
    assert "\n" not in str(caught.value)


def test_processes_for_which_a_local_ray_has_no_room_are_refused(tmp_path: Path) -> None:
    # By a driver of its own: Ray loses the actors of a process that goes from a local Ray to a cluster.
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job_at(tmp_path / "w.safetensors").model_dump(mode="json")))
    command = [sys.executable, "-m", "srs_ray.cli", "train", "job.yaml", "--workers", "10000", "--address", "local"]
    driver = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert driver.returncode == 2, driver.stderr
    message = " ".join(driver.stderr.split())
    assert "error: execution.workers is 10000, but Ray at " in message
    assert ", with 1 CPU each; ask for fewer" in message


def test_a_named_cluster_is_waited_for_until_it_has_room_or_a_stop_is_asked_for(cluster: str, tmp_path: Path) -> None:
    job = job_at(tmp_path / "w.safetensors", execution={"workers": 3})
    assert train_on_ray(job, None, cluster, pytest.fail, lambda: True) is None


@pytest.mark.slow
def test_a_training_whose_process_is_killed_goes_on_by_itself_to_the_same_weights(
    cluster: str, tmp_path: Path, plain: list[dict[str, Tensor]]
) -> None:
    dead: list[int] = []

    def kill_one_process(report: StepReport | EpochReport) -> None:
        if not dead and isinstance(report, EpochReport):
            assert report.epoch < EPOCHS
            dead.append(training_processes(cluster)[-1])
            os.kill(dead[0], signal.SIGKILL)

    result = train_on_ray(job_at(tmp_path / "w.safetensors"), None, cluster, kill_one_process, lambda: False)
    assert result is not None
    assert len(dead) == 1
    assert same(result.weights.tensors, plain[0])


def training_processes(cluster: str) -> list[int]:
    """Process ids of this cluster's training processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker"):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if cluster in (Path("/proc") / parent / "cmdline").read_text():
                    found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return sorted(found)
