"""Results by true class, and the names of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from srs_ray.analysis.accuracy import right_radii
from srs_ray.analysis.radii import Radius

SHOWN_WHOLE = 100  # classes that a table shows without folding
WORST = 20
MOST = 1000  # rows of a folded table: more would not fit into a report


@dataclass(frozen=True)
class ClassRow:
    """One class; shares are of its points that ended."""

    label: int
    name: str
    points: int
    right: float  # certified as the label with any radius above 0
    certified: tuple[float, ...]  # at the radii of the table
    mean_radius: float  # 0 where wrong, abstained or in error
    abstained: int


@dataclass(frozen=True)
class ClassTable:
    """The classes by label; where they are many, the worst come first and `rest` is folded."""

    radii: tuple[str, ...]
    rows: tuple[ClassRow, ...]
    rest: tuple[ClassRow, ...] = ()
    left_out: int = 0
    without_label: int = 0  # points in error of which no label is known


def class_names(
    df: pd.DataFrame, job: Mapping[str, Any], card: Mapping[str, Any], data: Sequence[str] | None
) -> dict[int, str]:
    """Names by label, from the data where they are open, else the job, the rows, and the card of the weights."""
    known: dict[int, str] = {}
    lists = (card.get("classes"), job.get("model", {}).get("class_names"), job.get("data", {}).get("classes"), data)
    for names in lists:
        if isinstance(names, list | tuple):
            known |= {label: name for label, name in enumerate(names) if isinstance(name, str)}
    if "class_name" in df:
        of_rows = df[["label", "class_name"]].dropna().drop_duplicates("label")
        known |= {int(label): str(name) for label, name in of_rows.itertuples(index=False)}
    return known


def class_table(df: pd.DataFrame, names: Mapping[int, str], radii: Sequence[Radius], few: int = 3) -> ClassTable:
    """Results by class at radius 0 and a `few` of the radii, those that some point reaches first."""
    reached = right_radii(df)
    largest = np.nanmax(reached) if np.isfinite(reached).any() else 0.0
    useful = [radius for radius in radii if 0 < radius <= largest] or [radius for radius in radii if radius > 0]
    shown = [useful[i] for i in sorted({round(i) for i in np.linspace(0, len(useful) - 1, min(few, len(useful)))})]
    labels = df["label"].to_numpy(dtype=float, na_value=np.nan)
    abstained = (df["predicted"] == -1).fillna(False).to_numpy(dtype=bool)
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order][: int(np.isfinite(labels).sum())], return_index=True)
    ends = [*starts[1:], int(np.isfinite(labels).sum())] if len(starts) else []
    rows = []
    for label, start, end in zip(found, starts, ends, strict=True):
        chosen = order[start:end]
        radius = reached[chosen]
        rows.append(
            ClassRow(
                label=int(label),
                name=names.get(int(label), ""),
                points=len(chosen),
                right=float(np.mean(radius >= 0)),
                certified=tuple(float(np.mean(radius >= each)) for each in shown),
                mean_radius=float(np.nansum(radius) / len(chosen)),
                abstained=int(abstained[chosen].sum()),
            )
        )
    without = int(np.isnan(labels).sum())
    texts = tuple(radius.label for radius in shown)
    if len(rows) <= SHOWN_WHOLE:
        return ClassTable(texts, tuple(rows), without_label=without)
    worst = sorted(rows, key=lambda row: (row.right, row.mean_radius, row.label))
    rest = worst[WORST : WORST + MOST]
    left_out = len(rows) - WORST - len(rest)
    return ClassTable(texts, tuple(worst[:WORST]), tuple(rest), left_out, without)
