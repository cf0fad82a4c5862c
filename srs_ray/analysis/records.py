"""A comparison as data, in full precision: CSV with one line per run and radius, JSON with one object per run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from srs_ray.analysis.comparison import RunResults
from srs_ray.analysis.projection import QUANTILES
from srs_ray.analysis.statements import (
    certificate_line,
    false_certificates_line,
    floor_line,
    guarantee_line,
    pending_line,
    subset_line,
)


def comparison_csv(results: Sequence[RunResults]) -> str:
    """Long form: the settings, certificate and cost of the run repeat beside each radius; floats round-trip.

    What is undefined is an empty field.
    """
    lines = [
        {**_settings(result), **asdict(result.summary), **asdict(at), **_beside(result, number)}
        for result in results
        for number, at in enumerate(result.accuracies)
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
            "paired": None if result.paired is None else asdict(result.paired),
            "projection": None if result.projection is None else asdict(result.projection),
            "attacked_accuracy": None if result.attacked is None else [asdict(at) for at in result.attacked],
            "notes": _notes(result),
        }
        for result in results
    ]
    return json.dumps(runs, indent=2, allow_nan=False) + "\n"


def _notes(result: RunResults) -> list[str]:
    info, points = result.info, result.summary.points
    lines = [
        certificate_line(info),
        guarantee_line(info),
        false_certificates_line(info, result.judged, result.summary.certificates),
        subset_line(info, points),
        floor_line(info),
        pending_line(info, points),
        "" if result.warning is None else f"WARNING: {result.warning}",
    ]
    return [line for line in lines if line]


def _beside(result: RunResults, number: int) -> dict[str, Any]:
    """At the radius of that number the difference to the first run on the points of both, the projection, and the
    attacked accuracy."""
    paired, projection = result.paired, result.projection
    attacked = None if result.attacked is None else result.attacked[number]
    at = None if paired is None else paired.at[number]
    return {
        "paired_with": None if paired is None else paired.first,
        "paired_points": None if paired is None else paired.points,
        "paired_difference": None if at is None else at.difference,
        "paired_low": None if at is None else at.low,
        "paired_high": None if at is None else at.high,
        "paired_floor": None if at is None else at.floor,
        "paired_ceiling": None if at is None else at.ceiling,
        "projected_n": None if projection is None else projection.n,
        "projected_accuracy": None if projection is None else projection.shares[number],
        "attacked_accuracy": None if attacked is None else attacked.attacked_accuracy,
        "attacked_low": None if attacked is None else attacked.low,
        "attacked_high": None if attacked is None else attacked.high,
        "attacked_points": None if attacked is None else attacked.points,
    }


def _settings(result: RunResults) -> dict[str, Any]:
    """The run's settings, without where it lies, and what its certificate is worth."""
    settings = asdict(result.info)
    for name in ("name", "path", "data_digest", "fingerprint_digest"):
        del settings[name]
    return {
        "run": result.label,
        **settings,
        "sound": result.info.sound,
        "radius_cap": None if result.info.margins else result.info.radius_cap,
        "radius_cap_in_sigma": None if result.info.margins else result.info.radius_cap_in_sigma,
        "devices": "; ".join(result.devices),
        "shares_of": result.of,
        "average_certified_radius_is_floor": result.acr_is_floor,
        "false_certificates_at_most": result.false_certificates,
        **{f"p_lower_{100 * share:.0f}": bound for share, bound in zip(QUANTILES, result.p_lower, strict=True)},
    }
