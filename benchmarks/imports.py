"""How long the program takes before it does anything: processes that import and end, beside an empty one.

python benchmarks/imports.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

CASES = {
    "python, empty": "pass",
    "import srs_ray": "import srs_ray",
    "srs-ray --help": "import sys; sys.argv = ['srs-ray', '--help']; from srs_ray.cli import main; main()",
    "a job file": "from srs_ray.job_file import load_job",
    "results (pandas)": "from srs_ray.analysis import load_points",
    "torch alone": "import torch",
    "a model": "from srs_ray import open_model; import srs_ray.interface, srs_ray.models.opening",
}


def seconds(script: str) -> float:
    """Of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    for script in CASES.values():  # bytecode and the disk's cache
        seconds(script)
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.repeats):  # in turn, so that a busy moment is nobody's
        for name, script in CASES.items():
            taken[name].append(seconds(script))
    empty = statistics.median(taken["python, empty"])
    print(f"| process | s, median of {options.repeats} | times an empty one |\n|---|---:|---:|")
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"| {name} | {median:.2f} | {median / empty:.1f} |")


if __name__ == "__main__":
    main()
