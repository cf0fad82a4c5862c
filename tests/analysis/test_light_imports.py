"""What reading results may ask of a machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MODULES = ["points", "attacks", "recertification", "accuracy", "table", "plot", "export", "status"]


def test_results_are_read_without_torch_or_ray_and_matplotlib_waits_for_a_plot():
    imports = "; ".join(f"import srs_ray.analysis.{module}" for module in MODULES)
    check = "import sys; print([m for m in ('torch', 'ray', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{imports}; {check}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_runs_are_loaded_tabulated_and_recertified_without_torch_or_ray():
    runs = sorted((Path(__file__).resolve().parent.parent / "stored" / "runs").iterdir())
    script = (
        "import sys; from srs_ray.analysis import comparison_table, load_points, recertify\n"
        "frames = [load_points(run) for run in sys.argv[1:]]\n"
        "comparison_table([recertify(frame) for frame in frames], '0, 0.1')\n"
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, *map(str, runs)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_job_files_are_read_and_the_version_is_told_without_torch_ray_or_pandas():
    jobs = Path(__file__).resolve().parents[2] / "jobs"
    script = (
        "import sys; from srs_ray.job_file import load_job, load_train_job\n"
        "load_job(sys.argv[1]); load_train_job(sys.argv[2])\n"
        "import srs_ray.cli; assert srs_ray.__version__\n"
        "print([m for m in ('torch', 'ray', 'pandas', 'numba', 'pyarrow') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(jobs / "cifar10-fast.yaml"), str(jobs / "digits-train.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
