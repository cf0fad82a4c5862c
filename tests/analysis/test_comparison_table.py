"""The comparison of runs in every form it is printed in."""

from __future__ import annotations

import csv
import io
import json

import pandas as pd
import pytest
from rich.cells import cell_len

from srs_ray.analysis.accuracy import average_certified_radius, certified_accuracy, summary
from srs_ray.analysis.points import load_points
from srs_ray.analysis.radii import parse_radii
from srs_ray.analysis.recertification import recertify
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.table import FORMS, comparison_table, latex_escape
from srs_ray.errors import SrsRayError

RADII = "0,36/255,0.25,0.5,0.9"
TEXT_FORMS = ("table", "markdown", "latex")


@pytest.fixture
def frames(write_run, points) -> list[pd.DataFrame]:
    srs = load_points(write_run("small_srs|3a", points, stop=200))
    standard = load_points(write_run("small_30a", points, method="standard", kind="cohen"))
    return [srs, standard]


def words(text: str) -> str:
    """The text with the breaks of its lines and LaTeX's braces undone."""
    return " ".join(text.replace("{[}", "[").split())


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_no_certificate_is_printed_without_kind_alpha_n_k_and_cap(frames, form: str):
    text = words(comparison_table(frames, RADII, form))
    srs, standard = map(RunInfo.of, frames)
    caps = [f"{info.radius_cap_in_sigma:.2f} sigma = {info.radius_cap:.3g}" for info in (srs, standard)]
    assert f"exact, alpha = 0.001, n = 1,000, K = 100: radius capped at {caps[0]} (sigma = 0.5)" in text
    assert f"cohen, alpha = 0.001, n = 1,000, no audit: radius capped at {caps[1]} (sigma = 0.5)" in text
    assert "right with probability at least 1 - alpha = 0.999" in text


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_the_subset_and_how_much_of_it_is_done_stands_beside(frames, form: str):
    text = words(comparison_table(frames, RADII, form))
    assert "cifar10 test [0:200:20], 5 of 10 points ended" in text
    assert "cifar10 test [0:100:20], 5 of 5 points ended" in text


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_the_released_certificate_is_called_unsound_and_promised_nothing(frames, form: str):
    text = words(comparison_table([recertify(frames[0], "released")], RADII, form))
    assert "released (unsound)" in text
    assert "UNSOUND" in text
    assert "right with probability" not in text


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_radii_above_the_cap_show_a_dash_and_why(frames, form: str):
    dash = "--" if form == "latex" else "\N{EN DASH}"
    lines = comparison_table(frames[:1], "0.1,7", form).splitlines()
    row = next(line for line in lines if "SRS 3A" in line)
    assert row.count(f" {dash} ") == 1
    assert any("above the cap" in line for line in lines)
    assert "above the cap" not in comparison_table(frames[:1], "0.1", form)


def test_terminal_cells_are_percent_over_their_interval(frames):
    lines = comparison_table(frames[:1], "0", "table").splitlines()
    row = next(i for i, line in enumerate(lines) if "small_srs|3a" in line)
    assert " 40.0 " in lines[row]
    assert lines[row + 1].strip() == "5-85"  # 2 of 5


