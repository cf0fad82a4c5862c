"""What reading results may ask of a machine."""

from __future__ import annotations

import subprocess
import sys

MODULES = ["points", "recertification", "accuracy", "table", "plot", "export", "status"]


def test_results_are_read_without_torch_or_ray_and_matplotlib_waits_for_a_plot():
    imports = "; ".join(f"import srs_ray.analysis.{module}" for module in MODULES)
    check = "import sys; print([m for m in ('torch', 'ray', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{imports}; {check}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
