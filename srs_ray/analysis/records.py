"""A comparison as data, in full precision: CSV with one line per run and radius, JSON with one object per run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from srs_ray.analysis.comparison import RunResults
from srs_ray.analysis.statements import certificate_line, guarantee_line, subset_line


def comparison_csv(results: Sequence[RunResults]) -> str:
    """Long form: the settings, certificate and cost of the run repeat beside each radius; floats round-trip.

    What is undefined is an empty field.
    """
    lines = [
        {**_settings(result), **asdict(result.summary), **asdict(at)} for result in results for at in result.accuracies
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def comparison_json(results: Sequence[RunResults]) -> str:
    """A list of runs, each with settings, `summary`, `certified_accuracy` by radius and `notes`; null is undefined."""
    runs = [
        {
            **_settings(result),
            "summary": asdict(result.summary),
            "certified_accuracy": [asdict(at) for at in result.accuracies],
            "notes": [
                certificate_line(result.info),
                guarantee_line(result.info),
                subset_line(result.info, result.summary.points),
            ],
        }
        for result in results
    ]
    return json.dumps(runs, indent=2, allow_nan=False) + "\n"


def _settings(result: RunResults) -> dict[str, Any]:
    """The run's settings, without where it lies, and what its certificate is worth."""
    settings = asdict(result.info)
    del settings["name"], settings["path"]
    return {
        "run": result.label,
        **settings,
        "sound": result.info.sound,
        "radius_cap": result.info.radius_cap,
        "radius_cap_in_sigma": result.info.radius_cap_in_sigma,
        "devices": "; ".join(result.devices),
    }
