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
def digits_job(digits_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Job]:
    """A quick job on real digits; sections given are laid over it."""
    return lambda **sections: Job.model_validate(digits_settings(**{"output": str(tmp_path / "run"), **sections}))


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
