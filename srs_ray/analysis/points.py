"""The points of a run as a pandas frame that knows its run."""

from __future__ import annotations

import os

import pandas as pd
import pyarrow as pa

from srs_ray.analysis.run_info import RunInfo, setting_of
from srs_ray.runs.directory import RunDirectory

# Rows in error have no results, so every integer and boolean but these two is one of pandas' nullable ones.
_NEVER_NULL = {"index": "int64", "attempt": "int32"}
_NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}


def load_points(run: str | os.PathLike[str]) -> pd.DataFrame:
    """One row for each point that ended, of those the run was last asked for (start, stop, every), sorted by index.

    The columns are the run directory's. `index` and `attempt` are plain integers; the other integers and `correct`
    are nullable (Int64, Int32, boolean) because rows with status `error` have no results; radius, p_lower, sigma and
    seconds are float64 with NaN there; the four lists of counts are arrays or None.
    `df.attrs["run"]` holds the run's settings, which tables and plots print; `RunInfo.of(df)` gives them typed.
    Raises RunDirectoryError where there is no readable run.
    """
    return points_of(RunDirectory.open(run))


def points_of(directory: RunDirectory) -> pd.DataFrame:
    """`load_points` for a run directory that is already open."""
    df = frame_of(directory)
    points = {name: setting_of({"points": directory.points}, f"points.{name}") for name in ("start", "stop", "every")}
    past, index = df["index"] - points["start"], df["index"]
    asked = (past >= 0) & (index < points["stop"]) & (past % points["every"] == 0)
    outside = int((df["status"].eq("ok") & ~asked).sum())
    df = df[asked].reset_index(drop=True)
    path = directory.path if "://" in directory.path else os.path.abspath(directory.path)
    RunInfo.from_run(path, directory.job, points, outside, directory.fingerprint).attach(df)
    return df


def frame_of(directory: RunDirectory) -> pd.DataFrame:
    """The effective rows of a run directory of any format, with nullable integers and booleans."""
    return directory.rows().to_pandas(types_mapper=_NULLABLE.get).astype(_NEVER_NULL)
