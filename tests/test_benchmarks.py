from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from srs_ray import load_points
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.smoothing.noise import GridNoise

ROOT = Path(__file__).resolve().parent.parent


def run(script: str, *options: str) -> str:
    command = [sys.executable, f"benchmarks/{script}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mdeq-tiny-digits", "mdeq-small-cifar10"])
def test_both_engines_agree_before_they_are_timed(arch: str) -> None:
    said = run("point.py", "--arch", arch, "--samples", "20", "--audit", "10", "--plain-batch", "20", "--rounds", "1")
    assert "0 of 80 predictions differ" in " ".join(said.split())
    assert "SRS, 3 steps" in said


@pytest.mark.slow
def test_engines_that_disagree_are_not_timed(tmp_path: Path) -> None:
    """The comparison has teeth: the plain engine on other weights is found out."""
    script = (ROOT / "benchmarks" / "point.py").read_text()
    broken = script.replace(
        "build_model(setup.arch, weights,", "build_model(setup.arch, random_weights(setup.arch, 1),"
    )
    assert broken != script
    (tmp_path / "point.py").write_text(broken)
    (tmp_path / "plain.py").write_text((ROOT / "benchmarks" / "plain.py").read_text())
    options = ["--arch", "mdeq-tiny-digits", "--samples", "20", "--audit", "10", "--plain-batch", "20", "--rounds", "1"]
    done = subprocess.run([sys.executable, str(tmp_path / "point.py"), *options], capture_output=True, text=True)
    assert done.returncode != 0
    assert "predictions differ" in done.stderr


@pytest.mark.slow
def test_the_roofline_says_what_each_stage_reaches() -> None:
    said = run("roofline.py", "--arch", "mdeq-tiny-digits", "--rounds", "1")
    for word in ("ceilings", "noise", "stem", "layer", "head", "solver"):
        assert word in said


@pytest.mark.slow
def test_scaling_counts_the_points_of_real_runs() -> None:
    options = ["--shapes", "1x1,2x1", "--points", "5", "--rounds", "1", "--n", "100", "--audit", "20"]
    said = run("scaling.py", *options, "--device", "cpu")
    assert "1 x 1" in said
    assert "2 x 1" in said


@pytest.mark.slow
def test_an_ablation_takes_every_measure_away_once() -> None:
    said = run("ablation.py", "--arch", "mdeq-tiny-digits", "--samples", "20", "--rounds", "1")
    assert said.count("1.00") >= 3  # nothing taken away
    assert "channels last" in said


def test_looks_save_samples_and_certify_nothing_that_all_samples_would_not() -> None:
    said = run("spending.py", "--points", "6")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    assert {row[0] for row in rows} == {"cohen", "mixture", "exact"}
    assert all(float(row[8].removesuffix(" times")) > 1.5 and row[10] == "0.00%" for row in rows)


@pytest.mark.slow
def test_convergence_says_how_much_of_a_state_moves_at_each_step() -> None:
    said = run("convergence.py", "--count", "8", "--steps", "3")
    assert "from zero" in said
    assert "100.0%" in said


@pytest.mark.slow
def test_batches_are_compared_with_the_rules() -> None:
    said = run("batch_size.py", "--arch", "mdeq-tiny-digits", "--rounds", "1")
    assert all(f" {batch} " in said for batch in (32, 64, 128))
    assert said.count(" 1.00 ") >= 3  # the rule's own


@pytest.mark.slow
def test_the_gpu_check_runs_every_check_and_reports_it(tmp_path: Path) -> None:
    said = run("gpu_check.py", "--device", "cpu", "--quick", "--output", str(tmp_path)).splitlines()
    assert said[-1] == "all 9 checks are ok on cpu"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["checks"]["noise"]["differing"] == 0
    assert "## parity, small: ok" in (tmp_path / "report.md").read_text()


