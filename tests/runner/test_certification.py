from __future__ import annotations

import dataclasses
import io
import json
import math
import subprocess
import sys
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
from srs_ray.execution import ExecutionSettings
from srs_ray.job import Job
from srs_ray.models.mdeq.checkpoints import random_weights, read_weights
from srs_ray.models.weights import Weights, write_weights
from srs_ray.runner.backend import InProcess
from srs_ray.runner.certification import MEASURED_SAMPLES, certify
from srs_ray.runner.preparation import JobInputs, command_line, fingerprint_of
from srs_ray.runner.worker import PointWorker
from srs_ray.runs import RunDirectory
from srs_ray.smoothing.version import SAMPLING_VERSION


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
        ({"sampling": {"max_nonfinite": 0.2}}, "sampling.max_nonfinite"),
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
    before, after = (fingerprint_of(JobInputs.read(j).resolve("cpu"), JobInputs.read(j).source) for j in (job, other))
    assert setting in {key for key in before | after if before.get(key) != after.get(key)}


def test_weights_images_and_the_programs_own_sampling_are_in_the_fingerprint(digits_job, tmp_path):
    random = tmp_path / "random.safetensors"
    write_weights(random_weights("mdeq-tiny-digits"), random)
    first, second = (
        fingerprint_of(inputs.resolve("cpu"), inputs.source)
        for inputs in (JobInputs.read(digits_job()), JobInputs.read(digits_job(model={"weights": str(random)})))
    )
    assert {key for key in first if first[key] != second[key]} == {"model.weights.digest"}
    assert {"model.arch", "noise.check", "sampling.version", "data.content", "data.preprocessing"} <= first.keys()


def test_where_how_fast_and_how_far_is_not_in_the_fingerprint(digits_job):
    job = digits_job()
    other = digits_job(
        data={"start": 10, "stop": 100, "every": 5},
        output="else",
        execution={"workers": 2, "batch": 7, "attempts": 1, "point_seconds": 9},
    )
    before, after = (fingerprint_of(JobInputs.read(j).resolve("cpu"), JobInputs.read(j).source) for j in (job, other))
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
    assert [session["batch"] for session in run.sessions] == [64, 32]
    assert {"torch", "numpy", "srs-ray", "python"} <= run.sessions[0]["versions"].keys()
    assert any("batch" in note for note in run.notes)


def test_a_long_run_measures_its_batch_at_its_first_start_and_keeps_it(digits_job, run_in_process, console):
    # Few samples are enough, but that many may be drawn.
    long = {"sampling": {"n": MEASURED_SAMPLES, "target_radii": [0.05]}, "certificate": {"audit": 0}}
    run_in_process(digits_job(**long, data={"stop": 10}))
    batch = RunDirectory.open(digits_job().output).sessions[0]["batch"]
    assert f"batch {batch}, measured (ms a sample: " in console.file.getvalue()
    run_in_process(digits_job(**long, data={"stop": 20}))
    run = RunDirectory.open(digits_job().output)
    assert f"batch {batch} as before" in console.file.getvalue()
    assert [session["batch"] for session in run.sessions] == [batch, batch]
    assert run.rows(["batch"]).to_pylist() == [{"batch": batch}] * 2


def test_a_run_goes_on_with_the_batch_that_it_had_whatever_the_rule_says(digits_job, run_in_process):
    run_in_process(digits_job(data={"stop": 10}, execution={"batch": 24}))
    run_in_process(digits_job(data={"stop": 20}))
    run = RunDirectory.open(digits_job().output)
    assert [session["batch"] for session in run.sessions] == [24, 24]
    assert run.notes == []


