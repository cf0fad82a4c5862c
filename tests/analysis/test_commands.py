"""The commands that show results: their options, and what they say on stderr."""

from __future__ import annotations

import json

import pandas as pd
from typer.testing import CliRunner

from srs_ray.cli import app


def command(*arguments: object) -> tuple[str, str]:
    """Standard output and standard error of `srs-ray` with these arguments, which ends well."""
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, " ".join(result.stderr.split())


def test_aggregate_divides_by_the_points_asked_for_where_that_is_wanted(write_run, points):
    run = write_run("small", points, stop=200)
    shares = {
        of: json.loads(command("aggregate", run, "--format", "json", "--of", of)[0])[0]["certified_accuracy"][0]
        for of in ("ended", "asked")
    }
    assert {of: at["certified_accuracy"] for of, at in shares.items()} == {"ended": 0.4, "asked": 0.2}
    assert {of: at["floor"] for of, at in shares.items()} == {"ended": False, "asked": True}


def test_aggregate_projects_to_another_n(write_run, points):
    out, _ = command("aggregate", write_run("small", points), "--project-n", "100000", "--radii", "0")
    assert "Projection, NO certificate (small): n = 100,000: r = 0: 40.0" in " ".join(out.split())


def test_data_for_programs_comes_with_its_warning_on_stderr(write_run, points):
    runs = (write_run("first", points), write_run("second", points[:2]))
    for form in ("csv", "json"):
        out, err = command("aggregate", *runs, "--format", form)
        assert "warning: first and second are over different points (5 and 2 ended, 2 in both)" in err
        assert "warning" not in command("aggregate", runs[0], runs[0], "--format", form)[1]
    assert len(json.loads(out)) == 2


def test_export_says_what_the_text_cannot_on_stderr(write_run, points, tmp_path):
    run = write_run("small", points, stop=200)
    out, err = command("export", run)
    for note in ("1 of 5 points ended in an error", "5 of 10 points asked for have no row yet"):
        assert note in err
    command("export", run, "--output", tmp_path / "a.tsv")
    assert (tmp_path / "a.tsv").read_text() == out
    theirs = pd.read_csv(tmp_path / "a.tsv", delimiter="\t")
    assert theirs["correct"].mean() == 0.4
