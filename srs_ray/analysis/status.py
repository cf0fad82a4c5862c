"""How far a run has come, read from its directory alone, while it runs or after."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from srs_ray.analysis.comparison import AccuracyAt, accuracies
from srs_ray.analysis.points import points_of
from srs_ray.analysis.radii import parse_radii
from srs_ray.analysis.run_info import RunInfo, report_radii
from srs_ray.analysis.statements import (
    ABOVE_CAP_NOTE,
    FLOOR,
    certificate_line,
    false_certificates,
    false_certificates_line,
    floor_line,
    guarantee_line,
    pending_line,
)
from srs_ray.runs.directory import RunDirectory

FIRST_ERRORS = 5


def run_status(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The state of a run as JSON values: what is asked, done, in error and pending, and the results so far.

    `asked` = `done` + `in_error` + `pending`; the next run tries those in error again, and `errors` tells of the first
    few. `certified_accuracy` is of the points that ended, at 0 and the job's report radii, with the flags of a table
    (`above_cap`, `floor`) and the lower bound over all points asked for; `false_certificates_at_most` is an
    expectation. `points_per_hour` is the last session's, up to its last row, and `workers` those with a row so lately
    that they seem to be at work. Shares and rates are null where nothing ended yet; times are ISO 8601.
    Raises RunDirectoryError where there is no readable run.
    """
    directory = RunDirectory.open(run)
    df = points_of(directory)
    info = RunInfo.of(df)
    done = df["status"] == "ok"
    started_at = directory.sessions[-1].get("started_at") if directory.sessions else None
    radii = list(dict.fromkeys(parse_radii([0, *report_radii(directory.job)])))  # 0 but once
    return {
        "run": info.name,
        "setting": info.setting,
        "data": f"{info.data} [{info.start}:{info.stop}:{info.every}]",
        "asked": info.asked,
        "done": int(done.sum()),
        "in_error": int((~done).sum()),
        "pending": info.asked - len(df),
        "errors": df.loc[~done, ["index", "error"]].head(FIRST_ERRORS).to_dict("records"),
        "abstained": float((df["predicted"][done] == -1).mean()) if done.any() else None,
        "certified_accuracy": [asdict(at) for at in accuracies(df, radii)],
        "points_per_hour": _points_per_hour(df, started_at),
        "workers": _workers_lately(df, pd.Timestamp.now("UTC")),
        "created_at": directory.created_at,
        "last_session_at": started_at,
        "sessions": len(directory.sessions),
        "last_row_at": df["finished_at"].max().isoformat() if len(df) else None,
        "certificate": certificate_line(info),
        "guarantee": guarantee_line(info),
        "false_certificates": false_certificates_line(info, int(done.sum()), int((df["predicted"][done] >= 0).sum())),
        "false_certificates_at_most": false_certificates(info, int(done.sum())),
        "floors": floor_line(info) or None,
        "pending_note": pending_line(info, len(df)) or None,
    }


def _points_per_hour(df: pd.DataFrame, started_at: str | None) -> float | None:
    """Rows that ended in the session over the time from its start to the last of them."""
    if started_at is None:
        return None
    started = pd.Timestamp(datetime.fromisoformat(started_at))
    started = started.tz_localize("UTC") if started.tzinfo is None else started
    ended = df["finished_at"][df["finished_at"] > started]
    return len(ended) * 3600.0 / (ended.max() - started).total_seconds() if len(ended) else None


def _workers_lately(df: pd.DataFrame, now: pd.Timestamp) -> int:
    """Workers that finished a point within the last minute, or three times the longest point, whichever is more."""
    lately = max(60.0, 3.0 * df["seconds"].max()) if df["seconds"].notna().any() else 60.0
    return int(df["worker"][now - df["finished_at"] <= pd.Timedelta(seconds=lately)].nunique())


def status_text(state: dict[str, Any]) -> str:
    """The state that `run_status` found, as lines for a person."""
    lines = [
        f"{state['run']}: {state['setting']} on {state['data']}",
        f"{state['done']} of {state['asked']} points done, {state['in_error']} in error, {state['pending']} pending",
    ]
    rate = state["points_per_hour"]
    if rate:
        left = timedelta(hours=(state["pending"] + state["in_error"]) / rate)
        workers = f"{state['workers']} worker{'s' * (state['workers'] != 1)} seen lately"
        lines.append(f"{rate:.0f} points an hour in the last session, {workers}; at that pace {_rounded(left)} to go")
    ended = state["done"] + state["in_error"]
    if ended:
        accuracies_at = [AccuracyAt(**at) for at in state["certified_accuracy"]]
        shares = ", ".join(f"{at.percent()} at {at.radius_label}" for at in accuracies_at)
        lines.append(f"certified accuracy (%) of the {ended} of {state['asked']} points that ended: {shares}")
        lines.append(f"abstained: {state['abstained'] or 0:.1%} of the {state['done']} points done")
        lines += [ABOVE_CAP_NOTE] if any(at.above_cap for at in accuracies_at) else []
        lines += [f"{FLOOR.strip()}: {state['floors']}"] if any(at.floor for at in accuracies_at) else []
        lines += [state["pending_note"]] if state["pending_note"] else []
    lines += [f"point {error['index']}: {error['error']}" for error in state["errors"]]
    lines += [f"certificate: {state['certificate']}", f"guarantee: {state['guarantee']}"]
    lines.append(f"false certificates: {state['false_certificates']}")
    lines.append(
        f"started {state['created_at']}, last session {state['last_session_at']}, last row {state['last_row_at']}"
    )
    return "\n".join(lines) + "\n"


def _rounded(duration: timedelta) -> timedelta:
    return timedelta(seconds=round(duration.total_seconds()))
