"""The export that the field's own scripts read."""

from __future__ import annotations

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


def test_rows_in_error_are_left_out_and_the_caller_is_told(write_run, points):
    df = load_points(write_run("small", points))
    export = cohen_export(df)
    assert (export.points, export.left_out) == (4, 1)
    assert len(export.text.splitlines()) == 5
    assert any("1 of 5 points ended in an error" in note for note in export.notes)
    assert cohen_export(df.iloc[:4]).left_out == 0


def test_what_the_format_cannot_say_comes_as_notes(write_run, points):
    df = load_points(write_run("small", points[:4]))
    assert any("exact, alpha = 0.001, n = 1,000, K = 100" in note for note in cohen_export(df).notes)
    assert any("UNSOUND" in note for note in cohen_export(recertify(df, "released")).notes)


def test_an_output_that_cannot_be_written_is_named(write_run, points, tmp_path):
    with pytest.raises(SrsRayError, match="cannot write"):
        write_cohen_export(load_points(write_run("small", points)), tmp_path)
