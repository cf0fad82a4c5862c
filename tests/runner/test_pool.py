"""The pool of workers on a real Ray of several nodes; its actors here do nothing but what each fault needs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from srs_ray.errors import JobError, SrsRayError
from srs_ray.runner import pool as pool_module
from srs_ray.runner.pool import WorkerPool

POISON = 5

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


class Actor:
    """Answers with where and as which attempt a point was done."""

    def prepare(self) -> str:
        return self.node()

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def certify(self, index: int, attempt: int) -> dict[str, Any]:
        self.work(index)
        return {"index": index, "attempt": attempt, "pid": os.getpid(), "node": self.node()}

    def work(self, index: int) -> None:
        pass


class DiesAtPoison(Actor):
    def work(self, index: int) -> None:
        if index == POISON:
            time.sleep(0.3)  # the row before is still on its way, and would die with its worker
            os.kill(os.getpid(), signal.SIGKILL)


class HangsAtPoison(Actor):
    def work(self, index: int) -> None:
        if index == POISON:
            time.sleep(600)


class FailsAtPoison(Actor):
    def work(self, index: int) -> None:
        if index == POISON:
            raise RuntimeError("illegal memory access")


class Slow(Actor):
    def work(self, index: int) -> None:
        time.sleep(0.5)


class DiesAtStart(Actor):
    def prepare(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class MissesAPackage(Actor):
    def __init__(self) -> None:
        import no_such_package  # noqa: F401


class RefusesToStart(Actor):
    def prepare(self) -> str:
        raise JobError("another srs-ray is installed here")


class RefusesOn(Actor):
    """Fails to start on one node at once; on another one only after some time, or not at all."""

    def prepare(self, node: str, elsewhere_too: bool = False) -> str:
        if self.node() == node:
            raise JobError(f"{self.node()}: torch finds no CUDA device")
        time.sleep(2)
        if elsewhere_too:
            raise JobError(f"{self.node()}: torch finds no CUDA device")
        return self.node()


class CannotRunAKernel(Actor):
    def prepare(self) -> str:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


class HangsAtFirst(Actor):
    """Hangs at its first start."""

    def prepare(self, marker: str) -> str:
        try:
            open(marker, "x").close()
        except FileExistsError:
            return self.node()
        time.sleep(600)
        raise AssertionError


class Differs(Actor):
    """One process computes something else."""

    def prepare(self, marker: str) -> str:
        try:
            open(marker, "x").close()
        except FileExistsError:
            time.sleep(2)
            return "other"
        return "usual"

    def work(self, index: int) -> None:
        time.sleep(0.3)


class OnlyTheFirstStarts(Actor):
    def prepare(self, marker: str) -> str:
        try:
            open(marker, "x").close()
        except FileExistsError:
            time.sleep(2)
            raise JobError("no data on this node") from None
        return self.node()

    def work(self, index: int) -> None:
        time.sleep(0.5)


class SickOn(Actor):
    """Fails at every point on one node; elsewhere it waits until that one has failed, and succeeds."""

    def prepare(self, node: str, failed: str) -> str:
        self.sick, self.failed = self.node() == node, failed
        return self.node()

    def work(self, index: int) -> None:
        if self.sick:
            open(self.failed, "w").close()
            raise RuntimeError("uncorrectable memory error")
        end = time.monotonic() + 60
        while not os.path.exists(self.failed) and time.monotonic() < end:
            time.sleep(0.1)


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A cluster whose head holds no worker; nodes are added by the test."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Cluster]:
    """A cluster whose head holds no worker, and two nodes that hold one each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    for _ in range(2):
        add_node(cluster)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def two_places(three_nodes: Cluster) -> Iterator[list[str]]:
    """The ids of the nodes that hold a worker."""
    ray.init(address=three_nodes.address, log_to_driver=False)
    yield [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    ray.shutdown()


@pytest.fixture
def one_node(cluster: str) -> Iterator[None]:
    ray.init(address=cluster, log_to_driver=False)
    yield
    ray.shutdown()


def add_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)


def pool(actor: type[Actor], points: int, room: Callable[[], int], arguments: tuple[Any, ...] = (), **settings: Any):
    return WorkerPool(
        ray.remote(actor).options(num_cpus=1, max_restarts=0).remote,
        arguments,
        range(points),
        room=room,
        attempts=settings.get("attempts", 3),
        point_seconds=settings.get("point_seconds"),
        start_seconds=settings.get("start_seconds"),
        admit=settings.get("admit", lambda prepared: None),
        failed_row=lambda index, attempts, reason: {"index": index, "attempt": attempts, "error": reason},
    )


