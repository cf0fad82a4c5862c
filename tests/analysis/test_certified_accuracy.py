"""Certified accuracy, its interval, ACR and cost against numbers worked out by hand or by scipy."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from srs_ray.analysis.accuracy import (
    average_certified_radius,
    certified_accuracy,
    clopper_pearson_interval,
    summary,
)
from srs_ray.analysis.points import load_points
from srs_ray.analysis.recertification import recertify
from srs_ray.errors import SrsRayError

# Right at 0.5, right at 0.25, wrong though certified, abstained.
FRAME = pd.DataFrame({"correct": [True, True, False, False], "radius": [0.5, 0.25, 1.0, 0.0]})


def test_share_counts_points_that_are_right_and_certified_at_least_that_far():
    table = certified_accuracy(FRAME, [0, 0.25, 0.2501, 0.5, 1.0])
    assert table["certified_accuracy"].tolist() == [0.5, 0.5, 0.25, 0.25, 0.0]
    assert table["certified"].tolist() == [2, 2, 1, 1, 0]
    assert table["points"].tolist() == [4] * 5
    assert table["radius"].tolist() == [0, 0.25, 0.2501, 0.5, 1.0]


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (3, 7), (1, 500), (499, 500), (250, 500)])
def test_interval_is_scipys_exact_interval(successes: int, trials: int):
    low, high = clopper_pearson_interval(np.array([successes]), trials)
    expected = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert low[0] == pytest.approx(expected.low, rel=1e-9)
    assert high[0] == pytest.approx(expected.high, rel=1e-9)


def test_interval_covers_the_true_share_at_least_95_times_in_100():
    trials = 30
    low, high = clopper_pearson_interval(np.arange(trials + 1), trials)
    for share in np.linspace(0.0, 1.0, 101):
        covered = (low <= share) & (share <= high)
        assert binom.pmf(np.arange(trials + 1), trials, share)[covered].sum() >= 0.95 - 1e-12


def test_rows_in_error_stay_in_the_denominator(write_run, points):
    df = load_points(write_run("small", points))
    table = certified_accuracy(df, [0])
    assert table["certified"].tolist() == [2]
    assert table["points"].tolist() == [5]
    assert table["certified_accuracy"].tolist() == [0.4]


def test_of_all_asked_the_share_is_a_lower_bound_and_the_interval_holds_whichever_points_ended(write_run, points):
    df = load_points(write_run("small", points, stop=200))  # 5 of 10
    table = certified_accuracy(df, [0, 9], of="asked")
    assert table["certified_accuracy"].tolist() == [0.2, 0.0]
    assert table["points"].tolist() == [10, 10]
    least, most = (binomtest(certified, 10).proportion_ci(0.95, method="exact") for certified in (2, 2 + 5))
    assert table["low"][0] == pytest.approx(least.low)
    assert table["high"][0] == pytest.approx(most.high)
    assert average_certified_radius(df, of="asked") == pytest.approx(average_certified_radius(df) / 2)
    whole = load_points(write_run("whole", points))
    pd.testing.assert_frame_equal(
        certified_accuracy(whole, [0, 0.25], of="asked"), certified_accuracy(whole, [0, 0.25])
    )


def test_of_all_asked_needs_a_run_and_shares_have_one_of_two_denominators(write_run, points):
    with pytest.raises(SrsRayError, match="which run"):
        certified_accuracy(FRAME, [0], of="asked")
    with pytest.raises(SrsRayError, match="ended or asked, found 'all'"):
        certified_accuracy(FRAME, [0], of="all")


def test_a_label_that_is_no_class_makes_no_abstention_correct(write_run):
    # As a program wrote it that compared predicted with label alone.
    df = load_points(write_run("small", [{"label": -1, "selected": 3, "hits": 500}, {"label": -1, "selected": -1}]))
    assert df["correct"].tolist() == [True, True]
    assert certified_accuracy(df, [0])["certified"].tolist() == [0]
    assert summary(df).smoothed_accuracy == 0.0
    assert recertify(df)["correct"].tolist() == [False, False]


def test_a_frame_read_back_from_csv_gives_the_same(write_run, points):
    df = load_points(write_run("small", points))
    back = pd.read_csv(io.StringIO(df[["correct", "radius"]].to_csv(index=False)))
    radii = [0, 0.25, 0.5, 0.75]  # none of them a radius to the last bit, which pandas may lose in reading
    pd.testing.assert_frame_equal(certified_accuracy(back, radii), certified_accuracy(df, radii))


def test_no_points_give_no_share_and_no_knowledge():
    table = certified_accuracy(FRAME.iloc[:0], [0, 1])
    assert table["certified_accuracy"].isna().all()
    assert table[["low", "high"]].to_numpy().tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_a_frame_without_the_needed_columns_is_refused_by_name():
    with pytest.raises(SrsRayError, match="radius"):
        certified_accuracy(FRAME[["correct"]], [0])


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.7, 1.3])), min_size=1, max_size=30))
def test_curve_is_the_fields_definition_and_acr_its_area(rows: list[tuple[bool, float]]):
    df = pd.DataFrame(rows, columns=["correct", "radius"])
    radii = [0.0, 0.1, 0.25, 0.7, 1.3]
    shares = certified_accuracy(df, radii)["certified_accuracy"].to_numpy()
    assert shares.tolist() == [(df["correct"] & (df["radius"] >= r)).mean() for r in radii]
    # Between two of the radii the share is the one at the upper end, so the area is a sum of rectangles.
    assert average_certified_radius(df) == pytest.approx((np.diff(radii) * shares[1:]).sum(), abs=1e-12)


def test_acr_counts_wrong_abstained_and_failed_points_as_zero(write_run, points):
    assert average_certified_radius(FRAME) == pytest.approx((0.5 + 0.25) / 4)
    df = load_points(write_run("small", points))
    assert average_certified_radius(df) == pytest.approx(df["radius"].iloc[:2].sum() / 5)


def test_summary_tells_outcomes_and_cost(write_run, points):
    result = summary(load_points(write_run("small", points)))
    assert (result.points, result.errors, result.abstained, result.certificates) == (5, 1, 1, 3)
    assert result.smoothed_accuracy == pytest.approx(3 / 5)  # 3, 5 and, though it abstained, 2
    assert result.evaluations_per_sample == pytest.approx(3.0)
    assert result.audit_evaluations_per_sample == pytest.approx(12 * 100 / 1100)
    assert result.evaluations_per_audited_sample == pytest.approx(12.0)
    assert result.disagreement == pytest.approx(4 / 400)
    assert result.seconds_per_point == pytest.approx(2.0)
    assert (result.fallbacks, result.unconverged) == (8, 4)


def test_summary_of_a_run_in_which_nothing_worked_has_no_numbers_to_show(write_run, points):
    result = summary(load_points(write_run("broken", points[-1:])))
    assert (result.points, result.errors, result.abstained) == (1, 1, 0)
    assert result.average_certified_radius == 0.0
    assert result.evaluations_per_sample is None
    assert result.disagreement is None
    assert result.seconds_per_point is None
