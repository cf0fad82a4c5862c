"""Results in the text format of Cohen et al., for the field's own analysis scripts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from srs_ray.analysis.accuracy import points_asked, right_radii
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import certificate_line, floor_line, guarantee_line
from srs_ray.errors import SrsRayError
from srs_ray.settings import home_expanded

ABSTAIN, UNKNOWN_LABEL = -1, -2  # not the same: a script that compares them must not find a hit


@dataclass(frozen=True)
class CohenExport:
    """The text, and what the format has no room for."""

    text: str
    points: int  # lines: points that ended
    errors: int  # points in error among them, written as abstentions
    pending: int  # points asked for that have no row yet, and no line
    notes: list[str]


def cohen_export(df: pd.DataFrame) -> CohenExport:
    """Tab-separated `idx label predict radius correct time`, one line per row, radii in full precision.

    `correct` is 0 or 1, `predict` -1 for abstain, `time` H:MM:SS.ffffff. Format: code/certify.py and code/analyze.py
    of locuslab/smoothing (Cohen, Rosenfeld, Kolter, ICML 2019), read by `pd.read_csv(path, delimiter="\\t")`.
    A row in error is an abstention (predict -1, radius 0.0, correct 0; label -2 where it was not read), so that shares
    computed from the text are those of `certified_accuracy`. Points without a row have no line; a note counts them.
    """
    info = RunInfo.of(df)
    table = pd.DataFrame(
        {
            "idx": df["index"],
            "label": df["label"].where(df["label"] >= 0).fillna(UNKNOWN_LABEL).astype(int),
            "predict": df["predicted"].fillna(ABSTAIN).astype(int),
            "radius": df["radius"].fillna(0.0),
            "correct": (~np.isnan(right_radii(df))).astype(int),
            "time": [str(timedelta(seconds=seconds)) for seconds in df["seconds"].fillna(0.0)],
        }
    )
    errors, pending = int((df["status"] != "ok").sum()), points_asked(df) - len(df)
    notes = [f"Certificate: {certificate_line(info)}", f"Guarantee: {guarantee_line(info)}"]
    if errors:
        notes.append(
            f"{errors:,} of {len(df):,} points ended in an error and are written as abstentions: predict {ABSTAIN}, "
            f"radius 0, correct 0, and label {UNKNOWN_LABEL} where there is none"
        )
    if pending:
        notes.append(
            f"{pending:,} of {points_asked(df):,} points asked for have no row yet, and no line: accuracies from this "
            "text are shares of the points that ended"
        )
    if info.by_looks:
        notes.append(f"Accuracies from this text, and ACR: {floor_line(info)}")
    return CohenExport(table.to_csv(sep="\t", index=False, lineterminator="\n"), len(df), errors, pending, notes)


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
