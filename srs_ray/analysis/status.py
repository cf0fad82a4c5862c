"""How far a run has come, read from its directory alone, while it runs or after."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pandas as pd

from srs_ray.analysis.comparison import AccuracyAt, accuracies
from srs_ray.analysis.course import course_of
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
from srs_ray.runs.outlook import Disagreement, TimeToGo, disagreement_line

FIRST_ERRORS = 5
INTERVAL = " ({:.0f}-{:.0f})"


def run_status(run: str | os.PathLike[str], now: pd.Timestamp | None = None) -> dict[str, Any]:
    """The state of a run as JSON values: what is asked, done, in error and pending, and the results so far.

    `asked` = `done` + `in_error` + `pending`; the next run tries those in error again, and `errors` tells of the first
    few. `certified_accuracy` is of the points that ended, at 0 and the job's report radii, with the flags of a table
    (`above_cap`, `floor`) and the lower bound over all points asked for; `false_certificates_at_most` is an
    expectation. Pace, time to go, disagreement over time, errors by node and reason, and targets are those of
    `course_of`, at the time `now` (None: this moment). `workers` are those with a row so lately that they seem to be
    at work. Shares and rates are null where nothing ended yet; times are ISO 8601.
    Raises RunDirectoryError where there is no readable run.
    """
    now = pd.Timestamp.now("UTC") if now is None else now
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
        **course_of(df, started_at, info.asked, directory.job, now),
        "workers": _workers_lately(df, now),
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
        workers = f"{state['workers']} worker{'s' * (state['workers'] != 1)} seen lately"
        lines.append(f"{pace_text(state)}, {workers}; {to_go_text(state)}")
    ended = state["done"] + state["in_error"]
    if ended:
        accuracies_at = [AccuracyAt(**at) for at in state["certified_accuracy"]]
        shares = ", ".join(f"{at.percent(INTERVAL)} at {at.radius_label}" for at in accuracies_at)
        lines.append(f"certified accuracy (%) of the {ended} of {state['asked']} points that ended: {shares}")
        lines.append(f"abstained: {state['abstained'] or 0:.1%} of the {state['done']} points done")
        lines += [ABOVE_CAP_NOTE] if any(at.above_cap for at in accuracies_at) else []
        lines += [f"{FLOOR.strip()}: {state['floors']}"] if any(at.floor for at in accuracies_at) else []
        lines += [state["pending_note"]] if state["pending_note"] else []
        lines += [disagreement_text(state)] if state["disagreement"] else []
    lines += [f"point {error['index']}: {error['error']}" for error in state["errors"]]
    lines += errors_texts(state)
    lines += [f"certificate: {state['certificate']}", f"guarantee: {state['guarantee']}"]
    lines.append(f"false certificates: {state['false_certificates']}")
    lines.append(
        f"started {state['created_at']}, last session {state['last_session_at']}, last row {state['last_row_at']}"
    )
    lines += [f"newest row: {age_text(state)}"] if state["age_seconds"] is not None else []
    lines += [f"WARNING: {warning}" for warning in warnings_of(state)]
    return "\n".join(lines) + "\n"


def pace_text(state: dict[str, Any]) -> str:
    """Points an hour in the last session and in the last 5 minutes; '' where no point ended in it."""
    if not state["points_per_hour"]:
        return ""
    lately = state["points_per_hour_lately"]
    over = "" if lately is None or not state["pending"] else f" ({lately:.0f} in the last 5 minutes)"
    return f"{state['points_per_hour']:.0f} points an hour in the last session{over}"


def to_go_text(state: dict[str, Any]) -> str:
    """The time to go with its 95 % interval, or that it is unknown."""
    found = state["seconds_to_go"]
    if not state["pending"] + state["in_error"]:
        return "all done"
    return f"at that pace {TimeToGo(**found)}" if found else "time to go unknown"


def disagreement_text(state: dict[str, Any]) -> str:
    """The disagreement of audits in both halves of the points; '' where nothing was audited."""
    halves = [Disagreement(half["audited"], half["disagreed"]) for half in state["disagreement"] or ()]
    return disagreement_line(*halves) if halves else ""


def errors_texts(state: dict[str, Any]) -> list[str]:
    """Errors by node and by reason, where there are any."""
    if not state["in_error"]:
        return []
    nodes = ", ".join(f"{each['errors']} on {each['node']}" for each in state["errors_by_node"])
    return [f"errors: {nodes}", *(f"errors: {each['errors']} x {each['reason']}" for each in state["errors_by_reason"])]


def age_text(state: dict[str, Any]) -> str:
    """How long ago the newest row was written; '' where there is none."""
    age = state["age_seconds"]
    return "" if age is None else f"{timedelta(seconds=round(age))} ago"


def warnings_of(state: dict[str, Any]) -> list[str]:
    """What to say of targets that cannot be met, or are unlikely to be."""
    return [target["warning"] for target in state["targets"] if target["warning"]]
