"""Rehearsals: what a worker finds out before its first point, and what happens where its device fails."""

from __future__ import annotations

import dataclasses
import textwrap

import pytest
import torch

from srs_ray.errors import JobError, UserCodeError
from srs_ray.job import Job
from srs_ray.models.device_failure import is_device_failure
from srs_ray.models.mdeq.checkpoints import random_weights
from srs_ray.models.weights import write_weights
from srs_ray.runner.preparation import JobInputs
from srs_ray.runner.worker import PointWorker
from srs_ray.runs import RunDirectory
from srs_ray.runs.record import session_changes

NET = """
    import os, torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, failed, message):
            super().__init__()
            torch.manual_seed(0)
            self.read, self.failed, self.message = nn.Linear(256, 10), failed, message

        def forward(self, x):
            if os.path.exists(self.failed):
                raise torch.AcceleratorError(self.message) if "CUDA" in self.message else ValueError(self.message)
            return self.read(x.flatten(1))
"""
DIGITS = """
    import numpy as np
    from sklearn.datasets import load_digits

    class Digits:
        identity = "digits of a test"

        def __init__(self, failed, at):
            self.images, self.failed, self.at = load_digits().images.astype(np.uint8) * 15, failed, at

        def __len__(self):
            return 6

        def __getitem__(self, index):
            if index == self.at:
                open(self.failed, "w").close()  # from this image on the device is gone
            return np.kron(self.images[index], np.ones((2, 2), dtype=np.uint8)), 0
"""


def worker_of(job, **changes) -> PointWorker:
    inputs = JobInputs.read(job)
    return PointWorker(dataclasses.replace(inputs.resolve("cpu"), **changes), inputs.cargo, 1)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"sampling": {"method": "standard", "n": 80}, "certificate": {}},
        {"sampling": {"method": "auto", "target_radii": [0.1]}, "certificate": {}},
    ],
    ids=["srs", "standard", "auto"],
)
def test_workers_of_one_function_rehearse_alike(digits_settings, sections):
    job = Job.model_validate(digits_settings() | sections)
    first, second = (worker_of(job).rehearse() for _ in range(2))
    assert first == second
    assert "batch 64, float32" in first.kind


def test_another_function_shows_and_another_batch_is_another_kind(digits_job, tmp_path):
    usual = worker_of(digits_job()).rehearse()
    write_weights(random_weights("mdeq-tiny-digits"), tmp_path / "random.safetensors")
    other = worker_of(digits_job(model={"weights": str(tmp_path / "random.safetensors")})).rehearse()
    assert (other.kind, other.logits == usual.logits) == (usual.kind, False)
    assert worker_of(digits_job(), batch=8).rehearse().kind != usual.kind


def test_a_run_that_no_memory_holds_is_refused_before_its_first_point(digits_job):
    worker = worker_of(digits_job(sampling={"chains": 10**12}), batch=4)
    with pytest.raises(JobError, match="the memory of cpu does not hold the run even with one sample at once"):
        worker.rehearse()
    assert worker.judge.batch == 1


def test_run_json_keeps_what_workers_rehearsed(digits_job, run_in_process):
    for stop in (10, 20):
        run_in_process(digits_job(data={"stop": stop}))
    run = RunDirectory.open(digits_job().output)
    usual = worker_of(digits_job()).rehearse()
    assert [session["rehearsed"] for session in run.sessions] == [{usual.kind: usual.logits}] * 2
    assert run.notes == []


def test_a_kind_of_worker_that_computes_something_else_than_before_is_noted():
    before = {"device": "cuda", "rehearsed": {"A GPU": "1", "B GPU": "2"}}
    after = {"device": "cuda", "started_at": "now", "rehearsed": {"A GPU": "3", "C GPU": "4"}}
    assert session_changes([{"device": "cuda"}, before, after]) == [
        "session 3 (now): rehearsed.A GPU changed from 1 to 3"
    ]


def test_a_device_failure_is_told_from_other_errors():
    failed = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    assert is_device_failure(failed)
    assert is_device_failure(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    told = UserCodeError("my_models.py, line 3")
    told.__cause__ = failed
    assert is_device_failure(told)
    assert not is_device_failure(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_device_failure(RuntimeError("CUDA error: out of memory"))
    assert not is_device_failure(ValueError("CUDA error"))


@pytest.fixture
def failing_job(digits_settings, tmp_path):
    """A job of the user's own model and data; the device fails, or the model raises, from image 2 on."""
    (tmp_path / "net.py").write_text(textwrap.dedent(NET))
    (tmp_path / "digits.py").write_text(textwrap.dedent(DIGITS))

    def make(message: str) -> Job:
        failed = str(tmp_path / "failed")
        model = {"import": f"{tmp_path}/net.py:Net", "args": {"failed": failed, "message": message}}
        data = {"import": f"{tmp_path}/digits.py:Digits", "args": {"failed": failed, "at": 4}}
        sections = {
            "model": model | {"input_shape": [1, 16, 16], "classes": 10},
            "data": data | {"start": 2},
            "sampling": {"method": "standard", "n0": 5, "n": 20},
            "certificate": {"alpha": 0.05},
            "execution": {"device": "cpu", "attempts": 2},
            "output": str(tmp_path / "run"),
        }
        return Job.model_validate(digits_settings() | sections)

    return make


def rows_of(job: Job) -> list[tuple[int, str]]:
    return [(row["index"], row["status"]) for row in RunDirectory.open(job.output).rows().to_pylist()]


def test_in_one_process_a_failed_device_ends_the_run_and_makes_no_error_rows(
    failing_job, run_in_process, tmp_path, caplog
):
    job = failing_job("CUDA error: an illegal memory access was encountered")
    summary = run_in_process(job)
    assert (summary.exit_code, summary.errors) == (3, 0)
    assert rows_of(job) == [(2, "ok"), (3, "ok")]
    assert "point 4: the device failed, and serves this process no more" in caplog.text
    with pytest.raises(JobError, match="CUDA error"):
        run_in_process(job)
    assert rows_of(job) == [(2, "ok"), (3, "ok")]


def test_other_errors_of_the_users_model_are_error_rows_and_the_run_goes_on(failing_job, run_in_process):
    job = failing_job("no such image")
    summary = run_in_process(job)
    assert (summary.exit_code, summary.errors) == (3, 2)
    assert rows_of(job) == [(2, "ok"), (3, "ok"), (4, "error"), (5, "error")]
