from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import srs_ray
from srs_ray.data import open_dataset
from srs_ray.errors import DataError, JobError, RunDirectoryError, WeightsError
from srs_ray.models.weights import random_weights, write_weights
from srs_ray.runner.preparation import JobInputs, fingerprint_of
from srs_ray.runner.worker import PointWorker
from srs_ray.runs import RunDirectory


def parts(path: str) -> set[str]:
    return {file.name for file in (Path(path) / "points").iterdir()}


def test_every_point_that_is_asked_for_is_certified_once(digits_job, run_in_process, result_rows):
    job = digits_job()
    summary = run_in_process(job)
    assert (summary.asked, summary.done, summary.finished, summary.errors, summary.exit_code) == (6, 6, 6, 0, 0)
    assert [row["index"] for row in result_rows(job.output)] == [0, 10, 20, 30, 40, 50]
    assert pq.read_table(Path(job.output) / "points").num_rows == 6


def test_the_same_job_again_finds_nothing_to_do(digits_job, run_in_process):
    job = digits_job()
    run_in_process(job)
    before = parts(job.output)
    summary = run_in_process(job)
    assert (summary.done, summary.finished, summary.exit_code) == (6, 0, 0)
    assert parts(job.output) == before


def test_a_run_that_is_extended_does_only_what_is_missing(digits_job, run_in_process, result_rows):
    short, whole = digits_job(data={"stop": 30}), digits_job()
    apart = digits_job(output=str(Path(whole.output).with_name("apart")))
    assert run_in_process(short).finished == 3
    assert run_in_process(whole).finished == 3
    run_in_process(apart)
    assert result_rows(whole.output) == result_rows(apart.output)


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"noise": {"sigma": 0.5}}, "noise.sigma"),
        ({"sampling": {"n": 151}}, "sampling.n"),
        ({"sampling": {"chains": 17}}, "sampling.chains"),
        ({"sampling": {"steps": 2}}, "sampling.steps"),
        ({"sampling": {"reference": {"tolerance": 1e-2}}}, "sampling.reference.tolerance"),
        ({"certificate": {"audit": 99}}, "certificate.audit"),
        ({"certificate": {"kind": "union"}}, "certificate.kind"),
        ({"certificate": {"alpha": 0.02}}, "certificate.alpha"),
        ({"execution": {"seed": 1}}, "execution.seed"),
        ({"execution": {"dtype": "float64"}}, "execution.dtype"),
        ({"noise": {"generator": "philox4x32"}}, "noise.generator"),
        ({"data": {"split": "train"}}, "data.split"),
    ],
)
def test_whatever_can_change_a_count_or_a_bound_is_in_the_fingerprint(digits_job, change, setting):
    job, other = digits_job(), digits_job(**change)
    before, after = (fingerprint_of(JobInputs.read(j).resolve("cpu"), JobInputs.read(j).weights) for j in (job, other))
    assert setting in {key for key in before | after if before.get(key) != after.get(key)}


def test_weights_images_and_the_programs_own_sampling_are_in_the_fingerprint(digits_job, tmp_path):
    random = tmp_path / "random.safetensors"
    write_weights(random_weights("mdeq-tiny-digits"), random)
    first, second = (
        fingerprint_of(inputs.resolve("cpu"), inputs.weights)
        for inputs in (JobInputs.read(digits_job()), JobInputs.read(digits_job(model={"weights": str(random)})))
    )
    assert {key for key in first if first[key] != second[key]} == {"model.weights.digest"}
    assert {"model.arch", "noise.check", "sampling.version", "data.content", "data.preprocessing"} <= first.keys()


def test_where_how_fast_and_how_far_is_not_in_the_fingerprint(digits_job):
    job = digits_job()
    other = digits_job(
        data={"start": 10, "stop": 100, "every": 5}, execution={"workers": 2, "batch": 7, "attempts": 1}, output="else"
    )
    before, after = (fingerprint_of(JobInputs.read(j).resolve("cpu"), JobInputs.read(j).weights) for j in (job, other))
    assert before == after


def test_a_run_is_not_continued_with_another_fingerprint(digits_job, run_in_process):
    run_in_process(digits_job(data={"stop": 10}))
    with pytest.raises(RunDirectoryError, match=r"noise\.sigma"):
        run_in_process(digits_job(noise={"sigma": 0.5}))


def test_run_json_records_the_job_and_each_start(digits_job, run_in_process):
    run_in_process(digits_job(data={"stop": 10}))
    run_in_process(digits_job(data={"stop": 20}, execution={"batch": 32}))
    run = RunDirectory.open(digits_job().output)
    assert run.points == {"start": 0, "stop": 20, "every": 10}
    assert [session["batch"] for session in run.sessions] == [128, 32]
    assert {"torch", "numpy", "srs-ray", "python"} <= run.sessions[0]["versions"].keys()
    assert any("batch" in note for note in run.notes)


