"""Training from the command line: signals, cards, pictures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from srs_ray import cli
from srs_ray.models.mdeq.checkpoints import read_weights

JOB = {
    "model": {"arch": "mdeq-tiny-digits"},
    "data": {"kind": "digits", "split": "train", "stop": 192},
    "evaluation": {"kind": "digits", "split": "test", "stop": 4, "agreement_points": 2, "epoch_agreement_points": 1},
    "noise": {"sigma": 0.25},
    "training": {"unrolled_epochs": 2, "equilibrium_epochs": 1, "unrolled_steps": 2, "batch": 16},
    "execution": {"device": "cpu"},
    "note": "for a test",
    "output": "w.safetensors",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a job that was stopped in mid-epoch by SIGTERM, and gone on with."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "train.yaml").write_text(yaml.safe_dump(JOB))
    return folder


def srs_ray(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "srs_ray.cli", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_sigterm_keeps_a_checkpoint_and_the_same_command_goes_on_to_the_weights_of_an_unbroken_training(
    folder: Path,
) -> None:
    unbroken = srs_ray(folder, "train", "train.yaml", "--output", "unbroken.safetensors")
    out, _ = unbroken.communicate(timeout=200)
    assert unbroken.returncode == 0, out

    stopped = srs_ray(folder, "train", "train.yaml")
    deadline = time.monotonic() + 120
    while not (folder / "w.training" / "epochs.csv").exists():
        assert stopped.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(stopped.pid, signal.SIGTERM)
    out, _ = stopped.communicate(timeout=120)
    assert stopped.returncode == 143, out
    assert "stopped by a signal; run the same command again to go on" in out
    assert not (folder / "w.safetensors").exists()
    assert (folder / "w.training" / "checkpoint.pt").exists()

    again = srs_ray(folder, "train", "train.yaml")
    out, _ = again.communicate(timeout=200)
    assert again.returncode == 0, out
    assert "epoch 1/3" not in out
    assert "epoch 3/3 equilibrium" in out
    assert read_weights(folder / "w.safetensors").digest == read_weights(folder / "unbroken.safetensors").digest


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command in the folder and gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["srs-ray", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def weights(folder: Path, command) -> str:
    if not (folder / "w.safetensors").exists():
        assert command("train", "train.yaml")[0] == 0
    return "w.safetensors"


def test_inspect_prints_the_card_that_lies_beside_the_weights(folder: Path, command, weights: str) -> None:
    code, out, _ = command("weights", "inspect", weights)
    assert code == 0
    said = yaml.safe_load(out)
    beside = json.loads((folder / "w.json").read_text())
    assert said["digest"] == beside.pop("digest")
    assert said["card"] == beside
    assert said["card"]["note"] == "for a test"
    assert said["card"]["command"] == "srs-ray train train.yaml"
    assert [row["epoch"] for row in said["card"]["history"]] == [1, 2, 3]


def test_the_training_is_drawn_from_the_card(folder: Path, command, weights: str) -> None:
    assert command("weights", "plot", weights, "--output", "training.png")[0] == 0
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert command("weights", "plot", weights, "--output", "training.svg")[0] == 0
    drawn = (folder / "training.svg").read_text()
    for part in ("mdeq-tiny-digits in training at sigma = 0.25", "30 steps", "SRS-3", "noisy accuracy"):
        assert part in drawn
    assert command("weights", "init", "mdeq-tiny-digits", "random.safetensors")[0] == 0
    code, _, err = command("weights", "plot", "random.safetensors", "--output", "x.png")
    assert code == 2
    assert "tells of no epochs" in err


def test_certify_warns_of_weights_that_were_trained_at_another_sigma(
    folder: Path, command, weights: str, digits_settings
) -> None:
    job = digits_settings(model={"arch": "mdeq-tiny-digits", "weights": weights}, data={"stop": 10}, output="run")
    (folder / "certify.yaml").write_text(yaml.safe_dump(job))
    said = []
    for sigma in (job["noise"]["sigma"], 0.3):
        code, out, _ = command("certify", "certify.yaml", "--no-ray", "--sigma", str(sigma), "--output", f"run-{sigma}")
        assert code == 0
        said.append("trained at sigma 0.25" in " ".join(out.split()))
    assert said == [job["noise"]["sigma"] != 0.25, True]
