"""Certificates from stored counts: the same as the run's own, honest about coming afterwards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from srs_ray.analysis.points import load_points
from srs_ray.analysis.recertification import recertify
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.table import comparison_table
from srs_ray.errors import SrsRayError
from srs_ray.smoothing.bounds import p_lower
from srs_ray.smoothing.radius import certified_radius

COMPUTED = ["predicted", "radius", "p_lower", "correct"]


@pytest.mark.parametrize(
    ("method", "kind"),
    [("srs", "exact"), ("srs", "union"), ("srs", "paper"), ("srs", "released"), ("standard", "cohen")],
)
def test_the_runs_own_settings_give_the_runs_own_results(write_run, points, method: str, kind: str):
    no_class = {"label": 4, "selected": -1}  # selection's winner was 'no class'
    df = load_points(write_run("small", [*points, no_class], method=method, kind=kind))
    pd.testing.assert_frame_equal(recertify(df), df)
    assert RunInfo.of(recertify(df)) == RunInfo.of(df)


def test_another_certificate_and_alpha_give_what_a_run_with_them_would_have_given(write_run, points):
    df = recertify(load_points(write_run("exact", points)), certificate="union", alpha=0.05)
    expected = load_points(write_run("union", points, kind="union", alpha=0.05))
    pd.testing.assert_frame_equal(df[COMPUTED], expected[COMPUTED])


def test_hits_are_the_selected_class_counts_even_where_another_class_has_more(write_run):
    df = load_points(write_run("small", [{"label": 1, "selected": 1, "hits": 300, "disagreed": 0}]))
    again = recertify(df, alpha=0.1)
    assert again["p_lower"][0] == p_lower("exact", 300, 1000, 100, 0, 0.1)
    assert again["predicted"][0] == -1
    assert again["radius"][0] == 0.0


def test_a_smaller_alpha_never_grows_a_radius(write_run):
    several = [{"label": 1, "selected": 1, "hits": h, "disagreed": k} for h in (520, 700, 990) for k in (0, 1, 5, 20)]
    for method, kinds in (("srs", ("exact", "union", "paper", "released")), ("standard", ("cohen",))):
        df = load_points(write_run(method, several, method=method, kind=kinds[0]))
        for kind in kinds:
            radii = [recertify(df, kind, alpha)["radius"] for alpha in (0.05, 0.01, 0.001, 1e-6)]
            for wider, tighter in pairwise(radii):
                assert (tighter <= wider).all()
            assert (radii[-1] < radii[0]).any()


def test_rows_in_error_stay_as_they_are(write_run, points):
    df = recertify(load_points(write_run("small", points)), alpha=0.01)
    assert df.iloc[4][COMPUTED].isna().all()


def test_the_frame_given_is_not_changed(write_run, points):
    df = load_points(write_run("small", points))
    before, info = df.copy(deep=True), RunInfo.of(df)
    recertify(df, "released", 0.05)
    pd.testing.assert_frame_equal(df, before)
    assert RunInfo.of(df) == info


@pytest.mark.parametrize(("method", "own", "wrong"), [("srs", "exact", "cohen"), ("standard", "cohen", "exact")])
def test_a_certificate_of_the_other_method_is_refused_with_the_ones_that_fit(write_run, points, method, own, wrong):
    df = load_points(write_run("small", points, method=method, kind=own))
    with pytest.raises(SrsRayError, match=rf"'{wrong}'.*{method}.*{own}"):
        recertify(df, certificate=wrong)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_an_alpha_that_is_no_error_probability_is_refused(write_run, points, alpha: float):
    with pytest.raises(SrsRayError, match="alpha"):
        recertify(load_points(write_run("small", points)), alpha=alpha)


def test_tables_say_that_a_certificate_was_chosen_after_the_run(write_run, points):
    df = load_points(write_run("small", points))
    again = recertify(df, "union")
    assert RunInfo.of(again).recomputed_from == "exact, alpha = 0.001"
    for form in ("table", "markdown", "latex"):
        assert "recomputed" in comparison_table([again], [0], form)
        assert "recomputed" not in comparison_table([df], [0], form)


def test_going_back_to_the_runs_own_certificate_clears_the_remark(write_run, points):
    df = load_points(write_run("small", points))
    assert RunInfo.of(recertify(recertify(df, "union", 0.01), "exact", 0.001)) == RunInfo.of(df)
    assert RunInfo.of(recertify(recertify(df, "union", 0.01), "paper")).recomputed_from == "exact, alpha = 0.001"


def test_radii_are_in_the_units_of_the_runs_sigma(write_run, points):
    df = load_points(write_run("small", points, sigma=0.12))
    assert recertify(df, alpha=0.01)["radius"][0] == certified_radius(
        p_lower("exact", 990, 1000, 100, 0, 0.01), float(np.float32(0.12))
    )
