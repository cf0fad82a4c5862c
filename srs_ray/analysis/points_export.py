"""The points of a run as text: what a spreadsheet or a script of one's own reads."""

from __future__ import annotations

import pandas as pd

# Lists of counts do not fit into a cell: they are in the run's Parquet files.
COLUMNS = (
    "index",
    "source",
    "label",
    "class_name",
    "status",
    "error",
    "predicted",
    "radius",
    "correct",
    "selected",
    "p_lower",
    "n0",
    "n",
    "audited",
    "disagreed",
    "method",
    "steps",
    "seconds",
    "attempt",
    "pixels",
)


def points_export(df: pd.DataFrame) -> str:
    """Tab-separated text of a frame of `load_points`, one line per row, COLUMNS in order; radii in full precision.

    What is not known is an empty cell. Points in error are among the rows.
    """
    return df.reindex(columns=list(COLUMNS)).to_csv(sep="\t", index=False, lineterminator="\n")
