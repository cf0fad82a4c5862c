"""Two runs on the same points: differences, their interval against published and enumerated truth, and refusals."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial, norm

from srs_ray.analysis.comparison import point_warnings
from srs_ray.analysis.pairing import different_data, paired_difference, score_interval
from srs_ray.analysis.points import load_points
from srs_ray.analysis.table import comparison_table
from srs_ray.errors import SrsRayError

WRONG = {"label": 1, "selected": 7, "hits": 990, "disagreed": 0}
RIGHT = {"label": 1, "selected": 1, "hits": 990, "disagreed": 0}


def test_the_interval_is_the_published_one():
    # Fagerland, Lydersen and Laake 2014: airway hyper-responsiveness, 1 and 7 discordant of 21 pairs.
    assert score_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert score_interval(7, 1, 21) == pytest.approx((0.026, 0.517), abs=5e-4)


@pytest.mark.parametrize(("more", "less", "pairs"), [(5, 2, 40), (0, 3, 25), (12, 11, 50), (1, 0, 10)])
def test_its_ends_are_where_the_score_statistic_is_the_quantile(more: int, less: int, pairs: int):
    for difference in score_interval(more, less, pairs):
        same = pairs - more - less

        def loss(rate: float, difference: float = difference, same: int = same) -> float:
            rates = np.array([rate + difference, rate, 1 - 2 * rate - difference])
            return -float((np.array([more, less, same]) * np.log(np.maximum(rates, 1e-300))).sum())

        bounds = (max(0.0, -difference), (1 - difference) / 2)
        rate = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        variance = pairs * (2 * rate + difference - difference**2)
        assert abs(more - less - pairs * difference) / variance**0.5 == pytest.approx(norm.ppf(0.975), rel=1e-3)


def test_it_covers_the_true_difference_about_as_often_as_it_says():
    pairs = 25
    counts = [(more, less) for more in range(pairs + 1) for less in range(pairs + 1 - more)]
    ends = np.array([score_interval(more, less, pairs) for more, less in counts])
    covered = []
    for one, other in product((0.02, 0.1, 0.25), (0.02, 0.1, 0.25)):
        mass = multinomial.pmf([(m, k, pairs - m - k) for m, k in counts], pairs, [one, other, 1 - one - other])
        difference = one - other
        covered.append(mass[(ends[:, 0] <= difference) & (difference <= ends[:, 1])].sum())
    assert min(covered) > 0.93
    assert np.mean(covered) > 0.95


def test_no_discordant_point_is_no_proof_that_the_runs_are_equal():
    low, high = score_interval(0, 0, 30)
    assert high == pytest.approx(norm.ppf(0.975) ** 2 / (30 + norm.ppf(0.975) ** 2))
    assert low == pytest.approx(-high)


@pytest.mark.parametrize("counts", [(1, 1, 1), (-1, 0, 5), (0, 0, 0)])
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match="pairs"):
        score_interval(*counts)


def test_differences_are_of_the_points_of_both_runs(write_run):
    first = load_points(write_run("first", [RIGHT, WRONG, RIGHT, RIGHT]))
    second = load_points(write_run("second", [RIGHT, RIGHT, WRONG, RIGHT, RIGHT, RIGHT], stop=120))
    table = paired_difference(first, second[1:], [0, 0.25, 9])
    assert table["points"].tolist() == [3] * 3
    assert table["only_first"].tolist() == [1, 1, 0]
    assert table["only_second"].tolist() == [1, 1, 0]
    assert table["difference"].tolist() == [0, 0, 0]
    assert (table["low"][0], table["high"][0]) == score_interval(1, 1, 3)
    assert paired_difference(first[:2], second, [0])["difference"].tolist() == [0.5]


def test_a_point_in_error_is_not_certified(write_run, points):
    first = load_points(write_run("first", [RIGHT, RIGHT]))
    second = load_points(write_run("second", [RIGHT, points[4]]))
    assert paired_difference(first, second, [0])["difference"].tolist() == [-0.5]


def test_an_index_of_other_data_is_no_pair(write_run):
    first = load_points(write_run("first", [RIGHT, RIGHT], data="a"))
    for other in (
        load_points(write_run("content", [RIGHT, RIGHT], data="b")),
        load_points(write_run("labels", [RIGHT, {**RIGHT, "label": 2}], data="a")),
    ):
        assert different_data(first, other) is not None
        with pytest.raises(SrsRayError, match="cannot compare point by point"):
            paired_difference(first, other, [0])
        assert "different data" in comparison_table([first, other], "0", "markdown")
        assert "Paired" not in comparison_table([first, other], "0", "markdown")
    same = load_points(write_run("same", [RIGHT, RIGHT], data="a"))  # by another preprocessing
    assert different_data(first, same) is None


def test_runs_without_a_point_in_common_are_refused(write_run):
    df = load_points(write_run("first", [RIGHT, RIGHT]))
    with pytest.raises(SrsRayError, match="no point ended in both"):
        paired_difference(df[:1], df[1:], [0])


def test_a_table_of_runs_over_different_points_warns_and_compares_the_points_of_both(write_run):
    first = load_points(write_run("first", [RIGHT, WRONG, RIGHT]))
    second = load_points(write_run("second", [RIGHT, RIGHT]))
    for form in ("table", "markdown", "latex"):
        text = " ".join(comparison_table([first, second], "0", form).replace("{[}", "[").split())
        assert "WARNING: first and second are over different points (3 and 2 ended, 2 in both)" in text
        assert "Paired, second minus first, 2 points of both: r = 0: +50.0 [-" in text
        assert "(1 here, 0 there)" in text
        assert "Tango 1998" in text
        assert "WARNING" not in comparison_table([second, second], "0", form)
    assert len(point_warnings([first, second])) == 1
    [one, two] = json.loads(comparison_table([first, second], "0", "json"))
    assert one["paired"] is None
    assert two["paired"]["at"][0]["difference"] == 0.5
    assert any("different points" in note for note in two["notes"])


def test_differences_with_floors_say_so(write_run):
    full = load_points(write_run("full", [RIGHT, WRONG], method="standard", kind="cohen"))
    by_looks = {"method": "standard", "kind": "mixture", "target_radii": [0]}
    looks = load_points(write_run("looks", [RIGHT, RIGHT], **by_looks))

    def paired(*frames) -> str:
        lines = comparison_table(frames, "0,0.5,9", "markdown").splitlines()
        return next(line for line in lines if line.startswith("- Paired, "))

    assert "r = 0: +50.0" in paired(full, looks)
    assert "r = 0.5: >= +50.0" in paired(full, looks)
    assert "r = 9: \N{EN DASH}" in paired(full, looks)
    assert "r = 0.5: <= -50.0" in paired(looks, full)
    assert "r = 0.5: n/a" in paired(looks, load_points(write_run("again", [RIGHT, RIGHT], **by_looks)))
