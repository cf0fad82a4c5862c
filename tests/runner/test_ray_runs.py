"""Runs on a real Ray with real worker processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from srs_ray.errors import JobError, SrsRayError
from srs_ray.runner.certification import certify
from srs_ray.runner.preparation import JobInputs
from srs_ray.runner.ray_backend import RayBackend, in_a_process_of_its_own
from srs_ray.runs import RunDirectory

LONG = 4000  # samples for a point that takes several looks of the driver, so that a worker is found at work


def workers_at_work(cluster: str) -> list[int]:
    """Process ids of this cluster's actors that are certifying a point right now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::CertifierActor.certify"):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if cluster in (Path("/proc") / parent / "cmdline").read_text():
                    found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def kill_a_worker(cluster: str, dead: list[int]) -> None:
    """Kills one that is at work and was not killed before, if there is one at the moment."""
    for pid in workers_at_work(cluster):
        if pid not in dead:
            dead.append(pid)
            os.kill(pid, signal.SIGKILL)
            return


def test_one_worker_two_workers_and_this_process_give_the_same_rows(
    digits_job, tmp_path, run_on_ray, run_in_process, result_rows
):
    jobs = [
        digits_job(output=str(tmp_path / name), execution={"workers": workers, "device": "cpu"})
        for name, workers in (("one", 1), ("two", 2), ("here", 1))
    ]
    for job, run in zip(jobs, (run_on_ray, run_on_ray, run_in_process), strict=True):
        assert run(job).exit_code == 0
    one, two, here = (result_rows(job.output) for job in jobs)
    assert len(one) == 6
    assert one == two == here


def test_points_of_a_killed_worker_are_done_again_elsewhere(digits_job, tmp_path, cluster, run_in_process, result_rows):
    job = digits_job(sampling={"n": LONG}, data={"stop": 40})
    inputs = JobInputs.read(job)
    backend = RayBackend(job.execution, cluster)
    try:
        rows, dead = [], []
        for row in backend.rows(inputs.resolve("cpu"), inputs.cargo, list(inputs.indices)):
            if not dead:
                kill_a_worker(cluster, dead)
            if row is not None:
                rows.append(row)
    finally:
        backend.close()
    assert len(dead) == 1
    undisturbed = digits_job(sampling={"n": LONG}, data={"stop": 40}, output=str(tmp_path / "undisturbed"))
    run_in_process(undisturbed)
    keys = ("index", "status", "counts", "audited", "disagreed", "radius", "p_lower")
    assert [{k: row[k] for k in keys} for row in sorted(rows, key=lambda row: row["index"])] == [
        {k: row[k] for k in keys} for row in result_rows(undisturbed.output)
    ]
    assert max(row["attempt"] for row in rows) == 2


def test_a_worker_measures_the_batch_and_a_run_starts_where_it_cannot(digits_job, cluster, caplog):
    job = digits_job()
    inputs = JobInputs.read(job)
    spec = inputs.resolve("cpu")
    backend = RayBackend(job.execution, cluster)
    try:
        measured = backend.fastest_batch(spec, inputs.cargo)
        assert measured is not None
        assert measured.seconds.keys() >= {spec.batch, measured.batch}
        assert not caplog.records
        weightless = replace(inputs.source, weights=replace(inputs.source.weights, tensors={}))
        broken = replace(inputs.cargo, source=weightless)
        assert backend.fastest_batch(spec, broken) is None
        assert "the batch could not be measured" in caplog.text
    finally:
        backend.close()


def test_a_cluster_without_a_gpu_refuses_a_job_that_asks_for_one(digits_job, cluster):
    with pytest.raises(JobError, match="has no GPU"):
        RayBackend(digits_job(execution={"device": "cuda"}).execution, cluster)


def test_a_cluster_that_is_not_there_is_named():
    from srs_ray.execution import ExecutionSettings

    with pytest.raises(SrsRayError, match=r"127\.0\.0\.1:1"):
        RayBackend(ExecutionSettings(), "127.0.0.1:1")


def test_workers_fill_the_cluster_and_no_more_than_there_are_points(digits_job, cluster):
    backend = RayBackend(digits_job().execution, cluster)
    try:
        assert backend.device == "cpu"
        assert backend.workers(points=100) == 2
        assert backend.workers(points=1) == 1
    finally:
        backend.close()
    backend = RayBackend(digits_job(execution={"workers": 5, "device": "cpu"}).execution, cluster)
    try:
        assert "5 workers with 1 CPU each, 3 of them waiting for nodes to join" in backend.describe(5)
    finally:
        backend.close()
    backend = RayBackend(digits_job(execution={"workers": 2, "device": "cuda"}).execution, cluster)
    try:
        assert "2 workers with 1 GPU each, 2 of them waiting for nodes to join" in backend.describe(2)
    finally:
        backend.close()
    backend = RayBackend(digits_job(execution={"cpus_per_worker": 3, "device": "cpu"}).execution, cluster)
    try:
        with pytest.raises(JobError, match="has 3 CPU for a worker; to wait for nodes that join"):
            backend.workers(points=100)
    finally:
        backend.close()


@pytest.mark.slow
def test_points_of_a_killed_node_are_done_on_a_node_that_joins(
    digits_job, tmp_path, run_in_process, result_rows, console
):
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20})
    doomed = nodes.add_node(num_cpus=1, object_store_memory=200 * 2**20)
    job = digits_job(sampling={"n": LONG}, data={"stop": 30}, execution={"attempts": 1, "device": "cpu"})

    class Backend(RayBackend):
        def rows(self, *arguments):
            joined = False
            for row in super().rows(*arguments):
                if not joined and workers_at_work(nodes.address):
                    nodes.remove_node(doomed, allow_graceful=False)
                    nodes.add_node(num_cpus=1, object_store_memory=200 * 2**20)
                    joined = True
                yield row

    try:
        assert certify(job, lambda: Backend(job.execution, nodes.address), console).exit_code == 0
    finally:
        nodes.shutdown()
    undisturbed = digits_job(sampling={"n": LONG}, data={"stop": 30}, output=str(tmp_path / "undisturbed"))
    run_in_process(undisturbed)
    assert result_rows(job.output) == result_rows(undisturbed.output)
    assert set(RunDirectory.open(job.output).rows(["attempt"])["attempt"].to_pylist()) == {1}


def own_process() -> int:
    return os.getpid()


def test_the_process_that_measured_the_batch_ends_and_gives_its_memory_back(cluster):
    ray.init(address=cluster, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    try:
        pid = ray.get(in_a_process_of_its_own(own_process, {"num_cpus": 1}).remote())
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()
