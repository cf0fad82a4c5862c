"""Attacks on runs: through the same workers, into a directory of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from ray_workers import kill_a_worker

from srs_ray import cli
from srs_ray.attacks.settings import AttackSettings
from srs_ray.errors import RunDirectoryError
from srs_ray.job import Job
from srs_ray.runner.attack import attack
from srs_ray.runner.backend import InProcess
from srs_ray.runner.ray_backend import RayBackend
from srs_ray.runs import RunDirectory
from srs_ray.runs.attack_schema import ATTACKS

QUICK = AttackSettings(radii=(1.5,), steps=2, draws=4, n_check=200)
TIMES_AND_PLACES = ("seconds", "worker", "attempt", "finished_at")


@pytest.fixture
def certified(digits_job, run_in_process) -> Job:
    """A quick job on digits, whose points are certified."""
    job = digits_job(sampling={"method": "standard", "n0": 20, "n": 150}, data={"stop": 40}, certificate={})
    run_in_process(job)
    return job


@pytest.fixture
def digits_job(digits_settings, tmp_path):
    """By two naive steps, so that tests are quick."""

    def make(**sections) -> Job:
        settings = digits_settings(**{"output": str(tmp_path / "run"), **sections})
        method = settings["sampling"].get("method")
        if method == "standard":
            reference = {"solver": "naive", "steps": 2, "tolerance": None}
            settings["sampling"] = {**sections["sampling"], "reference": reference}
            settings["certificate"] = {"alpha": 0.01}
        return Job.model_validate(settings)

    return make


def attack_here(job, console, output, settings=QUICK):
    return attack(job.output, job, settings, str(output), lambda: InProcess(job.execution), console)


def rows_at(path) -> list[dict]:
    rows = RunDirectory.open(str(path), (ATTACKS,)).rows().to_pylist()
    return [{name: value for name, value in row.items() if name not in TIMES_AND_PLACES} for row in rows]


def test_every_certified_point_is_attacked_once_and_the_same_again_finds_nothing_to_do(certified, console, tmp_path):
    out = tmp_path / "attack"
    done = attack_here(certified, console, out)
    assert (done.run.asked, done.run.finished, done.exit_code) == (4, 4, 0)
    rows = rows_at(out)
    assert [row["index"] for row in rows] == [0, 10, 20, 30]
    of_run = {row["index"]: row for row in RunDirectory.open(certified.output).rows().to_pylist()}
    for row in rows:
        assert (row["predicted"], row["pixels"]) == tuple(of_run[row["index"]][k] for k in ("predicted", "pixels"))
        assert row["source"] == of_run[row["index"]]["source"]
        assert row["gradients"] > 0
        assert row["evaluations"] > 0
    before = sorted(path.name for path in (out / "points").iterdir())
    again = attack_here(certified, console, out)
    assert (again.run.finished, again.exit_code) == (0, 0)
    assert sorted(path.name for path in (out / "points").iterdir()) == before


def test_an_attack_that_was_stopped_does_only_what_is_missing(certified, console, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    attack_here(certified, console, whole)
    short = certified.model_copy(update={"data": certified.data.model_copy(update={"stop": 20})})
    assert attack_here(short, console, resumed).run.finished == 2
    assert attack_here(certified, console, resumed).run.finished == 2
    assert rows_at(whole) == rows_at(resumed)


@pytest.mark.slow
def test_ray_and_this_process_give_the_same_rows_also_where_a_worker_is_killed(certified, console, tmp_path, cluster):
    settings = QUICK.model_copy(update={"steps": 60})
    here, there = tmp_path / "here", tmp_path / "there"
    attack_here(certified, console, here, settings)
    dead: list[int] = []

    class Backend(RayBackend):
        def rows(self, *arguments):
            for row in super().rows(*arguments):
                if not dead:
                    kill_a_worker(cluster, dead)
                yield row

    job = certified.model_copy(update={"execution": certified.execution.model_copy(update={"workers": 2})})
    done = attack(job.output, job, settings, str(there), lambda: Backend(job.execution, cluster), console)
    assert (done.exit_code, len(dead)) == (0, 1)
    assert rows_at(here) == rows_at(there)
    attempts = RunDirectory.open(str(there), (ATTACKS,)).rows(["attempt"])["attempt"].to_pylist()
    assert max(attempts) == 2


def test_other_settings_are_refused_by_name_and_another_run_too(certified, console, tmp_path):
    out = tmp_path / "attack"
    attack_here(certified, console, out)
    with pytest.raises(RunDirectoryError, match=r"attack\.steps: 2 there, 3 now"):
        attack_here(certified, console, out, QUICK.model_copy(update={"steps": 3}))
    with pytest.raises(RunDirectoryError, match="holds rows of `srs-ray certify`, expected those of `srs-ray attack`"):
        attack_here(certified, console, certified.output)
    other = certified.model_copy(update={"noise": certified.noise.model_copy(update={"sigma": 0.5})})
    with pytest.raises(
        RunDirectoryError, match=r"cannot be attacked with what is here .*noise\.sigma: 0\.25 in the run"
    ):
        attack_here(other, console, tmp_path / "other")


def test_a_run_without_certificates_is_told(certified, console, tmp_path):
    nowhere = certified.model_copy(update={"data": certified.data.model_copy(update={"start": 5, "stop": 6})})
    with pytest.raises(RunDirectoryError, match="none of the points asked for has a certificate"):
        attack_here(nowhere, console, tmp_path / "attack")


def test_other_commands_refuse_an_attacks_directory_and_compact_takes_it(certified, console, tmp_path, monkeypatch):
    out = tmp_path / "attack"
    short = certified.model_copy(update={"data": certified.data.model_copy(update={"stop": 20})})
    attack_here(short, console, out)
    attack_here(certified, console, out)
    for command in (
        ["status", str(out)],
        ["aggregate", str(out)],
        ["export", str(out)],
        ["verify", str(out)],
        ["plot", str(out), "--output", str(tmp_path / "a.png")],
    ):
        assert call(monkeypatch, *command) == 2, command
    before = rows_at(out)
    assert len(list((out / "points").iterdir())) > 1
    assert call(monkeypatch, "compact", str(out)) == 0
    assert len(list((out / "points").iterdir())) == 1
    assert rows_at(out) == before


# Models of the user's own, by the command line

MODULE = '''
import torch
from torch import nn

SHAPE = (1, 8, 8)


def direction():
    sign = torch.where(torch.arange(64).view(SHAPE) % 3 == 0, 1.0, -1.0)
    return sign / sign.norm()


class Halfspace(nn.Module):
    """Class 1 where w x > 0 for images less 1/2."""

    def forward(self, x):
        margin = ((x - 0.5) * direction()).sum(dim=(1, 2, 3))
        return 20 * torch.stack([-margin, margin], dim=1)


class WithoutGradient(Halfspace):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class Slow(nn.Module):
    """The same half space as an equilibrium that one naive step hardly moves: chains of them average the noise away."""

    state_shape = (1,)

    def inject(self, x):
        return ((x - 0.5) * direction()).sum(dim=(1, 2, 3)).unsqueeze(1)

    def f(self, z, injection):
        return 0.95 * z + 0.05 * injection

    def head(self, z):
        return 20 * torch.cat([-z, z], dim=1)


class Points:
    """Images at distances 0.1, 0.2, ... from the half space's boundary, on the side of class 1."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        level = torch.where(direction() > 0, 128.0, 127.0) + (3 + 6 * index) * torch.sign(direction())
        return level.clamp(0, 255) / 255, 1
