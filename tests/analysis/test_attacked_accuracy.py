"""Attacked accuracy from rows, and beside certified accuracy in tables and plots."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from srs_ray.analysis import attacked_accuracy, comparison_table, load_attacks, load_points, plot_curves
from srs_ray.analysis.attacks import attack_radii, contradicted, floor_and_ceiling
from srs_ray.analysis.report import Options, write_report
from srs_ray.errors import RunDirectoryError, SrsRayError
from srs_ray.runs import RunDirectory
from srs_ray.runs.attack_schema import ATTACKS
from srs_ray.runs.fingerprint import digest

STORED = Path(__file__).resolve().parent.parent / "stored" / "runs"
RUN = STORED / "standard-cohen"


def attack_row(index: int, distance: float | None, **columns) -> dict:
    row = {
        "index": index, "label": 1, "status": "ok", "predicted": 1, "radius": 0.1, "attacked": 1, "correct": True,
        "contradicts": False, "tried_radii": [0.0, 0.25], "screened_hits": [64, 3], "check_distances": [0.25],
        "check_hits": [10], "check_classes": [2], "check_counts": [990], "check_p_values": [1e-9], "evaluations": 100,
        "gradients": 20, "distance": distance, "found_class": None if distance is None else 2, "base_class": 1,
        "base_distance": 0.1, "sigma": 0.25, "seconds": 1.0, "attempt": 1,
        "finished_at": datetime(2026, 1, 1, tzinfo=UTC), **columns,
    }  # fmt: skip
    return row


ERROR = {"index": 4, "label": None, "status": "error", "error": "gone", "attempt": 1}
ROWS = [
    attack_row(0, None),
    attack_row(1, 0.25),
    attack_row(2, 0.4, base_class=2, base_distance=None),
    attack_row(3, None, correct=False, attacked=2, predicted=2),
    {**ERROR, "finished_at": datetime(2026, 1, 1, tzinfo=UTC)},
]


def test_a_point_counts_while_it_is_right_and_its_distance_is_beyond_the_radius():
    df = attacked_accuracy(pd.DataFrame(ROWS), [0, 0.2, 0.25, 0.4, 5])
    assert df["unbroken"].tolist() == [4, 4, 3, 2, 2], "the error counts as unbroken, the wrong class never"
    assert df["points"].tolist() == [5] * 5
    assert df["attacked_accuracy"].tolist() == [0.8, 0.8, 0.6, 0.4, 0.4]
    assert bool((df["low"] < df["attacked_accuracy"]).all() and (df["high"] > df["attacked_accuracy"]).all())
    base = attacked_accuracy(pd.DataFrame(ROWS), [0, 0.05, 0.1], of="base")
    assert base["unbroken"].tolist() == [4, 4, 1]


def test_no_points_and_an_unknown_classifier():
    empty = attacked_accuracy(pd.DataFrame(ROWS).head(0), [0.1])
    assert math.isnan(empty["attacked_accuracy"][0])
    with pytest.raises(SrsRayError, match="smoothed or base"):
        attacked_accuracy(pd.DataFrame(ROWS), [0.1], of="both")


@pytest.fixture
def attack(tmp_path) -> str:
    """The directory of an attack on the stored run, with made-up rows for the run's own points."""
    run = RunDirectory.open(RUN)
    settings = {
        "kinds": ["pgd", "smooth-pgd"], "radii": [0.25, 0.5], "steps": 5, "restarts": 1, "draws": 4, "states": "final",
        "n_check": 1000, "alpha": 0.001, "pixels": "clipped", "seed": 0,
    }  # fmt: skip
    fingerprint = {f"certified.{name}": value for name, value in run.fingerprint.items()}
    fingerprint |= {f"attack.{name}": value for name, value in settings.items()}
    path = str(tmp_path / "attack")
    directory = RunDirectory.create_or_continue(path, run.job, fingerprint, run.points, {}, form=ATTACKS)
    indices = run.rows(["index"])["index"].to_pylist()
    directory.append([attack_row(index, 0.25 if place else 0.04) for place, index in enumerate(indices)])
    directory.append([attack_row(indices[0], 0.05, contradicts=True, finished_at=datetime.now(UTC))])
    return path


