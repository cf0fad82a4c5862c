"""The label as candidate: fixed before any sample, certified or abstained from, and said so wherever it is shown."""

from __future__ import annotations

import pytest

import srs_ray
from srs_ray import Looks
from srs_ray.analysis import cohen_export, comparison_table, load_points, recertify
from srs_ray.errors import PointError
from srs_ray.job import Job
from srs_ray.smoothing.smoothing import smoothing_of

STANDARD = {"sigma": 0.4, "method": "standard", "n": 300, "alpha": 0.01, "index": 12}


@pytest.mark.parametrize(
    "settings",
    [
        STANDARD,
        STANDARD | {"looks": Looks((0.0, 0.25), first=50)},
        STANDARD | {"method": "srs", "chains": 20, "steps": 1, "audit": 100},
    ],
    ids=["standard", "looks", "srs"],
)
def test_the_row_is_that_of_a_selection_that_finds_the_label_but_for_the_selection(model, digit, settings) -> None:
    row = srs_ray.certify_point(model, digit, label=6, candidate="label", **settings)
    assert (row.n0, row.selection_classes, row.selection_counts, row.selected) == (0, [], [], 6)
    assert row.radius > 0.2
    assert (row.predicted, row.correct) == (6, True)
    if settings["method"] == "standard":
        selected = srs_ray.certify_point(model, digit, label=6, n0=20, **settings)
        assert selected.selected == 6
        names = ("counts", "classes", "p_lower", "radius", "look_n", "look_hits", "stopped")
        assert [getattr(row, name) for name in names] == [getattr(selected, name) for name in names]
        assert row.function_evaluations < selected.function_evaluations


@pytest.mark.parametrize("method", ["standard", "srs"])
def test_another_class_is_never_certified(model, digit, method) -> None:
    settings = STANDARD | {"method": method} | ({"chains": 20, "audit": 100} if method == "srs" else {})
    row = srs_ray.certify_point(model, digit, label=2, candidate="label", **settings)
    assert (row.selected, row.predicted, row.radius, row.correct) == (2, -1, 0.0, False)
    assert srs_ray.certify_point(model, digit, label=2, n0=20, **settings).predicted == 6


def test_settings_that_do_not_go_with_it_are_refused(model, digit) -> None:
    with pytest.raises(ValueError, match="n0 is 20: with candidate label no samples select a class"):
        srs_ray.certify_point(model, digit, label=6, candidate="label", n0=20, **STANDARD)
    with pytest.raises(PointError, match="has no label"):
        srs_ray.certify_point(model, digit, candidate="label", **STANDARD)
    usual = {"method": "standard", "n0": 20, "n": 100}
    named = smoothing_of(0.4, {**usual, "candidate": "selection"}, {"kind": "cohen"})
    assert named.fingerprint() == smoothing_of(0.4, usual, {"kind": "cohen"}).fingerprint()
    label = smoothing_of(0.4, {"method": "standard", "n": 100, "candidate": "label"}, {"kind": "cohen"})
    assert label.fingerprint()["sampling.candidate"] == "label"


def test_a_run_of_it_says_so_with_every_table_and_its_rows_recompute(digits_settings, run_in_process, tmp_path) -> None:
    sampling = {"method": "standard", "n": 100, "candidate": "label"}
    settings = digits_settings(data={"stop": 4}, output=str(tmp_path / "run"))
    job = Job.model_validate({**settings, "sampling": sampling, "certificate": {}})
    assert job.sampling.n0 == 0
    assert run_in_process(job).exit_code == 0
    df = load_points(job.output)
    assert (df["selected"] == df["label"]).all()
    words = "the candidate is each point's label, fixed before any sample"
    assert words in " ".join(comparison_table([df], [0.0]).split())
    assert any(words in note for note in cohen_export(df).notes)
    assert recertify(df)["radius"].tolist() == pytest.approx(df["radius"].tolist(), rel=1e-12)