'''


@pytest.fixture
def own_job(tmp_path):
    """A job file with a model and data of the user's own."""
    (tmp_path / "mine.py").write_text(MODULE)

    def make(network: str, **sections) -> Path:
        job = {
            "model": {"import": f"mine.py:{network}", "input_shape": [1, 8, 8], "classes": 2},
            "data": {"import": "mine.py:Points"},
            "noise": {"sigma": 0.25},
            "sampling": {"method": "standard", "n0": 50, "n": 1000},
            "execution": {"device": "cpu"},
            "report": {"radii": [0, 0.1, 0.3]},
            "attack": {"steps": 5, "draws": 4},
            "output": "runs/mine",
            **sections,
        }
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        return tmp_path / "job.yaml"

    return make


def call(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["srs-ray", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs a command in the folder of the user's files; gives exit code, standard output, and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = call(monkeypatch, *arguments)
        return code, *capsys.readouterr()

    return run


def test_a_torch_module_is_attacked_by_its_job_and_by_its_run(own_job, command):
    own_job("Halfspace")
    assert command("certify", "job.yaml", "--no-ray")[0] == 0
    code, out, _ = command("attack", "job.yaml", "--no-ray")
    assert code == 0
    assert "4 of 4 points attacked, 4 of them now; rows are in runs/mine-attack" in out
    assert "attacked (ceiling)" in out
    assert [row["distance"] is not None for row in rows_at("runs/mine-attack")] == [True, False, False, False]
    code, _, err = command("attack", "runs/mine", "--no-ray")
    assert code == 2
    assert "--run-code" in err
    assert command("attack", "runs/mine", "--no-ray", "--run-code")[0] == 0
    code, _, err = command("attack", "runs/mine", "--no-ray", "--run-code", "--set", "attack.steps=0")
    assert (code, "attack.steps" in err) == (2, True)
    code, _, err = command("attack", "runs/mine", "--no-ray", "--run-code", "--set", "attack.stepz=3")
    assert (code, "did you mean steps" in err) == (2, True)
    code, _, err = command("attack", "runs/nothing", "--no-ray")
    assert (code, "runs/nothing is no run directory" in err) == (2, True)


def test_a_model_without_gradient_is_told_and_no_row_is_written(own_job, command):
    own_job("WithoutGradient")
    assert command("certify", "job.yaml", "--no-ray")[0] == 0
    code, _, err = command("attack", "job.yaml", "--no-ray")
    assert code == 2
    assert "gives no gradient" in err
    assert "Traceback" not in err
    assert rows_at("runs/mine-attack") == []


UNSOUND = {
    "sampling": {
        "method": "srs", "n0": 50, "n": 2000, "chains": 20, "steps": 1, "solver": "naive",
        "reference": {"solver": "anderson", "steps": 10, "tolerance": 1e-4},
    },
    "certificate": {"kind": "released", "alpha": 0.01, "audit": 200},
}  # fmt: skip


def test_a_really_certified_run_with_an_unsound_certificate_is_contradicted_aloud(own_job, command):
    """Chains average the noise away and hit nearly always, F does not; the released certificate takes no notice."""
    own_job("Slow", **UNSOUND)
    assert command("certify", "job.yaml", "--no-ray")[0] == 0
    code, out, _ = command("attack", "job.yaml", "--no-ray", "--set", "attack.states=both")
    assert code == 3
    assert "CERTIFICATES CONTRADICTED: " in out
    rows = {row["index"]: row for row in rows_at("runs/mine-attack")}
    assert rows[0]["contradicts"]
    assert 0.1 < rows[0]["distance"] < rows[0]["radius"]
    assert f"point 0: certified as class 1 to radius {rows[0]['radius']:.4f}" in out
    code, out, _ = command("attack", "job.yaml", "--no-ray", "--set", "attack.states=both")
    assert (code, "CERTIFICATES CONTRADICTED" in out) == (3, True), "again, where nothing is to do"
    code, out, _ = command("aggregate", "runs/mine", "--attack", "runs/mine-attack")
    assert "CERTIFICATES CONTRADICTED" in " ".join(out.split())


def test_counts_that_were_made_up_are_contradicted(own_job, command):
    """Rows that are what their counts say, of counts that nobody sampled."""
    from srs_ray.runs.claims import Claims, p_lower_of

    own_job("Halfspace")
    assert command("certify", "job.yaml", "--no-ray")[0] == 0
    run = RunDirectory.open("runs/mine")
    smoothing = Claims.by(run.fingerprint).smoothing
    [row] = [row for row in run.rows().to_pylist() if row["index"] == 0]
    row |= {"classes": [1], "counts": [row["n"]], "finished_at": datetime.now(UTC)}
    p_lower = p_lower_of(row, smoothing)
    run.append([{**row, "p_lower": p_lower, "radius": smoothing.radius(p_lower)}])
    code, out, _ = command("attack", "job.yaml", "--no-ray")
    assert (code, "CERTIFICATES CONTRADICTED: 1 of 4" in out) == (3, True)


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on(own_job, command, tmp_path):
    own_job("Halfspace")
    assert command("certify", "job.yaml", "--no-ray")[0] == 0
    slow = ["attack", "job.yaml", "--no-ray", "--set", "attack.steps=400", "--output", "runs/killed"]
    driver = subprocess.Popen([sys.executable, "-m", "srs_ray", *slow], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while driver.poll() is None and not list((tmp_path / "runs/killed/points").glob("part-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    before = len(rows_at("runs/killed"))
    assert 1 <= before <= 4
    code, out, _ = command(*slow)
    assert (code, f"{4 - before} of them now" in out) == (0, True)
    undisturbed = command(*slow[:-1], "runs/whole")
    assert undisturbed[0] == 0
    assert rows_at("runs/killed") == rows_at("runs/whole")
