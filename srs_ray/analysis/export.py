"""Results in the text format of Cohen et al., for the field's own analysis scripts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pandas as pd

from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import certificate_line, guarantee_line
from srs_ray.errors import SrsRayError
from srs_ray.settings import home_expanded


@dataclass(frozen=True)
class CohenExport:
    """The text, and what the format has no room for."""

    text: str
    points: int
    left_out: int  # points in error, which the format cannot hold
    notes: list[str]


def cohen_export(df: pd.DataFrame) -> CohenExport:
    """Tab-separated `idx label predict radius correct time`, one line per ok row, radii in full precision.

    `correct` is 0 or 1, `predict` -1 for abstain, `time` H:MM:SS.ffffff. Format: code/certify.py and code/analyze.py
    of locuslab/smoothing (Cohen, Rosenfeld, Kolter, ICML 2019), read by `pd.read_csv(path, delimiter="\\t")`.
    Rows in error are left out, so an accuracy computed from the text has the smaller denominator; a note says so.
    """
    info = RunInfo.of(df)
    ok = df[df["status"] == "ok"]
    table = pd.DataFrame(
        {
            "idx": ok["index"],
            "label": ok["label"],
            "predict": ok["predicted"],
            "radius": ok["radius"],
            "correct": ok["correct"].astype(int),
            "time": [str(timedelta(seconds=seconds)) for seconds in ok["seconds"].fillna(0.0)],
        }
    )
    left_out = len(df) - len(ok)
    notes = [f"Certificate: {certificate_line(info)}", f"Guarantee: {guarantee_line(info)}"]
    if left_out:
        notes.append(
            f"{left_out} of {len(df)} points ended in an error and are left out: "
            "accuracies from this file are shares of the rest"
        )
    return CohenExport(table.to_csv(sep="\t", index=False, lineterminator="\n"), len(ok), left_out, notes)


def write_cohen_export(df: pd.DataFrame, output: str | Path) -> CohenExport:
    """Write `cohen_export(df)` to the file `output` and return it; SrsRayError where it cannot be written."""
    export = cohen_export(df)
    write_text(export.text, output)
    return export


def write_text(text: str, output: str | Path) -> None:
    """Writes UTF-8 text to a file, whose folders are made; SrsRayError where it cannot be written."""
    path = home_expanded(output, SrsRayError)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SrsRayError(f"cannot write {output} ({error.strerror or error}); choose another output") from error
