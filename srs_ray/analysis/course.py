"""The course of a run by its rows: pace over time, time to go, disagreement over time, errors, targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from srs_ray.analysis.accuracy import certified_radii
from srs_ray.errors import RunDirectoryError
from srs_ray.job import Targets
from srs_ray.runs.outlook import (
    LATELY_SECONDS,
    RECENT,
    counted,
    disagreement_by_half,
    node_of,
    reason_of_error,
    target_outlooks,
    time_to_go,
)
from srs_ray.runs.printable import printable

REASONS_SHOWN = 5


def course_of(
    df: pd.DataFrame, started_at: str | None, asked: int, job: Mapping[str, Any], now: pd.Timestamp
) -> dict[str, Any]:
    """How a run goes on, as JSON values, of a frame of `load_points` and the time at which its last session started.

    `points_per_hour` is the session's, up to its last row, and `points_per_hour_lately` that of the last 5 minutes
    before `now`; null where the session has no row, or is younger. `seconds_to_go` is by `time_to_go`, of the
    session's last points. `targets` has the outlook of each target of the job, with a `warning` or null.
    """
    ended = df.sort_values("finished_at")
    done = ended["status"] == "ok"
    of_session = ended if started_at is None else ended[ended["finished_at"] > _timestamp(started_at)]
    remaining = asked - int(done.sum())
    newest = df["finished_at"].max() if len(df) else None
    failed = ended[~done]
    audits = ended.loc[done, ["audited", "disagreed"]].fillna(0).astype(int).itertuples(index=False, name=None)
    halves = disagreement_by_half(list(audits))
    return {
        "points_per_hour": _pace(of_session, started_at),
        "points_per_hour_lately": _pace_lately(of_session, started_at, now),
        "seconds_to_go": _to_go(of_session, started_at, remaining),
        "age_seconds": None if newest is None else max(0.0, (now - newest).total_seconds()),
        "disagreement": None if halves is None else [{**asdict(half), "share": half.share} for half in halves],
        "errors_by_node": [{"node": node, "errors": n} for node, n in counted(map(node_of, failed["worker"]))],
        "errors_by_reason": [
            {"reason": reason, "errors": n}
            for reason, n in counted(reason_of_error(str(error)) for error in failed["error"])[:REASONS_SHOWN]
        ],
        "targets": _targets(df, int(done.sum()), len(failed), asked, job),
    }


def _timestamp(text: str) -> pd.Timestamp:
    stamp = pd.Timestamp(datetime.fromisoformat(text))
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp


def _pace(ended: pd.DataFrame, started_at: str | None) -> float | None:
    """Rows that ended in the session over the time from its start to the last of them."""
    if started_at is None or not len(ended):
        return None
    return len(ended) * 3600.0 / (ended["finished_at"].max() - _timestamp(started_at)).total_seconds()


def _pace_lately(ended: pd.DataFrame, started_at: str | None, now: pd.Timestamp) -> float | None:
    if started_at is None or (now - _timestamp(started_at)).total_seconds() <= LATELY_SECONDS:
        return None
    return int((ended["finished_at"] > now - pd.Timedelta(seconds=LATELY_SECONDS)).sum()) * 3600.0 / LATELY_SECONDS


def _to_go(ended: pd.DataFrame, started_at: str | None, remaining: int) -> dict[str, float] | None:
    """The time to go at the pace of the session's last points, RECENT of them at most."""
    if started_at is None or not len(ended):
        return None
    recent = ended.tail(RECENT)
    begun = ended["finished_at"].iloc[-RECENT - 1] if len(ended) > RECENT else _timestamp(started_at)
    taken = (recent["finished_at"].max() - begun).total_seconds()
    found = time_to_go(remaining, list(recent["seconds"].dropna()), len(recent) / taken if taken > 0 else 0.0)
    return None if found is None else asdict(found)


def _targets(df: pd.DataFrame, done: int, errors: int, asked: int, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    targets = targets_of(job)
    radii = np.sort(certified_radii(df))
    certified = {radius: int(len(radii) - np.searchsorted(radii, radius, side="left")) for radius in targets}
    return [
        {**asdict(outlook), "most": outlook.most, "warning": outlook.warning}
        for outlook in target_outlooks(targets, certified, done, errors, asked)
    ]


def targets_of(job: Mapping[str, Any]) -> dict[float, float]:
    """The wanted certified accuracy by radius of a stored job; RunDirectoryError where it cannot be read."""
    report = job.get("report")
    found = report.get("targets") if isinstance(report, Mapping) else None
    if found is None:
        return {}
    try:
        return TypeAdapter(Targets).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise RunDirectoryError(
            f"run.json: report.targets: {printable(first['msg'])}, found {printable(repr(first['input']))[:80]}"
        ) from error
