"""The export that the field's own scripts read."""

from __future__ import annotations

import io
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from srs_ray.analysis.accuracy import certified_accuracy
from srs_ray.analysis.export import cohen_export, write_cohen_export
from srs_ray.analysis.points import load_points
from srs_ray.analysis.recertification import recertify
from srs_ray.errors import SrsRayError


def test_the_fields_analysis_finds_our_certified_accuracy(write_run, points, tmp_path):
    df = load_points(write_run("small", points[:4]))
    write_cohen_export(df, tmp_path / "out" / "sigma_0.50")
    theirs = pd.read_csv(tmp_path / "out" / "sigma_0.50", delimiter="\t")
    for r in np.arange(0, 1.5, 0.01):
        ours = certified_accuracy(df, [r])["certified_accuracy"][0]
        assert (theirs["correct"] & (theirs["radius"] >= r)).mean() == ours


def test_columns_and_values_have_the_fields_form(write_run, points):
    df = load_points(write_run("small", points[:4]))
    df.loc[0, "seconds"] = 3661.25
    lines = cohen_export(df).text.splitlines()
    assert lines[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    assert lines[1] == f"0\t3\t3\t{float(df['radius'][0])!r}\t1\t{timedelta(seconds=3661.25)}"
    assert lines[1].endswith("1:01:01.250000")
    assert lines[3].split("\t")[:3] == ["40", "1", "7"]
    assert lines[3].split("\t")[4] == "0"
    assert lines[4].split("\t")[2:5] == ["-1", "0.0", "0"]


def test_radii_are_not_rounded(write_run, points):
    df = load_points(write_run("small", points[:4]))
    lines = cohen_export(df).text.splitlines()
    assert [float(line.split("\t")[3]) for line in lines[1:]] == df["radius"].tolist()


def test_rows_in_error_are_abstentions_and_the_caller_is_told(write_run, points):
    labelled = {"label": 4, "error": "PointError: truncated image"}
    df = load_points(write_run("small", [*points, labelled]))
    export = cohen_export(df)
    assert (export.points, export.errors, export.pending) == (6, 2, 0)
    lines = [line.split("\t") for line in export.text.splitlines()[1:]]
    assert lines[4] == ["80", "-2", "-1", "0.0", "0", "0:00:02"], "nor is the label that was not read an abstention"
    assert lines[5] == ["100", "4", "-1", "0.0", "0", "0:00:02"]
    assert any("2 of 6 points ended in an error" in note for note in export.notes)
    assert not any("error" in note for note in cohen_export(df.iloc[:4]).notes)


def test_errors_lower_the_accuracy_that_the_field_computes(write_run, points):
    df = load_points(write_run("small", [points[0], *points[4:] * 3]))
    theirs = pd.read_csv(io.StringIO(cohen_export(df).text), delimiter="\t")
    assert (theirs["correct"] & (theirs["radius"] >= 0)).mean() == certified_accuracy(df, [0])["certified_accuracy"][0]
    assert (theirs["predict"] == theirs["label"]).mean() == theirs["correct"].mean() == 0.25


def test_points_without_a_row_have_no_line_and_the_caller_is_told(write_run, points):
    export = cohen_export(load_points(write_run("small", points, stop=200)))
    assert (export.points, export.errors, export.pending) == (5, 1, 5)
    assert any("5 of 10 points asked for have no row yet" in note for note in export.notes)


def test_radii_by_looks_come_with_the_note_that_they_are_floors(write_run, points):
    by_looks = {"method": "standard", "kind": "mixture", "target_radii": [0, 0.25]}
    notes = cohen_export(load_points(write_run("looks", points[:2], **by_looks))).notes
    assert any("a floor" in note and "(0, 0.25)" in note for note in notes)
    assert not any("floor" in note for note in cohen_export(load_points(write_run("full", points[:2]))).notes)


def test_what_the_format_cannot_say_comes_as_notes(write_run, points):
    df = load_points(write_run("small", points[:4]))
    assert any("exact, alpha = 0.001, n = 1,000, K = 100" in note for note in cohen_export(df).notes)
    assert any("UNSOUND" in note for note in cohen_export(recertify(df, "released")).notes)


def test_an_output_that_cannot_be_written_is_named(write_run, points, tmp_path):
    with pytest.raises(SrsRayError, match="cannot write"):
        write_cohen_export(load_points(write_run("small", points)), tmp_path)
