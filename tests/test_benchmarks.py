from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(script: str, *options: str) -> str:
    command = [sys.executable, f"benchmarks/{script}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arch", ["mdeq-tiny-digits", "mdeq-small-cifar10"])
def test_both_engines_agree_before_they_are_timed(arch: str) -> None:
    said = run("point.py", "--arch", arch, "--samples", "20", "--audit", "10", "--plain-batch", "20", "--rounds", "1")
    assert "0 of 80 predictions differ" in " ".join(said.split())
    assert "SRS, 3 steps" in said


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