def encoded(picture: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def broken_parquet(tmp_path) -> Path:
    """Seven real digits as PNG; all but the first are cut short, of another size, of no class, or no such image."""
    digits = open_dataset("digits", None, "test", (1, 16, 16))
    pictures = [Image.fromarray((digits.image(index)[0].numpy() * 255).astype(np.uint8)) for index in range(7)]
    pictures[2] = pictures[2].resize((20, 20))
    pictures[5] = Image.fromarray(np.asarray(pictures[5]).astype(np.uint16) * 257)
    images = [encoded(picture) for picture in pictures]
    images[1], images[4], images[6] = images[1][:-30], b"no image", None
    labels = [10 if index == 3 else digits.label(index) for index in range(7)]
    path = tmp_path / "digits.parquet"
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


def test_points_that_cannot_be_read_become_error_rows_and_are_tried_again(
    digits_job, broken_parquet, run_in_process, caplog
):
    job = digits_job(data={"kind": "parquet", "path": str(broken_parquet), "stop": None, "every": 1})
    summary = run_in_process(job)
    assert (summary.done, summary.errors, summary.missing, summary.exit_code) == (1, 6, 6, 3)
    rows = RunDirectory.open(job.output).rows().to_pylist()
    assert [row["status"] for row in rows] == ["ok"] + ["error"] * 6
    reasons = ["truncated", "is 20x20, the model takes 16x16", "label is 10, expected 0 to 9"]
    reasons += ["Pillow knows no such image format", "deeper than 8 bits", "the row holds no image"]
    for index, reason in enumerate(reasons, start=1):
        assert rows[index]["error"].startswith(f"row {index} of digits.parquet: ")
        assert reason in rows[index]["error"]
    assert all(row["predicted"] is None and row["counts"] is None for row in rows[1:])
    again = run_in_process(job)
    assert (again.done, again.finished, again.errors) == (1, 0, 6)
    assert "point 2: row 2 of digits.parquet" in caplog.text


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """Ten classes of one real digit each; five of the images cannot be certified, five are stored unusually."""
    digits = open_dataset("digits", None, "test", (1, 16, 16))
    pictures = [Image.fromarray((digits.image(index)[0].numpy() * 255).astype(np.uint8)) for index in range(10)]
    contents = [
        b"no image",
        encoded(pictures[1])[:-30],
        encoded(pictures[2].resize((20, 12))),
        encoded(Image.fromarray(np.asarray(pictures[3]).astype(np.uint16) * 257)),
        b"",
        encoded(pictures[5].convert("RGBA")),
        encoded(pictures[6].convert("CMYK"), "JPEG"),
        encoded(pictures[7].convert("RGB")),
        encoded(pictures[8].convert("P")),
        encoded(pictures[9]),
    ]
    root = tmp_path / "digits"
    for index, content in enumerate(contents):
        (root / f"class-{index}").mkdir(parents=True)
        (root / f"class-{index}" / "a.png").write_bytes(content)
    return root


def test_each_bad_image_of_a_folder_is_an_error_row_that_names_the_file_and_the_reason(
    digits_job, image_folder, run_in_process
):
    job = digits_job(data={"kind": "imagefolder", "path": str(image_folder), "stop": None, "every": 1})
    summary = run_in_process(job)
    assert (summary.done, summary.errors, summary.exit_code) == (5, 5, 3)
    rows = RunDirectory.open(job.output).rows().to_pylist()
    assert [row["status"] for row in rows] == ["error"] * 5 + ["ok"] * 5
    reasons = [
        "Pillow knows no such image format",
        "truncated",
        "is 20x12, the model takes 16x16",
        "its pixels are deeper than 8 bits",
        "the image is empty",
    ]
    for index, reason in enumerate(reasons):
        assert rows[index]["error"].startswith(f"digits/class-{index}/a.png: ")
        assert reason in rows[index]["error"]
        assert rows[index]["label"] == index


def test_a_point_on_which_the_model_overflows_is_an_error_row(digits_job, tmp_path, run_in_process):
    shipped = read_weights("mdeq-tiny-digits-sigma25")
    larger = shipped.tensors | {"classifier.weight": shipped.tensors["classifier.weight"] * 1e38}
    write_weights(Weights(larger, {}), tmp_path / "larger.safetensors")
    job = digits_job(model={"weights": str(tmp_path / "larger.safetensors")}, data={"stop": 10})
    assert run_in_process(job).errors == 1
    [row] = RunDirectory.open(job.output).rows().to_pylist()
    assert row["error"].startswith("20 of 20 selection samples have no finite logits")


OUT_OF_MEMORY = """
import json, logging, resource, sys
from srs_ray.job import Job
from srs_ray.runner.preparation import JobInputs
from srs_ray.runner.worker import PointWorker

logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
inputs = JobInputs.read(Job.model_validate_json(sys.argv[1]))
worker = PointWorker(inputs.resolve("cpu"), inputs.cargo, 1)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
print(json.dumps([worker.certify(index) for index in (4, 5)], default=str))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited by what /proc says is in use")
def test_a_worker_that_runs_out_of_memory_goes_on_with_a_smaller_batch_and_the_same_counts(digits_job):
    short = {"n": 40, "reference": {"steps": 4}}
    job = digits_job(sampling=short, certificate={"audit": 20, "alpha": 0.05}, execution={"batch": 512})
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, job.model_dump_json()], capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)
    batch = rows[-1]["batch"]
    assert 1 <= batch <= rows[0]["batch"] < 512
    halvings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert len(halvings) == math.log2(512 / batch)
    assert halvings[0] == "WARNING point 4: out of memory with batch 512, going on with 256"
    for row in rows:
        inputs = JobInputs.read(job)
        spec = dataclasses.replace(inputs.resolve("cpu"), batch=row["batch"])
        undisturbed = PointWorker(spec, inputs.cargo, 1).certify(row["index"])
        times_and_places = ("seconds", "worker", "finished_at")
        assert {k: v for k, v in row.items() if k not in times_and_places} == {
            k: v for k, v in undisturbed.items() if k not in times_and_places
        }


def test_where_no_batch_fits_the_memory_the_error_goes_on(digits_job):
    inputs = JobInputs.read(digits_job(sampling={"chains": 10**12}, execution={"batch": 4}))
    worker = PointWorker(inputs.resolve("cpu"), inputs.cargo, 1)
    with pytest.raises((MemoryError, RuntimeError), match="memory"):
        worker.certify(40)
    assert worker.judge.batch == 1


def test_an_error_that_is_not_about_memory_changes_no_batch(digits_job):
    inputs = JobInputs.read(digits_job())
    worker = PointWorker(inputs.resolve("cpu"), inputs.cargo, 1)
    worker.judge.model.network.classifier = torch.nn.Linear(3, 10)
    with pytest.raises(RuntimeError, match="shapes"):
        worker.certify(40)
    assert worker.judge.batch == 64


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
        PointWorker(dataclasses.replace(spec, data_identity=spec.data_identity | {"points": 3}), inputs.cargo, 1)
    with pytest.raises(JobError, match="noise generator"):
        PointWorker(dataclasses.replace(spec, noise_check="0" * 16), inputs.cargo, 1)
    with pytest.raises(JobError, match=rf"by version {SAMPLING_VERSION}, the driver's by version 0: install the same"):
        PointWorker(dataclasses.replace(spec, sampling_version=0), inputs.cargo, 1)


def test_every_setting_of_a_job_reaches_the_point(digits_job):
    """The row of a worker is that of certify_point with the same settings, none of them a default."""
    job = digits_job(
        sampling={"solver": "naive", "steps": 2, "warmup_steps": 5, "chains": 9, "n0": 13, "n": 77}
        | {"reference": {"solver": "broyden", "steps": 6, "tolerance": 0.1}, "max_nonfinite": 0.3},
        certificate={"kind": "union", "alpha": 0.05, "audit": 31},
        execution={"seed": 8, "dtype": "float64", "batch": 17, "device": "cpu"},
        noise={"sigma": 0.4, "generator": "philox4x32"},
    )
    inputs = JobInputs.read(job)
    worker = PointWorker(inputs.resolve("cpu"), inputs.cargo, 1)
    row = worker.certify(40, attempt=2)
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
    apart = ("seconds", "finished_at", "attempt", "source", "class_name")  # an image alone is of no data set
    assert {k: v for k, v in row.items() if k not in apart} == {
        k: v for k, v in dataclasses.asdict(expected).items() if k not in apart
    }
    assert row["attempt"] == 2
    assert row["dtype"] == "float64"
    assert worker.judge.smoothing.sampling.max_nonfinite == 0.3
    standard = {"sampling": {"method": "standard", "max_nonfinite": 0.3}, "certificate": {}}
    assert Job.model_validate(job.model_dump() | standard).smoothing.sampling.max_nonfinite == 0.3


def test_a_worker_computes_in_float32_proper(digits_job):
    torch.backends.cudnn.allow_tf32 = True
    inputs = JobInputs.read(digits_job())
    PointWorker(inputs.resolve("cpu"), inputs.cargo, 1)
    assert not torch.backends.cudnn.allow_tf32


def test_cuda_is_never_replaced_by_the_cpu(digits_job, run_in_process):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(JobError, match="finds no CUDA device"):
        run_in_process(digits_job(execution={"device": "cuda"}))


class Elsewhere(InProcess):
    """This process, on GPUs that it only claims to have."""

    def __init__(self, execution: ExecutionSettings, accelerators: tuple[str, ...]) -> None:
        super().__init__(execution)
        self.accelerators = accelerators


def test_a_batch_is_kept_for_the_same_gpus_and_chosen_anew_for_others(digits_job, console):
    def go_on(stop: int, gpus: tuple[str, ...]) -> None:
        job = digits_job(data={"stop": stop})
        certify(job, lambda: Elsewhere(job.execution, gpus), console)

    go_on(10, ("L4",))
    record = json.loads(Path(digits_job().output, "run.json").read_text())
    record["sessions"][0]["batch"] = 48
    Path(digits_job().output, "run.json").write_text(json.dumps(record))
    go_on(20, ("L4",))
    go_on(30, ("H200",))
    sessions = RunDirectory.open(digits_job().output).sessions
    assert [session["accelerators"] for session in sessions] == [["L4"], ["L4"], ["H200"]]
    assert [session["batch"] for session in sessions[:2]] == [48, 48]
    assert sessions[2]["batch"] != 48


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/usr/bin/srs-ray", "certify", "a job.yaml", "--set", "x=1"], "srs-ray certify 'a job.yaml' --set x=1"),
        (["/lib/srs_ray/__main__.py", "plan", "a"], "srs-ray plan a"),
        (["/lib/other/__main__.py", "plan"], None),
        (["notebook.py"], None),
        ([], None),
    ],
)
def test_a_start_is_recorded_with_its_command_where_it_is_ours(arguments, command):
    assert command_line(arguments) == command


def test_a_run_keeps_the_command_of_each_start_and_does_not_note_that_they_differ(
    digits_job, run_in_process, monkeypatch
):
    for stop in (10, 20):
        monkeypatch.setattr("sys.argv", ["srs-ray", "certify", "job.yaml", "--stop", str(stop)])
        assert run_in_process(digits_job(data={"stop": stop})).exit_code == 0
    run = RunDirectory.open(digits_job().output)
    assert [session["command"] for session in run.sessions] == [
        "srs-ray certify job.yaml --stop 10",
        "srs-ray certify job.yaml --stop 20",
    ]
    assert not any("command" in note for note in run.notes)