def test_markdown_columns_line_up_and_pipes_in_names_do_not_break_them(frames):
    table = [line for line in comparison_table(frames, RADII, "markdown").splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len(set(map(cell_len, table))) == 1
    bars = [[i for i, c in enumerate(line) if c == "|" and line[i - 1] != "\\"] for line in table]
    assert bars[0] == bars[1] == bars[2] == bars[3]
    assert "40.0 [5.3, 85.3]" in table[2]
    assert "r = 36/255" in table[0]


def test_latex_is_a_booktabs_table_with_every_special_character_escaped(frames):
    text = comparison_table(frames, RADII, "latex")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    columns = text[text.index(r"\begin{tabular}{") :].split("{")[2].split("}")[0]
    assert {row.replace(r"\&", "").count("&") for row in rows[1:]} == {len(columns) - 1}
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\cmidrule(lr){5-9}"):
        assert text.count(command) == 1
    assert r"small\_srs\textbar{}3a" in text
    assert latex_escape(r"50% of #1_{x} & [y] $") == r"50\% of \#1\_\{x\} \& {[}y] \$"
    assert latex_escape(r"\~^<>") == r"\textbackslash{}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}"


def test_csv_round_trips_to_full_precision(frames):
    text = comparison_table(frames, RADII, "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["run"] for line in lines] == ["small_srs|3a"] * 5 + ["small_30a"] * 5
    for df, part in zip(frames, (lines[:5], lines[5:]), strict=True):
        expected = certified_accuracy(df, parse_radii(RADII))
        for column in ("radius", "certified_accuracy", "low", "high", "certified", "points"):
            assert [float(line[column]) for line in part] == expected[column].tolist()
        assert {float(line["average_certified_radius"]) for line in part} == {average_certified_radius(df)}
        assert {float(line["radius_cap"]) for line in part} == {RunInfo.of(df).radius_cap}
        assert [line["radius_label"] for line in part] == ["0", "36/255", "0.25", "0.5", "0.9"]


def test_csv_has_no_column_twice(frames):
    header = next(csv.reader(io.StringIO(comparison_table(frames, RADII, "csv"))))
    assert len(header) == len(set(header))
    assert {"certificate", "alpha", "n", "audit", "radius_cap", "start", "stop", "every", "asked", "sound"} <= set(
        header
    )


def test_json_round_trips_to_full_precision(frames):
    runs = json.loads(comparison_table(frames, RADII, "json"))
    assert [run["run"] for run in runs] == ["small_srs|3a", "small_30a"]
    for df, run in zip(frames, runs, strict=True):
        expected = certified_accuracy(df, parse_radii(RADII))
        for column in ("radius", "certified_accuracy", "low", "high", "certified"):
            assert [at[column] for at in run["certified_accuracy"]] == expected[column].tolist()
        assert run["summary"] == vars(summary(df))
        assert run["radius_cap_in_sigma"] == RunInfo.of(df).radius_cap_in_sigma
        assert run["sound"] is True


@pytest.mark.parametrize("form", ["csv", "json"])
def test_data_forms_hold_zero_and_a_flag_above_the_cap(frames, form: str):
    text = comparison_table(frames[:1], "0,7", form)
    rows = (
        pd.read_csv(io.StringIO(text)).to_dict("records")
        if form == "csv"
        else json.loads(text)[0]["certified_accuracy"]
    )
    assert [row["above_cap"] for row in rows] == [False, True]
    assert rows[1]["certified_accuracy"] == 0


@pytest.mark.parametrize("form", list(FORMS))
def test_a_run_without_points_yet_and_a_run_of_errors_only_still_print(write_run, points, form: str):
    frames = [load_points(write_run("new", [], stop=100)), load_points(write_run("broken", points[4:]))]
    text = comparison_table(frames, RADII, form)
    assert "new" in text
    assert "nan" not in text.lower()


def test_runs_of_one_name_are_told_apart_by_their_folders(write_run, points):
    frames = [load_points(write_run(name, points)) for name in ("monday/small", "tuesday/small")]
    text = comparison_table(frames, "0", "csv")
    assert pd.read_csv(io.StringIO(text))["run"].tolist() == ["monday/small", "tuesday/small"]


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_accuracy_by_looks_is_a_floor_off_the_targets_and_so_is_acr(write_run, points, form: str):
    by_looks = {"method": "standard", "kind": "mixture", "target_radii": [0, 0.5]}
    df = load_points(write_run("looks", points, **by_looks))
    text = words(comparison_table([df], "0,0.25,0.5,0.75", form)).replace(r"$\geq$", ">=")
    line = next(line for line in comparison_table([df], "0,0.25,0.5,0.75", form).splitlines() if "looks" in line)
    line = line.replace(r"$\geq$", ">=")
    assert "a floor; sampling of a point stops when its target radii (0, 0.5) are decided" in text
    assert line.count(">= ") == (2 if form == "table" else 3)
    assert ">= 40.0" in line
    assert ">= 20.0" in line
    assert f">= {average_certified_radius(df):.3f}" in text
    full = load_points(write_run("full", points, method="standard", kind="cohen"))
    assert ">=" not in comparison_table([full], "0,0.25,0.5,0.75", form)


def test_data_forms_flag_floors(write_run, points):
    by_looks = {"method": "standard", "kind": "mixture", "target_radii": [0, 0.5]}
    df = load_points(write_run("looks", points, **by_looks))
    [run] = json.loads(comparison_table([df], "0,0.25,0.5,0.75", "json"))
    assert [at["floor"] for at in run["certified_accuracy"]] == [False, True, False, True]
    assert run["average_certified_radius_is_floor"] is True
    lines = list(csv.DictReader(io.StringIO(comparison_table([df], "0,0.25,0.5,0.75", "csv"))))
    assert [line["floor"] for line in lines] == ["False", "True", "False", "True"]


def test_by_another_alpha_than_sampling_stopped_by_every_radius_is_a_floor(write_run, points):
    by_looks = {"method": "standard", "kind": "mixture", "target_radii": [0, 0.5]}
    df = recertify(load_points(write_run("looks", points, **by_looks)), alpha=0.01)
    [run] = json.loads(comparison_table([df], "0,0.5", "json"))
    assert [at["floor"] for at in run["certified_accuracy"]] == [True, True]
    assert any("mixture, alpha = 0.001 had decided the target radii" in note for note in run["notes"])


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_beside_a_share_stands_how_many_points_ended_and_of_all_asked_it_is_a_floor(frames, form: str):
    ended, asked = (
        comparison_table(frames[:1], "0", form, of=of).replace(r"$\geq$", ">=") for of in ("ended", "asked")
    )
    line = next(line for line in ended.splitlines() if "SRS 3A" in line)
    assert "5/10" in line.split()
    assert " 40.0 " in line
    assert "5 of 10 points asked for have no row yet" in words(ended)
    line = next(line for line in asked.splitlines() if "SRS 3A" in line)
    assert ">= 20.0 " in line
    assert "share of all points asked for" in words(asked)
    assert "no row yet" not in asked
    assert ">=" not in comparison_table(frames[1:], "0", form)  # all of it ended
    [run] = json.loads(comparison_table(frames[:1], "0", "json"))
    assert run["certified_accuracy"][0]["certified_accuracy_of_asked"] == 0.2
    assert any("no row yet" in note for note in run["notes"])


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_false_certificates_to_expect_stand_beside_alpha(frames, form: str):
    text = words(comparison_table(frames[:1], "0", form))
    # Every point might have been certified falsely, that which abstained too: 4 with a result, 3 certificates.
    assert "in expectation at most 0.004 (alpha = 0.001 times the 4 points with a result) of the 3 certificates" in text
    assert "any of the" in words(comparison_table([recertify(frames[0], "released")], "0", form))
    runs = json.loads(comparison_table([frames[0], recertify(frames[0], "released")], "0", "json"))
    assert [run["false_certificates_at_most"] for run in runs] == [pytest.approx(0.004), None]


def test_an_unknown_form_is_refused_with_the_known_ones(frames):
    with pytest.raises(SrsRayError, match=r"table \| markdown \| latex \| csv \| json"):
        comparison_table(frames, RADII, "html")


def test_no_runs_are_refused():
    with pytest.raises(SrsRayError, match="at least one"):
        comparison_table([], RADII)
