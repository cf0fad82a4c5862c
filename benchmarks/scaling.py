"""Points per hour by workers and by threads of a worker, and what starting costs.

    python benchmarks/scaling.py [--shapes 1x1,1x2,2x1] [--points 4] [--rounds 5] [certify options, such as --n 1000]

A shape is workers x threads. Each round certifies --points points for each worker, by `srs-ray certify` as a user would
type it, in a new run directory; the shapes take turns. Points per hour are those of the workers' steady state: each
worker's points by the time between the end of its first and of its last. `start` is from the command's start to the
first finished point, less that point's own time. What the driver costs is what benchmarks/scheduling.py measures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from srs_ray import load_points

JOB = "jobs/digits-srs.yaml"


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
    Console().print(table)


if __name__ == "__main__":
    main()