def test_a_directory_of_attacks_is_read_with_its_settings(attack):
    df = load_attacks(attack)
    assert attack_radii(df) == [0.0, 0.25, 0.5]
    assert str(df["predicted"].dtype) == "Int32"
    assert contradicted(df) == [df["index"][0]], "the newest row of a point counts"
    assert df["distance"][0] == 0.05
    with pytest.raises(RunDirectoryError, match=r"holds rows of `srs-ray certify`, expected those of `srs-ray attack`"):
        load_attacks(RUN)
    with pytest.raises(RunDirectoryError, match=r"holds rows of `srs-ray attack`.*--attack"):
        load_points(attack)


def test_a_directory_with_settings_of_no_attack_is_told_without_repeating_them(attack):
    record = json.loads((Path(attack) / "run.json").read_text())
    settings = record["fingerprint"]["settings"] | {"attack.states": "\x1b[31mred"}
    record["fingerprint"] = {"digest": digest(settings), "settings": settings}
    (Path(attack) / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunDirectoryError, match=r"no settings of an attack \(attack\.states") as refused:
        load_attacks(attack)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv", "json"])
def test_every_form_of_a_table_has_floor_and_ceiling(attack, form):
    frames, attacks = [load_points(RUN)], [load_attacks(attack)]
    text = comparison_table(frames, "0, 0.1, 0.25", form, attacks=attacks)
    points = len(attacks[0])
    if form == "json":
        at = json.loads(text)[0]["attacked_accuracy"]
        assert [each["attacked_accuracy"] for each in at] == [1.0, (points - 1) / points, 0.0]
    elif form == "csv":
        assert text.splitlines()[0].endswith("attacked_accuracy,attacked_low,attacked_high,attacked_points")
        assert text.splitlines()[3].split(",")[-4] == "0.0"
    else:
        joined = " ".join(text.split())
        assert "r = 0.25: 0.0" in joined
        assert "CERTIFICATES CONTRADICTED" in joined
    plain = comparison_table(frames, "0, 0.1, 0.25", form)
    assert "CONTRADICTED" not in plain


def test_the_command_shows_both_side_by_side(attack):
    text = floor_and_ceiling(load_points(RUN), load_attacks(attack), [0, 0.1])
    for heading in ("certified (floor)", "attacked (ceiling)", "base classifier, attacked"):
        assert heading in text
    assert "CERTIFICATES CONTRADICTED at 1 points" in text


def test_an_attack_on_another_run_and_two_on_one_are_refused(attack):
    other = load_points(STORED / "srs-exact")
    with pytest.raises(SrsRayError, match="an attack on none of the runs"):
        comparison_table([other], "0", attacks=[load_attacks(attack)])
    with pytest.raises(SrsRayError, match="a second attack on the same run"):
        comparison_table([load_points(RUN)], "0", attacks=[load_attacks(attack)] * 2)


def test_the_ceiling_is_a_dashed_line_of_the_runs_colour(attack, tmp_path):
    frames = [load_points(STORED / "srs-exact"), load_points(RUN)]
    drawn = plot_curves(frames, tmp_path / "both.svg", attacks=[load_attacks(attack)]).read_text()
    ceiling = drawn.partition('id="ceiling-1"')[2].partition("</g>")[0]
    assert "stroke-dasharray" in ceiling
    assert "#d55e00" in ceiling.lower()
    assert 'id="ceiling-0"' not in drawn
    assert "attacked, a ceiling" in drawn
    assert "ceiling" not in plot_curves(frames, tmp_path / "none.svg").read_text()


def test_a_report_has_the_ceiling_beside_the_floor_and_says_what_an_attack_contradicts(attack, tmp_path):
    options = Options(images=False, attacks=(attack,))
    write_report([STORED / "srs-exact", RUN], tmp_path / "report.html", options)
    text = " ".join(re.sub(r"<[^>]+>", " ", (tmp_path / "report.html").read_text()).split())
    assert "CONTRADICTED: an attack broke 1 certified points inside their certified radius" in text
    assert "clean accuracy of F, without noise 100.0 %" in text
    assert text.count("attacked, a ceiling") == 2, "in the run's own figure and in that of both"
    assert text.count("Accuracy under attack, an upper bound beside the certified one, was not measured") == 1
    write_report([RUN], tmp_path / "plain.html", Options(images=False))
    plain = (tmp_path / "plain.html").read_text()
    assert "CONTRADICTED" not in plain
    assert "attacked accuracy" not in plain
    with pytest.raises(SrsRayError, match="an attack on none of the runs"):
        write_report([STORED / "srs-exact"], tmp_path / "other.html", options)