@pytest.fixture
def broken_parquet(tmp_path) -> Path:
    """Four real digits as PNG; the second is cut short, the third has another size, the fourth a label out of range."""
    digits = open_dataset("digits", None, "test", (1, 8, 8))
    images = []
    for index, size in enumerate((16, 16, 20, 16)):
        pixels = (digits.image(index)[0].numpy() * 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((size, size)).save(buffer, "PNG")
        images.append(buffer.getvalue()[: 40 if index == 1 else None])
    labels = [digits.label(0), digits.label(1), digits.label(2), 10]
    path = tmp_path / "digits.parquet"
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


def test_points_that_cannot_be_read_become_error_rows_and_are_tried_again(
    digits_job, broken_parquet, run_in_process, console
):
    job = digits_job(data={"kind": "parquet", "path": str(broken_parquet), "stop": None, "every": 1})
    summary = run_in_process(job)
    assert (summary.done, summary.errors, summary.missing, summary.exit_code) == (1, 3, 3, 3)
    rows = RunDirectory.open(job.output).rows().to_pylist()
    assert [row["status"] for row in rows] == ["ok", "error", "error", "error"]
    assert "20x20" in rows[2]["error"]
    assert all("digits.parquet" in row["error"] for row in rows[1:])
    assert all(row["predicted"] is None and row["counts"] is None for row in rows[1:])
    again = run_in_process(job)
    assert (again.done, again.finished, again.errors) == (1, 0, 3)
    assert "point 2:" in console.file.getvalue()


def test_what_is_missing_or_wrong_is_said_before_anything_starts(digits_job, run_in_process):
    with pytest.raises(WeightsError, match="nowhere"):
        run_in_process(digits_job(model={"weights": "nowhere.pth"}))
    with pytest.raises(DataError, match="nowhere"):
        run_in_process(digits_job(data={"kind": "parquet", "path": "nowhere.parquet"}))
    with pytest.raises(JobError, match="can certify nothing"):
        run_in_process(digits_job(certificate={"audit": 2}))
    assert not Path(digits_job().output).exists()


def test_a_worker_that_sees_other_data_or_other_noise_refuses_to_start(digits_job):
    inputs = JobInputs.read(digits_job())
    spec = inputs.resolve("cpu")
    with pytest.raises(DataError, match="points differ"):
        PointWorker(dataclasses.replace(spec, data_identity=spec.data_identity | {"points": 3}), inputs.weights, 1)
    with pytest.raises(JobError, match="noise generator"):
        PointWorker(dataclasses.replace(spec, noise_check="0" * 16), inputs.weights, 1)


def test_every_setting_of_a_job_reaches_the_point(digits_job):
    """The row of a worker is that of certify_point with the same settings, none of them a default."""
    job = digits_job(
        sampling={"solver": "naive", "steps": 2, "warmup_steps": 5, "chains": 9, "n0": 13, "n": 77}
        | {"reference": {"solver": "broyden", "steps": 6, "tolerance": 0.1}},
        certificate={"kind": "union", "alpha": 0.05, "audit": 31},
        execution={"seed": 8, "dtype": "float64", "batch": 17, "device": "cpu"},
        noise={"sigma": 0.4, "generator": "philox4x32"},
    )
    inputs = JobInputs.read(job)
    row = PointWorker(inputs.resolve("cpu"), inputs.weights, 1).certify(40, attempt=2)
    expected = srs_ray.certify_point(
        srs_ray.load_model(job.model.arch, job.model.weights, dtype="float64"),
        inputs.dataset.image(40),
        sigma=0.4,
        solver="naive",
        steps=2,
        warmup_steps=5,
        chains=9,
        reference=srs_ray.SolverSetting.named("broyden", 6, 0.1),
        n0=13,
        n=77,
        audit=31,
        alpha=0.05,
        certificate="union",
        seed=8,
        index=40,
        label=inputs.dataset.label(40),
        batch=17,
        noise="philox4x32",
    )
    apart = ("seconds", "finished_at", "attempt")
    assert {k: v for k, v in row.items() if k not in apart} == {
        k: v for k, v in dataclasses.asdict(expected).items() if k not in apart
    }
    assert row["attempt"] == 2
    assert row["dtype"] == "float64"


def test_a_worker_computes_in_float32_proper(digits_job):
    torch.backends.cudnn.allow_tf32 = True
    inputs = JobInputs.read(digits_job())
    PointWorker(inputs.resolve("cpu"), inputs.weights, 1)
    assert not torch.backends.cudnn.allow_tf32


def test_cuda_is_never_replaced_by_the_cpu(digits_job, run_in_process):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(JobError, match="finds no CUDA device"):
        run_in_process(digits_job(execution={"device": "cuda"}))
