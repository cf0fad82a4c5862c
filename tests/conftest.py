from __future__ import annotations

import atexit
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from ray.cluster_utils import Cluster
from rich.console import Console

from srs_ray.job import Job
from srs_ray.runner.backend import InProcess
from srs_ray.runner.certification import RunSummary, certify
from srs_ray.runner.ray_backend import RayBackend
from srs_ray.runs import RunDirectory


def pytest_sessionstart(session: pytest.Session) -> None:
    """Has the process end with the last of Python's own exit handlers, of which the first registered is the last.

    Threads of a Ray cluster that was hosted in it (`ray.cluster_utils`) crash now and then when the C++ libraries are
    taken down beneath them: a segmentation fault after all tests have passed.
    """

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(session.exitstatus))

    atexit.register(leave)


settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
TIMES_AND_PLACES = ("seconds", "worker", "attempt", "finished_at")
SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material that is not part of the repository: trained checkpoints, expected logits, real images."""
    if not SHARED.is_dir():
        pytest.skip("the folder `shared` with checkpoints and images is not beside the repository")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a real Ray cluster on this machine, with room for two workers."""
    node = {"num_cpus": 2, "object_store_memory": 200 * 2**20, "_system_config": {"metrics_report_interval_ms": 1000}}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="session")
def digits_settings() -> Callable[..., dict[str, Any]]:
    """The settings of a quick job on real digits; sections given are laid over them."""

    def make(**sections: Any) -> dict[str, Any]:
        job: dict[str, Any] = {
            "model": {"arch": "mdeq-tiny-digits", "weights": "mdeq-tiny-digits-sigma25"},
            "data": {"kind": "digits", "stop": 60, "every": 10, "pixels": "rounded"},
            "noise": {"sigma": 0.25},
            "sampling": {"method": "srs", "n0": 20, "n": 150, "chains": 16, "steps": 1},
            "certificate": {"alpha": 0.01, "audit": 100},
            "execution": {"device": "cpu"},
            "report": {"radii": [0, 0.125]},
            "output": "run",
        }
        for name, section in sections.items():
            job[name] = {**job[name], **section} if isinstance(section, dict) else section
        return job

    return make


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
