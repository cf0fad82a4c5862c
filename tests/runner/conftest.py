from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srs_ray.job import Job
from srs_ray.runner.backend import InProcess
from srs_ray.runner.certification import RunSummary, certify
from srs_ray.runner.ray_backend import RayBackend
from srs_ray.runs import RunDirectory

TIMES_AND_PLACES = ("seconds", "worker", "attempt", "finished_at")


@pytest.fixture
def digits_job(tmp_path: Path) -> Callable[..., Job]:
    """A quick job on real digits; sections given are laid over it."""

    def make(**sections: dict[str, Any]) -> Job:
        job: dict[str, Any] = {
            "model": {"arch": "mdeq-tiny-digits", "weights": "mdeq-tiny-digits-sigma25"},
            "data": {"kind": "digits", "stop": 60, "every": 10},
            "noise": {"sigma": 0.25},
            "sampling": {"method": "srs", "n0": 20, "n": 150, "chains": 16, "steps": 1},
            "certificate": {"alpha": 0.01, "audit": 100},
            "execution": {"device": "cpu"},
            "report": {"radii": [0, 0.125]},
            "output": str(tmp_path / "run"),
        }
        for name, section in sections.items():
            job[name] = {**job[name], **section} if isinstance(section, dict) else section
        return Job.model_validate(job)

    return make


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def run_in_process(console: Console) -> Callable[[Job], RunSummary]:
    return lambda job: certify(job, lambda: InProcess(job.execution), console)


@pytest.fixture
def run_on_ray(console: Console, cluster: str) -> Callable[[Job], RunSummary]:
    return lambda job: certify(job, lambda: RayBackend(job.execution, cluster), console)


@pytest.fixture
def result_rows() -> Callable[[str], list[dict[str, Any]]]:
    """The effective rows of a run, times and places aside."""

    def read(path: str) -> list[dict[str, Any]]:
        rows = RunDirectory.open(path).rows().to_pylist()
        return [{name: value for name, value in row.items() if name not in TIMES_AND_PLACES} for row in rows]

    return read
