"""The points that a reader wants to see one by one: certified and wrong, abstained, in error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from srs_ray.analysis.report.thumbnails import Images

SHOWN = 200  # rows of a table
VOTES = 3  # classes whose counts are shown


@dataclass(frozen=True)
class Case:
    """One point; `picture` is a data URI, None where there is none."""

    index: int
    source: str
    true: str
    said: str  # the class that was certified, or the candidate of a point that abstains
    radius: float | None
    p_lower: float | None
    votes: str
    picture: Markup | None
    error: str = ""


@dataclass(frozen=True)
class Cases:
    """The worst points of a kind first, and how many more there are."""

    rows: tuple[Case, ...]
    total: int

    @property
    def left_out(self) -> int:
        """Points of this kind without a row in the table."""
        return self.total - len(self.rows)

    @property
    def pictures(self) -> bool:
        """Whether any row has a picture."""
        return any(row.picture for row in self.rows)


def wrong_cases(df: pd.DataFrame, names: Mapping[int, str], images: Images) -> Cases:
    """Certified with another class than the label, the largest radius first."""
    done = df[(df["predicted"] >= 0).fillna(False) & ~df["correct"].astype("boolean").fillna(False)]
    return _cases(done.sort_values(["radius", "index"], ascending=[False, True]), "predicted", names, images)


def abstained_cases(df: pd.DataFrame, names: Mapping[int, str], images: Images) -> Cases:
    """Points without a class, the smallest lower bound first."""
    done = df[(df["predicted"] == -1).fillna(False)]
    return _cases(done.sort_values(["p_lower", "index"]), "selected", names, images)


def error_cases(df: pd.DataFrame, names: Mapping[int, str], images: Images) -> Cases:
    """Points in error, by index."""
    return _cases(df[df["status"] != "ok"].sort_values("index"), None, names, images)


def _cases(df: pd.DataFrame, said: str | None, names: Mapping[int, str], images: Images) -> Cases:
    rows = []
    for row in df.head(SHOWN).to_dict("records"):
        pixels = row.get("pixels")
        rows.append(
            Case(
                index=row["index"],
                source=_text(row.get("source")),
                true=_class(row["label"], names),
                said="" if said is None else _class(row[said], names),
                radius=_number(row["radius"]),
                p_lower=_number(row["p_lower"]),
                votes=_votes(row, names),
                picture=images.thumbnail(row["index"], None if _is_missing(pixels) else str(pixels)),
                error=_text(row.get("error")),
            )
        )
    return Cases(tuple(rows), len(df))


def _votes(row: Mapping[Any, Any], names: Mapping[int, str]) -> str:
    """The largest counts of the estimation samples, and what the audit found."""
    classes, counts = row["classes"], row["counts"]
    if classes is None or counts is None or _is_missing(row["n"]):
        return ""
    pairs = sorted(zip(map(int, classes), map(int, counts), strict=True), key=lambda pair: -pair[1])
    shown = [f"{_class(label, names)}: {count:,}" for label, count in pairs[:VOTES]]
    text = ", ".join(shown) + ("" if len(pairs) <= VOTES else ", ...") + f" of {int(row['n']):,}"
    audited = 0 if _is_missing(row["audited"]) else int(row["audited"])
    return text + (f"; {int(row['disagreed']):,} of {audited:,} audited disagreed" if audited else "")


def _class(label: Any, names: Mapping[int, str]) -> str:
    """A class as `number name`; `none` for -1 and '' for what is not known."""
    if _is_missing(label):
        return ""
    if int(label) < 0:
        return "none"
    name = names.get(int(label), "")
    name = name if len(name) <= 60 else f"{name[:59]}\N{HORIZONTAL ELLIPSIS}"
    return f"{int(label)} {name}" if name and name != str(int(label)) else str(int(label))


def _number(value: Any) -> float | None:
    return None if _is_missing(value) else float(value)


def _text(value: Any) -> str:
    return "" if _is_missing(value) else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))
