"""What a shell completes: values of options, without torch and Ray."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMPLETE = """
import sys
from srs_ray.cli import app
try:
    app(prog_name="srs-ray")
finally:
    print("loaded", sorted({"torch", "ray", "pandas"} & set(sys.modules)))
"""


def completed(line: str) -> list[str]:
    """What bash is given for the last word of a line, and the slow modules that were loaded for it."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_SRS_RAY_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run([sys.executable, "-c", COMPLETE], env=environment, capture_output=True, text=True)
    *found, loaded = done.stdout.splitlines()
    assert loaded == "loaded []", done.stderr
    return found


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("srs-ray aggregate runs/a --format ", ["table", "markdown", "latex", "csv", "json"]),
        ("srs-ray export runs/a --format p", ["points"]),
        ("srs-ray plot runs/a --certificate t", ["two-sided"]),
        ("srs-ray certify job.yaml --weights mdeq-t", ["mdeq-tiny-digits-sigma25"]),
        ("srs-ray weights init mdeq-l", ["mdeq-large-cifar10"]),
        ("srs-ray weights inspect mdeq-t", ["mdeq-tiny-digits-sigma25"]),
        ("srs-ray init a.yaml --model t", ["torchvision"]),
        ("srs-ray init a.yaml --data im", ["imagenet", "imagefolder", "import"]),
        ("srs-ray init a.yaml --method a", ["anchored", "auto"]),
        ("srs-ray settings --format j", ["json"]),
    ],
)
def test_values_are_completed(line, values):
    assert completed(line) == values