def checked(monkeypatch: pytest.MonkeyPatch, check: str, arguments: list[Any]) -> dict[str, Any]:
    """The result of one of the GPU check's checks in this process, on its CPU."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("gpu_check")
    return module.run_check(module.Machine(torch.device("cpu"), quick=True), check, arguments)


@pytest.mark.parametrize("check", ["noise", "parity", "one_function"])
def test_a_gpu_check_finds_nothing_wrong_on_a_cpu(monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    arguments = {"noise": [], "parity": ["mdeq-tiny-digits", 16], "one_function": ["mdeq-tiny-digits", 8, 12]}
    assert checked(monkeypatch, check, arguments[check])["ok"]


def test_a_gpu_check_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = GridNoise.draws

    def off_by_one_where_alone(self: GridNoise, *arguments: Any) -> torch.Tensor:
        j_ND = draws(self, *arguments)
        return j_ND + 1 if len(j_ND) == 1 else j_ND

    monkeypatch.setattr(GridNoise, "draws", off_by_one_where_alone)
    assert checked(monkeypatch, "noise", []) | {"ok": False, "alone equal": False} == checked(monkeypatch, "noise", [])
    monkeypatch.setattr(MDEQ, "head", lambda self, z_BD: z_BD[:, :10] * torch.arange(len(z_BD)).view(-1, 1))
    found = checked(monkeypatch, "one_function", ["mdeq-tiny-digits", 8, 12])
    assert not found["ok"]
    assert not found["head"]


IMAGES = ROOT.parent / "shared" / "data" / "cifar10-test.parquet"
needs_images = pytest.mark.skipif(not IMAGES.exists(), reason=f"no images at {IMAGES}")


@pytest.mark.slow
@needs_images
def test_ways_of_sampling_are_played_on_recorded_predictions_as_runs_would_draw_them(tmp_path: Path) -> None:
    said = run("sequential.py", "--images", str(IMAGES), "--points", "1", "--folder", str(tmp_path / "predictions"))
    assert "standard, fixed n" in said
    assert "auto, most_lost 0.02" in said
    job = ["jobs/cifar10-auto.yaml", "--no-ray", "--output", str(tmp_path / "run"), "--stop", "1"]
    data = ["--set", "data.kind=parquet", "--set", f"data.path={IMAGES}"]
    subprocess.run([sys.executable, "-m", "srs_ray.cli", "certify", *job, *data], cwd=ROOT, check=True)
    (row,) = load_points(tmp_path / "run").to_dict("records")
    line = next(line for line in said.splitlines() if "most_lost 0.02" in line)
    assert line.split("│")[2].strip() == f"{row['n0'] + row['n']:,}"


@pytest.mark.slow
@needs_images
def test_few_steps_are_played_on_recorded_predictions_as_a_run_would_draw_them(tmp_path: Path) -> None:
    said = run("few_steps.py", "--images", str(IMAGES), "--points", "1", "--folder", str(tmp_path / "predictions"))
    job = ["jobs/cifar10-fast.yaml", "--no-ray", "--batch", "64", "--output", str(tmp_path / "run"), "--stop", "1"]
    data = ["--set", "data.kind=parquet", "--set", f"data.path={IMAGES}"]
    subprocess.run([sys.executable, "-m", "srs_ray.cli", "certify", *job, *data], cwd=ROOT, check=True)
    (row,) = load_points(tmp_path / "run").to_dict("records")
    line = next(line for line in said.splitlines() if "the label, looks from 25, n = 4,000" in line)
    assert [cell.strip() for cell in line.split("│")[2:4]] == [f"{row['n']:,}", f"{row['function_evaluations']:,}"]


@pytest.mark.slow
@needs_images
def test_each_reference_is_certified_for_itself(tmp_path: Path) -> None:
    picture = tmp_path / "reference.png"
    options = ["--points", "2", "--n", "30", "--clean", "20", "--output", str(picture)]
    said = run("reference.py", "--images", str(IMAGES), *options)
    assert "30A, tolerance 0.001" in said
    assert picture.stat().st_size > 10_000
