"""What the points so far say of a run that goes on: time to go, targets, disagreement, errors."""

from __future__ import annotations

import numpy as np
import pytest

from srs_ray.analysis.accuracy import clopper_pearson_interval
from srs_ray.runs.outlook import (
    FEWEST,
    TargetOutlook,
    disagreement_by_half,
    node_of,
    reason_of_error,
    share_interval,
    target_outlooks,
    time_to_go,
)


def test_the_time_to_go_is_unknown_after_a_few_points_and_none_once_all_are_done():
    assert time_to_go(10, [1.0] * (FEWEST - 1), 1.0) is None
    assert time_to_go(10, [1.0] * FEWEST, 0.0) is None
    assert time_to_go(0, [], 0.0).expected == 0


@pytest.mark.parametrize(("finished", "left", "workers"), [(20, 100, 1), (200, 50, 1), (50, 400, 4)])
def test_the_interval_of_the_time_to_go_holds_the_true_time_about_as_often_as_it_says(finished, left, workers):
    """Times of points are gamma with a coefficient of variation of 0.5; workers share the sum of them.

    Of 1,000 runs a share of 0.95 has a standard deviation of 0.007; the interval's own variance is of `finished`
    points, which costs up to 0.02 of coverage at 20 of them.
    """
    rng, held = np.random.default_rng(1), 0
    for _ in range(1000):
        seconds = rng.gamma(4.0, 2.5, finished + left)
        found = time_to_go(left, list(seconds[:finished]), workers / seconds[:finished].mean())
        held += found.low <= seconds[finished:].sum() / workers <= found.high
    assert 0.95 - 0.02 - 3 * 0.007 <= held / 1000 <= 0.95 + 3 * 0.007


@pytest.mark.parametrize(("count", "of"), [(0, 0), (0, 7), (7, 7), (3, 40)])
def test_intervals_of_shares_are_those_of_the_tables(count, of):
    low, high = clopper_pearson_interval(np.array([count]), of)
    assert share_interval(count, of) == pytest.approx((low[0], high[0]) if of else (0.0, 1.0))


def test_a_target_is_possible_as_long_as_all_remaining_points_would_do():
    def outlook(certified: int, ended: int) -> TargetOutlook:
        return target_outlooks({0.5: 0.3}, {0.5: certified}, ended, 0, 100)[0]

    assert outlook(0, 70).possible
    assert not outlook(0, 71).possible
    assert outlook(30, 100).warning is None
    assert "is missed: 29 of the 100 points that ended are" in outlook(29, 100).warning
    assert "can no longer be met" in outlook(9, 80).warning
    assert "is unlikely to be met: 1 of the 40 points that ended are, interval 0.1% to 13.2%" in outlook(1, 40).warning
    assert outlook(10, 40).warning is None


def test_points_in_error_remain():
    [outlook] = target_outlooks({0.5: 1.0}, {0.5: 8}, 8, 2, 10)
    assert (outlook.ended, outlook.remaining, outlook.possible) == (10, 2, True)


def test_disagreement_is_of_the_points_that_were_audited_in_two_halves():
    first, second = disagreement_by_half([(100, 1), (0, 0), (100, 2), (50, 5), (100, 3)])
    assert (first.audited, first.disagreed) == (200, 3)
    assert second.share == 8 / 150
    assert disagreement_by_half([(100, 1), (0, 0)]) is None


def test_errors_of_one_kind_count_together():
    assert reason_of_error("PointError: row 80 of a-10.parquet") == reason_of_error("PointError: row 7 of a-2.parquet")
    assert (node_of("host/12"), node_of("host"), node_of(None)) == ("host", "host", "unknown")


@pytest.mark.parametrize(
    ("worker", "node"),
    [
        ("a.b/17", "a.b"),
        ("a/b/17", "a/b"),
        ("alone", "alone"),
        ("", "unknown"),
        (None, "unknown"),
        (float("nan"), "unknown"),
    ],
)
def test_a_row_without_a_worker_has_an_unknown_node(worker, node):
    assert node_of(worker) == node