def finish(workers: WorkerPool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of points that were done, by index, and of those that were given up."""
    try:
        rows = sorted(filter(None, workers.rows()), key=lambda row: row["index"])
    finally:
        workers.kill()
    return [row for row in rows if "error" not in row], [row for row in rows if "error" in row]


def cpus() -> int:
    return int(sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))


def test_a_point_that_kills_its_worker_every_time_is_given_up_and_charged_alone(one_node):
    done, given_up = finish(pool(DiesAtPoison, 12, room=lambda: 1))
    [row] = given_up
    assert (row["index"], row["attempt"]) == (POISON, 3)
    assert row["error"].startswith("its worker died (")
    assert [row["index"] for row in done] == [index for index in range(12) if index != POISON]
    assert {row["attempt"] for row in done} == {1}
    assert len({row["pid"] for row in done}) >= 2


def test_a_point_that_raises_gets_a_fresh_process_each_time(one_node):
    done, [row] = finish(pool(FailsAtPoison, 8, room=lambda: 1, attempts=2))
    assert (row["index"], row["attempt"], row["error"]) == (POISON, 2, "RuntimeError: illegal memory access")
    assert len(done) == 7
    assert {row["attempt"] for row in done} == {1}
    before, after = ({row["pid"] for row in done if late == (row["index"] > POISON)} for late in (False, True))
    assert not before & after


def test_a_point_that_hangs_is_given_up_at_its_time_limit(one_node):
    done, [row] = finish(pool(HangsAtPoison, 8, room=lambda: 2, point_seconds=2.0))
    assert (row["index"], row["attempt"]) == (POISON, 1)
    assert row["error"] == "it took longer than execution.point_seconds (2 s)"
    assert len(done) == 7


def test_workers_that_die_while_starting_end_the_run_after_some_attempts(one_node):
    with pytest.raises(SrsRayError, match="every worker failed while starting, 3 times each"):
        finish(pool(DiesAtStart, 4, room=lambda: 2))


def test_a_package_that_workers_miss_is_named(one_node):
    with pytest.raises(SrsRayError, match=r"it cannot be created: ModuleNotFoundError: .*'no_such_package'"):
        finish(pool(MissesAPackage, 4, room=lambda: 1))


def test_a_worker_that_refuses_to_start_ends_the_run_with_its_message(one_node):
    with pytest.raises(JobError, match="another srs-ray"):
        finish(pool(RefusesToStart, 4, room=lambda: 2))


def test_a_worker_that_cannot_start_later_does_not_end_a_run_that_goes_well_elsewhere(one_node, tmp_path):
    done, given_up = finish(pool(OnlyTheFirstStarts, 20, room=lambda: 2, arguments=(str(tmp_path / "marker"),)))
    assert (len(done), given_up) == (20, [])
    assert len({row["pid"] for row in done}) == 1


def test_a_node_where_no_worker_starts_does_not_end_the_run(two_places, caplog):
    bad, good = two_places
    done, given_up = finish(pool(RefusesOn, 6, room=cpus, arguments=(bad,)))
    assert (len(done), given_up) == (6, [])
    assert {row["node"] for row in done} == {good}
    assert f"a worker cannot be set up, and its place stays empty: JobError: {bad}: torch finds no CUDA" in caplog.text


def test_the_same_refusal_on_two_nodes_ends_the_run(two_places):
    arguments = (two_places[0], True)
    with pytest.raises(JobError, match="torch finds no CUDA device"):
        finish(pool(RefusesOn, 6, room=lambda: 3, arguments=arguments))  # a third is still to be placed


def test_a_device_that_runs_no_kernel_ends_the_run_where_it_is_the_only_one(one_node):
    with pytest.raises(SrsRayError, match="a worker cannot be set up: RuntimeError: CUDA error: no kernel image"):
        finish(pool(CannotRunAKernel, 4, room=lambda: 2))


def test_workers_that_get_no_place_are_not_waited_for_when_all_others_refused(one_node, monkeypatch):
    monkeypatch.setattr(pool_module, "PLACING_SECONDS", 2.0)
    with pytest.raises(JobError, match="another srs-ray"):
        finish(pool(RefusesToStart, 9, room=lambda: 9))


def test_a_worker_that_hangs_at_its_start_is_replaced(one_node, tmp_path, caplog):
    arguments = (str(tmp_path / "marker"),)
    done, given_up = finish(pool(HangsAtFirst, 4, room=lambda: 1, start_seconds=2.0, arguments=arguments))
    assert (len(done), given_up) == (4, [])
    assert "a worker is replaced: its start took longer than 2 s" in caplog.text


def test_a_worker_that_is_not_admitted_does_no_point(one_node, tmp_path, caplog):
    def admit(prepared: str) -> str | None:
        return None if prepared == "usual" else "its logits are others"

    done, given_up = finish(pool(Differs, 12, room=lambda: 2, arguments=(str(tmp_path / "marker"),), admit=admit))
    assert (len(done), given_up) == (12, [])
    assert len({row["pid"] for row in done}) == 1
    assert "a worker is retired: its logits are others" in caplog.text


def test_a_killed_node_charges_nobody_and_a_late_node_takes_over(nodes):
    first = add_node(nodes)
    workers = pool(Slow, 8, room=cpus, attempts=1)
    rows, second = [], None
    for row in workers.rows():
        rows += [row] if row is not None else []
        if second is None and len(rows) == 2:
            nodes.remove_node(first, allow_graceful=False)
            second = add_node(nodes)
    workers.kill()
    assert sorted(row["index"] for row in rows) == list(range(8))
    assert {row["attempt"] for row in rows} == {1}
    assert len({row["node"] for row in rows}) == 2


def test_work_spreads_to_nodes_that_join_and_a_sick_one_costs_no_point(nodes, tmp_path):
    well, failed = add_node(nodes), str(tmp_path / "failed")
    workers = pool(SickOn, 8, room=cpus, attempts=2, arguments=("none yet", failed))
    rows, sick = [], None
    for row in workers.rows():
        rows += [row] if row is not None else []
        if sick is None and workers.ready:
            sick = add_node(nodes)
            workers._arguments = (sick.node_id, failed)
    workers.kill()
    assert [row for row in rows if "error" in row] == []
    assert {row["node"] for row in rows} == {well.node_id}
    assert {row["attempt"] for row in rows} == {1, 2}  # the sick node had its turn at some
