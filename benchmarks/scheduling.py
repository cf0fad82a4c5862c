"""What the driver costs on a long run that loses and gains nodes: time and memory, parts, how soon it resumes.

Only the certifying is left out: its actors sleep. Everything else is what `srs-ray certify` runs: a real Ray of several
nodes, the pool of workers, the run directory. `python benchmarks/scheduling.py --help` says what can be varied.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from srs_ray.job_file import load_job
from srs_ray.runner.backend import Rows
from srs_ray.runner.certification import finish
from srs_ray.runner.pool import WorkerPool
from srs_ray.runner.progress import Tally
from srs_ray.runs import Lease, RunDirectory

NODES, CPUS = 4, 2


class SleepingActor:
    """Takes the time of a point, and answers with a row of the usual size. It imports neither torch nor srs_ray."""

    def prepare(self, seconds: float) -> str:
        self.seconds = seconds
        return self.node()

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def certify(self, index: int, attempt: int) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {
            "index": index,
            "label": index % 10,
            "status": "ok",
            "predicted": index % 7 - 1,
            "radius": 0.5 if index % 7 else 0.0,
            "correct": index % 7 - 1 == index % 10,
            "selected": max(index % 7 - 1, 0),
            "p_lower": 0.84,
            "n0": 100,
            "n": 10_000,
            "selection_classes": list(range(10)),
            "selection_counts": [10] * 10,
            "classes": list(range(10)),
            "counts": [1_000] * 10,
            "audited": 400,
            "disagreed": 2,
            "function_evaluations": 33_000,
            "reference_evaluations": 12_000,
            "fallbacks": 0,
            "unconverged": 1,
            "sigma": 0.5,
            "seconds": self.seconds,
            "worker": f"sleeper/{os.getpid()}",
            "device": "cpu",
            "dtype": "float32",
            "batch": 128,
            "attempt": attempt,
            "finished_at": datetime.now(UTC),
        }


class Watch:
    """Samples of the driver while it runs: seconds, points done, resident memory in MB, parts in the run directory."""

    def __init__(self, run: Path) -> None:
        self.points = run / "points"
        self.done = 0
        self.samples: list[tuple[float, int, float, int]] = []
        self._end = threading.Event()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._end.wait(1.0):
            parts = sum(1 for _ in self.points.glob("part-*.parquet"))
            self.samples.append((time.monotonic() - self._started, self.done, resident_mb(), parts))

    def close(self) -> None:
        self._end.set()
        self._thread.join()


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def continue_run(path: Path, points: int) -> RunDirectory:
    job = load_job(Path(__file__).parents[1] / "jobs/paper/cifar10-small-srs-3a.yaml").model_dump(mode="json")
    session = {"started_at": datetime.now(UTC).isoformat(timespec="seconds")}
    return RunDirectory.create_or_continue(
        path, job, {"benchmark": "scheduling"}, {"start": 0, "stop": points, "every": 1}, session
    )


def run_points(
    path: Path, points: int, arguments: argparse.Namespace, watch: Watch, events: dict[int, Callable[[], Any]]
) -> dict[str, float]:
    """Does what the run lacks of so many points; an event happens when that many points of this session are done."""
    opened, cpu = time.monotonic(), time.process_time()
    share = NODES * CPUS / arguments.workers
    pools: list[WorkerPool] = []
    first_row_s: list[float] = []

    def rows_of(indices: Sequence[int]) -> Rows:
        pool = WorkerPool(
            ray.remote(SleepingActor).options(num_cpus=share, max_restarts=0).remote,
            (arguments.seconds,),
            indices,
            room=lambda: sum(int(node["Resources"].get("CPU", 0) / share) for node in ray.nodes() if node["Alive"]),
            attempts=3,
            point_seconds=None,
            failed_row=lambda index, failures, reason: sys.exit(f"point {index}: {reason}"),
        )
        pools.append(pool)
        done = 0
        for row in pool.rows():
            if row is not None:
                done += 1
                watch.done += 1
                if done == 1:
                    first_row_s.append(time.monotonic() - opened)
                if done in events:
                    events[done]()
            yield row
        pool.kill()

    with Lease.acquire(path) as lease:
        run = continue_run(path, points)
        summary = finish(
            run, lease, range(points), rows_of, lambda: pools[-1].ready if pools else 0, Tally(0.5), Console()
        )
    if summary.missing:
        sys.exit(f"{summary.missing} points are missing")
    return {
        "points": summary.finished,
        "first_row_s": first_row_s[0],
        "wall_ms_per_point": 1000 * (time.monotonic() - opened) / summary.finished,
        "driver_cpu_ms_per_point": 1000 * (time.process_time() - cpu) / summary.finished,
    }


def plot(samples: list[tuple[float, int, float, int]], target: Path) -> None:
    _, done, memory, parts = zip(*samples, strict=True)
    figure, (top, bottom) = plt.subplots(2, sharex=True, figsize=(7, 4.5), layout="constrained")
    top.plot(done, memory)
    top.set(ylabel="driver memory (MB)", ylim=(0, None))
    bottom.plot(done, parts)
    bottom.axhline(100, linestyle=":", color="gray")
    bottom.set(xlabel="points done", ylabel="parts to read", ylim=(0, 110))
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=64, help="actors, over four nodes")
    parser.add_argument("--seconds", type=float, default=0.05, help="that an actor sleeps for each point")
    parser.add_argument("--plot", type=Path, help="where to draw memory and parts against points")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    node: dict[str, Any] = {"num_cpus": CPUS, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    nodes = [cluster.add_node(**node) for _ in range(NODES)]
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        watch = Watch(path)
        half = arguments.points // 2
        events = {
            half // 4: lambda: cluster.remove_node(nodes[0], allow_graceful=False),
            half // 2: lambda: cluster.add_node(**node),
        }
        first = run_points(path, half, arguments, watch, events)
        second = run_points(path, arguments.points, arguments, watch, {})
        watch.close()
        started = time.monotonic()
        command = [sys.executable, "-m", "srs_ray.cli", "aggregate", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        aggregate_s = time.monotonic() - started
        attempts = set(RunDirectory.open(path).rows(["attempt"])["attempt"].to_pylist())
    ray.shutdown()
    cluster.shutdown()
    settled = [sample for sample in watch.samples if sample[1] > arguments.points // 10]
    print(f"{arguments.workers} workers on {NODES} nodes, {os.cpu_count()} cores")
    if arguments.plot:
        plot(watch.samples, arguments.plot)
    result = {
        "first half, a node killed and a node joined": first,
        "second half, resumed": second,
        "memory_mb": {"a tenth done": round(settled[0][2]), "end": round(settled[-1][2])},
        "most_parts": max(sample[3] for sample in watch.samples),
        "aggregate_s": aggregate_s,
        "attempts": sorted(attempts),
    }
    print(json.dumps(result, indent=2, default=lambda value: round(value, 3)))


if __name__ == "__main__":
    main()
