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
from srs_ray.smoothing.bounds import p_lower, two_sided_p_lower, weighted_p_lower
from srs_ray.smoothing.radius import certified_radius

COMPUTED = ["predicted", "radius", "p_lower", "correct"]


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("srs", "exact"),
        ("srs", "weighted"),
        ("srs", "two-sided"),
        ("srs", "union"),
        ("srs", "paper"),
        ("srs", "released"),
        ("standard", "cohen"),
    ],
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
    for method, kinds in (("srs", ("exact", "weighted", "union", "paper", "released")), ("standard", ("cohen",))):
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


def test_a_weight_is_the_runs_own_and_comes_back_with_its_certificate(write_run, points):
    df = load_points(write_run("small", points, kind="weighted", own={"weight": 0.5}))
    assert df["p_lower"][0] == weighted_p_lower(990, 1000, 100, 0, 0.001, 0.5)
    assert "weighted (lambda = 0.5)" in comparison_table([df], [0])
    pd.testing.assert_frame_equal(recertify(recertify(df, "union"), "weighted"), df)
    other = recertify(df, "exact")
    assert RunInfo.of(other).recomputed_from == "weighted (lambda = 0.5), alpha = 0.001"
    assert recertify(load_points(write_run("exact", points)), "weighted")["p_lower"][0] == weighted_p_lower(
        990, 1000, 100, 0, 0.001
    )


def test_misses_count_where_the_run_audited_them_and_nowhere_else(write_run):
    points = [{"label": 3, "selected": 3, "hits": 940, "disagreed": 1, "found": 9}, {"label": 4, "selected": -1}]
    df = load_points(write_run("small", points, kind="two-sided", own={"miss_share": 0.2}))
    assert df["audited_misses"].tolist() == [20, 0]
    assert df["p_lower"][0] == two_sided_p_lower(940, 1000, 80, 1, 0.001, 20, 9)
    assert "K = 100, 20% of it of misses" in comparison_table([df], [0])
    assert recertify(df, alpha=0.01)["p_lower"][0] == two_sided_p_lower(940, 1000, 80, 1, 0.01, 20, 9)
    exact = recertify(df, "exact")
    assert exact["p_lower"][0] == p_lower("exact", 940, 1000, 80, 1, 0.001)
    assert RunInfo.of(exact).recomputed_from == "two-sided, alpha = 0.001"
    pd.testing.assert_frame_equal(recertify(exact, "two-sided"), df)


def test_misses_count_at_looks_too(write_run):
    points = [{"label": 3, "selected": 3, "hits": 940, "disagreed": 2, "found": 5}]
    settings = {"kind": "two-sided", "own": {"audit_share": 0.2}, "target_radii": (0.0, 0.25)}
    df = load_points(write_run("looks", points, **settings))
    [level] = df.pipe(lambda frame: RunInfo.of(frame).smoothing.plan.alphas[-1:])
    recomputed = recertify(recertify(df, "exact"), "two-sided")
    assert recomputed["p_lower"][0] == two_sided_p_lower(940, 1000, 188, 2, level, 12, 5)
    assert recertify(df, "exact")["p_lower"][0] == p_lower("exact", 940, 1000, 188, 2, level)


def test_a_run_that_audited_no_misses_has_no_certificate_that_needs_them(write_run, points):
    for kind in ("exact", "weighted"):
        df = load_points(write_run(kind, points, kind=kind))
        with pytest.raises(SrsRayError, match=r"'two-sided' does not fit.*exact \| weighted \| union"):
            recertify(df, "two-sided")


def test_radii_are_in_the_units_of_the_runs_sigma(write_run, points):
    df = load_points(write_run("small", points, sigma=0.12))
    assert recertify(df, alpha=0.01)["radius"][0] == certified_radius(
        p_lower("exact", 990, 1000, 100, 0, 0.01), float(np.float32(0.12))
    )
