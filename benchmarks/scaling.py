"""Points per hour by workers and by threads of a worker, and what starting costs.

    python benchmarks/scaling.py [--shapes 1x1,1x2,2x1] [--points 4] [--rounds 5] [certify options, such as --n 1000]

A shape is workers x threads. Each round certifies --points points for each worker, by `srs-ray certify` as a user would
type it, in a new run directory; the shapes take turns. Points per hour are those of the workers' steady state: each
worker's points by the time between the end of its first and of its last. `start` is from the command's start to the
first finished point, less that point's own time. What the driver costs is what benchmarks/scheduling.py measures.
Beside it stands what the machine gives: as many processes as there are workers in a shape, each of one thread, that do
nothing but convolutions, or copies of memory, against a single one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from srs_ray import load_points

JOB = "jobs/digits-srs.yaml"
ALONE_SECONDS = 2.0

barrier: Barrier  # of the processes that do nothing else, in each of them


@dataclass(frozen=True)
class Shape:
    """So many workers of so many threads each."""

    workers: int
    threads: int

    @classmethod
    def read(cls, text: str) -> Shape:
        workers, threads = text.split("x")
        return cls(int(workers), int(threads))

    def __str__(self) -> str:
        return f"{self.workers} x {self.threads}"


@dataclass(frozen=True)
class Measured:
    """One run of a shape."""

    points_per_hour: float
    point_seconds: float
    start: float


def certify(job: str, shape: Shape, points: int, options: Sequence[str], folder: Path) -> Measured:
    """Runs the job in a new directory; a command that does not end well ends this program."""
    output = folder / f"run-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "srs_ray.cli", "certify", job, *options, "--output", str(output)]
    command += ["--start", "0", "--every", "1", "--stop", str(points * shape.workers)]
    command += ["--workers", str(shape.workers), "--set", f"execution.cpus_per_worker={shape.threads}"]
    started = datetime.now().astimezone()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")

    df = load_points(output)
    rate = 0.0
    for _, rows in df.groupby("worker"):
        if len(rows) < 2:
            sys.exit("a worker finished a single point, which has no rate: take more --points")
        ended = rows["finished_at"].sort_values()
        rate += (len(rows) - 1) / (ended.iloc[-1] - ended.iloc[0]).total_seconds()
    first = df.sort_values("finished_at").iloc[0]
    start = first["finished_at"] - timedelta(seconds=float(first["seconds"])) - started
    return Measured(3600 * rate, float(df["seconds"].median()), start.total_seconds())


def start_alone(together: Barrier) -> None:
    """In a new process: the barrier that it shares with the others."""
    global barrier
    barrier = together
    torch.set_num_threads(1)


def calls_a_second(work: str) -> float:
    """In such a process, from when all of them are there."""
    x, w = torch.randn(16, 128, 28, 28), torch.randn(128, 128, 3, 3)
    x, w = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, w))
    source = torch.zeros(2**24)
    target = torch.zeros_like(source)
    run = {"convolutions": lambda: F.conv2d(x, w, padding=1), "copies": lambda: target.copy_(source)}[work]
    run()
    barrier.wait()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < ALONE_SECONDS:
        run()
        calls += 1
    return calls / (time.perf_counter() - started)


def alone(work: str, processes: int) -> float:
    """What so many processes that do nothing else come to, in calls a second."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, start_alone, (context.Barrier(processes),)) as pool:
        return sum(pool.map(calls_a_second, [work] * processes, chunksize=1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--job", default=JOB)
    parser.add_argument(
        "--shapes", default="1x1,1x2,2x1", help="workers x threads, the first the measure of the others"
    )
    parser.add_argument("--points", type=int, default=4, help="for each worker")
    parser.add_argument("--rounds", type=int, default=5)
    given, options = parser.parse_known_args()
    shapes = [Shape.read(text) for text in given.shapes.split(",")]
    if given.points < 2:
        parser.error("a rate takes at least 2 points for each worker")

    measured: dict[Shape, list[Measured]] = {shape: [] for shape in shapes}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for shape in shapes:
                measured[shape].append(certify(given.job, shape, given.points, options, Path(folder)))

    table = Table(title=f"{given.job} {' '.join(options)}; {os.cpu_count()} CPUs, medians of {given.rounds}")
    for heading in ("workers x threads", "points/h", "times the first's", "s/point", "start, s"):
        table.add_column(heading, justify="right")
    for shape, runs in measured.items():
        ratios = [
            run.points_per_hour / first.points_per_hour for run, first in zip(runs, measured[shapes[0]], strict=True)
        ]
        table.add_row(
            str(shape),
            f"{statistics.median(run.points_per_hour for run in runs):,.0f}",
            f"{statistics.median(ratios):.2f}",
            f"{statistics.median(run.point_seconds for run in runs):.2f}",
            f"{statistics.median(run.start for run in runs):.1f}",
        )
    console = Console()
    console.print(table)
    for processes in sorted({shape.workers for shape in shapes} - {1}):
        for work in ("convolutions", "copies"):
            gains = [alone(work, processes) / alone(work, 1) for _ in range(given.rounds)]
            console.print(
                f"{processes} processes of {work} alone: {statistics.median(gains):.2f} times one's "
                f"({min(gains):.2f} to {max(gains):.2f})"
            )


if __name__ == "__main__":
    main()
