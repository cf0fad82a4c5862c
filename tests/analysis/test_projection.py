"""The distribution of the bounds behind a run's radii, and what rates like its own would earn at another n."""

from __future__ import annotations

import json

import numpy as np
import pytest

from srs_ray.analysis.accuracy import certified_accuracy
from srs_ray.analysis.points import load_points
from srs_ray.analysis.projection import p_lower_quantiles, projected_radii
from srs_ray.analysis.recertification import recertify
from srs_ray.analysis.table import comparison_table
from srs_ray.errors import SrsRayError
from srs_ray.smoothing.bounds import p_lower


def test_quantiles_are_of_the_labels_bounds_with_zero_for_wrong_and_failed_points(write_run, points):
    df = load_points(write_run("small", points))
    bounds = sorted(df["p_lower"][[0, 1, 3]])  # point 2 is of another class, point 4 in error
    quantiles = p_lower_quantiles(df, [0, 0.25, 0.5, 0.75, 1])
    assert quantiles.tolist() == [0.0, 0.0, *bounds]
    assert quantiles.index.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert p_lower_quantiles(df[:0]).isna().all()
    with pytest.raises(SrsRayError, match="quantile 2"):
        p_lower_quantiles(df, [2])


def test_no_class_is_no_label(write_run):
    df = load_points(write_run("small", [{"label": -1, "selected": -1}]))
    assert p_lower_quantiles(df, [1]).tolist() == [0.0]


@pytest.mark.parametrize(("method", "kind"), [("srs", "exact"), ("srs", "union"), ("standard", "cohen")])
def test_at_the_runs_own_n_a_projection_is_what_recomputation_gives(write_run, points, method: str, kind: str):
    df = load_points(write_run("small", [*points, {"label": 4, "selected": -1}], method=method, kind=kind))
    for alpha in (0.001, 0.05):
        projected, again = projected_radii(df, alpha=alpha), recertify(df, alpha=alpha)
        assert projected["projected_p_lower"].tolist() == pytest.approx(again["p_lower"].tolist(), nan_ok=True)
        assert projected["projected_radius"].tolist() == pytest.approx(again["radius"].tolist(), nan_ok=True)
        assert projected["projected_correct"].fillna(False).tolist() == again["correct"].fillna(False).tolist()


def test_at_another_n_counts_grow_in_proportion_rounded_against_the_point(write_run):
    df = load_points(write_run("small", [{"label": 5, "selected": 5, "hits": 801, "disagreed": 1}]))
    [bound] = projected_radii(df, 1999)["projected_p_lower"]
    assert bound == p_lower("exact", 801 * 1999 // 1000, 1999, 100, 1, 0.001)
    [few] = projected_radii(df, 60)["projected_p_lower"]
    assert few == p_lower("exact", 48, 60, 48, 1, 0.001), "fewer hits than K are all audited"


def test_a_projection_by_looks_is_that_of_the_last_look(write_run):
    by_looks = {"method": "standard", "kind": "mixture", "target_radii": [0, 0.25]}
    df = load_points(write_run("looks", [{"label": 5, "selected": 5, "hits": 800}], **by_looks))
    assert projected_radii(df, 10_000)["projected_p_lower"].tolist() == [p_lower("mixture", 8000, 10_000, 0, 0, 0.001)]


def test_a_projection_cannot_pass_for_a_runs_certificates(write_run, points):
    projected = projected_radii(load_points(write_run("small", points)), 10_000)
    assert not {"radius", "correct", "predicted", "p_lower"} & set(projected.columns)
    with pytest.raises(SrsRayError):
        certified_accuracy(projected, [0])
    with pytest.raises(SrsRayError, match="which run"):
        comparison_table([projected], "0")


@pytest.mark.parametrize("n", [0, -5, 2.5, True])
def test_an_n_that_is_no_number_of_samples_is_refused(write_run, points, n):
    with pytest.raises(SrsRayError, match="cannot project"):
        projected_radii(load_points(write_run("small", points)), n)


def test_tables_show_the_bounds_beside_acr_which_comes_last(write_run, points):
    df = load_points(write_run("small", points))
    header, _, row = comparison_table([df], "0", "markdown").splitlines()[:3]
    names, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (header, row))
    assert names[-6:] == ["p_lower 10%", "p_lower 25%", "p_lower 50%", "p_lower 75%", "p_lower 90%", "ACR"]
    assert cells[-6:-1] == [f"{bound:.3f}" for bound in p_lower_quantiles(df)]
    [run] = json.loads(comparison_table([df], "0", "json"))
    assert run["p_lower_50"] == p_lower_quantiles(df, [0.5]).iloc[0]


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_a_projected_table_says_that_it_certifies_nothing(write_run, points, form: str):
    df = load_points(write_run("small", points))
    text = " ".join(comparison_table([df], "0,0.5", form, project_n=100_000).split())
    shares = [np.mean([right and radius >= r for right, radius in _projected(df)]) for r in (0, 0.5)]
    texts = [f"{100 * share:.1f}" for share in shares]
    assert f"Projection, NO certificate (small): n = 100,000: r = 0: {texts[0]}; r = 0.5: {texts[1]}" in text
    assert "Projection" not in comparison_table([df], "0,0.5", form)


def _projected(df):
    frame = projected_radii(df, 100_000)
    return zip(frame["projected_correct"].fillna(False), frame["projected_radius"].fillna(0), strict=True)
