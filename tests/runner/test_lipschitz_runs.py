"""Runs without noise: started, stopped, continued, read, compared, verified, and refused where they make no sense."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from srs_ray.analysis import comparison_table, load_points, recertify
from srs_ray.analysis.plot import plot_curves
from srs_ray.analysis.points_export import points_export
from srs_ray.analysis.status import run_status, status_text
from srs_ray.analysis.verification import verify_run
from srs_ray.cli import app
from srs_ray.errors import JobError, RunDirectoryError, SrsRayError, WeightsError
from srs_ray.job import LipschitzJob
from srs_ray.job_file import load_any_job, load_job
from srs_ray.models.monotone.checkpoints import random_monotone
from srs_ray.models.weights import Weights, write_weights
from srs_ray.runner.backend import InProcess
from srs_ray.runner.certification import RunSummary, certify
from srs_ray.runner.preparation import JobInputs, fingerprint_of
from srs_ray.runs import RunDirectory

VARYING = ("seconds", "worker", "finished_at")


def job_of(output: Path, **changes: Any) -> LipschitzJob:
    raw = {
        "model": {"arch": "lben-tiny-digits", "weights": "lben-tiny-digits-gamma2"},
        "data": {"kind": "digits", "split": "test", "stop": 8},
        "certificate": {"kind": "lipschitz"},
        "report": {"radii": [0, 0.25, 0.5]},
        "output": str(output),
    }
    return LipschitzJob.model_validate(raw | changes)


def run(job: LipschitzJob) -> RunSummary:
    return certify(job, lambda: InProcess(job.execution), Console(file=io.StringIO()))


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows = RunDirectory.open(path).rows().to_pylist()
    return [{name: value for name, value in row.items() if name not in VARYING} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "plain"
    assert run(job_of(path)).exit_code == 0
    return path


def test_a_run_has_a_row_for_each_point_with_no_column_of_samples(finished: Path) -> None:
    rows = rows_of(finished)
    assert [row["index"] for row in rows] == list(range(8))
    for row in rows:
        assert row["radius"] > 0
        assert row["predicted"] == row["leading"] != row["runner_up"]
        assert (row["sigma"], row["p_lower"], row["n"], row["dtype"], row["device"]) == (
            None,
            None,
            None,
            "float64",
            "cpu",
        )
        assert len(row["pixels"]) == 64


def test_a_run_that_was_stopped_goes_on_to_the_same_rows(finished: Path, tmp_path: Path) -> None:
    assert run(job_of(tmp_path / "run", data={"kind": "digits", "split": "test", "stop": 3})).finished == 3
    summary = run(job_of(tmp_path / "run"))
    assert (summary.finished, summary.done) == (5, 8)
    assert rows_of(tmp_path / "run") == rows_of(finished)
    assert run(job_of(tmp_path / "run")).finished == 0


def test_runs_beside_it_that_draw_noise_are_no_reason_for_a_warning(finished: Path, tmp_path: Path) -> None:
    run(job_of(tmp_path / "one"))
    said = io.StringIO()
    job = job_of(tmp_path / "two", certificate={"kind": "lipschitz", "steps": 400})
    certify(job, lambda: InProcess(job.execution), Console(file=said))
    assert "warning" not in said.getvalue()


def test_other_settings_and_other_weights_do_not_go_on_with_a_run(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"certificate.steps: 500 there, 20 now"):
        run(job_of(finished, certificate={"kind": "lipschitz", "steps": 20}))
    write_weights(random_monotone("lben-tiny-digits"), tmp_path / "other.safetensors")
    model = {"arch": "lben-tiny-digits", "weights": str(tmp_path / "other.safetensors")}
    with pytest.raises(RunDirectoryError, match=r"model.weights.digest"):
        run(job_of(finished, model=model))


def test_tables_status_plots_and_exports_say_what_is_promised_and_nothing_of_samples(
    finished: Path, tmp_path: Path
) -> None:
    df = load_points(finished)
    table = " ".join(comparison_table([df], [0, 0.25, 10]).split())
    assert "deterministic" in table
    assert "for certain, for the exact equilibrium in real arithmetic" in table
    assert "no noise, no alpha" in table
    assert "nothing is left to chance" in table
    (as_json,) = json.loads(comparison_table([df], [0, 0.25], "json"))
    assert (as_json["sound"], as_json["radius_cap"], as_json["false_certificates_at_most"]) == (True, None, 0.0)
    for form in ("csv", "markdown", "latex"):
        assert "lipschitz" in comparison_table([df], [0, 0.25], form)
    state = run_status(finished)
    assert (state["done"], state["pending"]) == (8, 0)
    assert "for certain" in status_text(state)
    assert len(points_export(df).splitlines()) == 9
    plot_curves([df], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_there_are_no_counts_to_certify_anew_or_to_project(finished: Path) -> None:
    df = load_points(finished)
    with pytest.raises(SrsRayError, match="certified without noise"):
        recertify(df, alpha=0.01)
    with pytest.raises(SrsRayError, match="certified without noise"):
        comparison_table([df], [0], project_n=1000)


def test_a_report_which_tells_of_smoothing_is_refused(finished: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(finished), "--output", str(tmp_path / "report.html")])
    assert isinstance(result.exception, SrsRayError)
    assert "is certified without noise" in str(result.exception)
    assert not (tmp_path / "report.html").exists()


def test_a_run_is_verified_row_by_row_and_by_certifying_again(finished: Path) -> None:
    found = verify_run(finished, points=4, seed=1)
    assert found.holds
    assert len(found.repeated) == 4
    assert "for certain" in found.guarantee


def forged(finished: Path, to: Path, **changes: Any) -> Path:
    """The run, a part of which has other values in its first row."""
    source = RunDirectory.open(finished)
    rows = source.rows().to_pylist()
    rows[0] |= changes
    copy = RunDirectory.create_or_continue(
        str(to), job={**source.job, "output": str(to)}, fingerprint=source.fingerprint, points=source.points,
        session=source.sessions[0],
    )  # fmt: skip
    copy.append(rows)
    return to


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"radius": 9.0}, "radius 9.0, by its evidence"),
        ({"allowance": -1.0}, "logit_margin, allowance and pair_constant"),
        ({"predicted": 3, "leading": 4}, "predicted 3, by its evidence 4"),
        ({"correct": None}, "no value for correct"),
        ({"sigma": 0.5}, "evidence of samples"),
    ],
)
def test_a_row_that_does_not_follow_from_its_evidence_is_a_fault(
    finished: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    if changes == {"correct": None}:
        with pytest.raises(ValueError, match=said):
            forged(finished, tmp_path / "run", **changes)
        return
    found = verify_run(forged(finished, tmp_path / "run", **changes))
    assert not found.holds
    assert said in found.faults[0]


def test_a_forged_margin_comes_out_when_its_point_is_certified_again(finished: Path, tmp_path: Path) -> None:
    row = RunDirectory.open(finished).rows().to_pylist()[0]
    doubled = {"logit_margin": 2 * row["logit_margin"], "allowance": 0.0}
    doubled["radius"] = doubled["logit_margin"] / row["pair_constant"]
    path = forged(finished, tmp_path / "run", **doubled)
    assert verify_run(path).holds, "by itself the row is consistent"
    found = verify_run(path, points=8)
    assert not found.holds
    assert [each.index for each in found.repeated if not each.equal] == [0]
    assert found.repeated[0].differing == ("radius", "logit_margin")


def test_the_fingerprint_has_the_model_the_data_and_the_certificate_alone(tmp_path: Path) -> None:
    inputs = JobInputs.read(job_of(tmp_path / "run"))
    found = fingerprint_of(inputs.resolve("cpu"), inputs.source)
    rest = {name: value for name, value in found.items() if not name.startswith(("data.", "model."))}
    assert rest == {
        "certificate.kind": "lipschitz",
        "certificate.steps": 500,
        "certificate.tolerance": 1e-6,
        "lipschitz.version": 1,
    }


def written(tmp_path: Path, **changes: Any) -> Path:
    raw = {**job_of(tmp_path / "run").model_dump(mode="json"), **changes}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in raw.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise": {"sigma": 0.5}}, "noise: certificate.kind lipschitz draws no samples"),
        ({"sampling": {"method": "standard", "n": 100}}, "sampling: certificate.kind lipschitz draws no samples"),
        ({"execution": {"device": "cuda"}}, "execution.device: certificate.kind lipschitz is computed in float64"),
        ({"certificate": {"kind": "lipschitz", "alpha": 0.001}}, "certificate.alpha: unknown setting"),
        ({"model": {"import": "a.py:b"}}, "unknown setting"),
    ],
)
def test_a_job_that_mixes_the_two_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        load_any_job(written(tmp_path, **changes))


def test_what_needs_samples_refuses_a_job_without_them(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert isinstance(load_any_job(path), LipschitzJob)
    with pytest.raises(JobError, match="draws no samples"):
        load_job(path)


def test_a_model_without_proved_constants_is_refused_before_anything_starts(tmp_path: Path) -> None:
    model = {"arch": "mdeq-tiny-digits", "weights": "mdeq-tiny-digits-sigma25"}
    with pytest.raises(JobError, match="mdeq-tiny-digits has none: take a monotone model"):
        run(job_of(tmp_path / "run", model=model))


def test_weights_that_fail_a_condition_are_refused_before_anything_starts(tmp_path: Path) -> None:
    tensors = random_monotone("lben-tiny-digits").tensors
    write_weights(Weights({**tensors, "m": -tensors["m"]}, {}), tmp_path / "bad.safetensors")
    model = {"arch": "lben-tiny-digits", "weights": str(tmp_path / "bad.safetensors")}
    with pytest.raises(WeightsError, match="m is -1, expected above 0"):
        run(job_of(tmp_path / "run", model=model))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_broken_point_is_an_error_row_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in map(str, range(10)):
        (folder / name).mkdir(parents=True)
        Image.new("L", (8, 8), 100).save(folder / name / "a.png")
    (folder / "3" / "a.png").write_bytes(b"no image")
    summary = run(job_of(tmp_path / "run", data={"kind": "imagefolder", "path": str(folder)}))
    assert (summary.exit_code, summary.errors, summary.done) == (3, 1, 9)
    rows = rows_of(tmp_path / "run")
    assert [row["index"] for row in rows if row["status"] == "error"] == [3]
    assert verify_run(tmp_path / "run").holds


@pytest.mark.slow
def test_ray_and_this_process_give_the_same_rows(finished: Path, tmp_path: Path, run_on_ray) -> None:
    assert run_on_ray(job_of(tmp_path / "run", execution={"workers": 1})).exit_code == 0
    assert rows_of(tmp_path / "run") == rows_of(finished)


def test_a_monotone_model_is_sampled_as_any_equilibrium_model(tmp_path: Path) -> None:
    raw = {
        "model": {"arch": "lben-tiny-digits", "weights": "lben-tiny-digits-gamma2"},
        "data": {"kind": "digits", "split": "test", "stop": 2, "pixels": "rounded"},
        "noise": {"sigma": 0.25},
        "sampling": {"method": "srs", "n0": 50, "n": 200, "chains": 20, "steps": 2},
        "certificate": {"kind": "exact", "audit": 100},
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(raw))
    job = load_any_job(path)
    assert certify(job, lambda: InProcess(job.execution), Console(file=io.StringIO())).exit_code == 0
