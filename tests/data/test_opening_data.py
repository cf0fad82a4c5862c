"""What is asked for is checked before any point is touched."""

from __future__ import annotations

import pytest

from srs_ray.data import KINDS, open_dataset, point_indices
from srs_ray.errors import DataError


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match=rf"'mnist': expected one of {', '.join(KINDS)}"):
        open_dataset("mnist", None, None, (3, 32, 32))


@pytest.mark.parametrize("kind", ["cifar10", "imagenet", "imagefolder", "parquet"])
def test_a_kind_that_lies_on_disk_needs_a_path(kind):
    with pytest.raises(DataError, match=f"data kind {kind} needs a path"):
        open_dataset(kind, None, None, (3, 32, 32))


@pytest.mark.parametrize("kind", ["imagenet", "imagefolder", "parquet", "digits"])
def test_only_cifar10_can_be_downloaded(kind, tmp_path):
    with pytest.raises(DataError, match=f"data kind {kind} cannot be downloaded"):
        open_dataset(kind, tmp_path, None, (3, 32, 32), download=True)


def test_a_model_for_another_number_of_classes_is_refused():
    with pytest.raises(DataError, match="digits data has 10 classes, the model tells 1000 apart"):
        open_dataset("digits", None, None, (3, 32, 32), class_count=1000)


def test_a_model_with_two_channels_is_refused():
    with pytest.raises(DataError, match="the model takes 2 channels"):
        open_dataset("digits", None, None, (2, 32, 32))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((10,), range(10)),
        ((10, 0, None, 3), range(0, 10, 3)),
        ((10, 2, 9, 3), range(2, 9, 3)),
        ((10, 0, 10, 20), range(0, 1)),
        ((10, 9, 10, 1), range(9, 10)),
    ],
)
def test_points_are_every_nth_from_start_to_stop(settings, expected):
    assert list(point_indices(*settings)) == list(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((10, 10), "start is 10, but the data set has points 0 to 9"),
        ((10, -1), "start is -1"),
        ((10, 0, 11), "stop is 11, but the data set has 10 points: give at most 10"),
        ((10, 5, 5), "stop is 5 and start is 5"),
        ((10, 0, -2), "stop is -2"),
        ((10, 0, None, 0), "every is 0: expected 1"),
    ],
)
def test_settings_beyond_the_data_set_are_refused_with_what_would_be_right(settings, message):
    with pytest.raises(DataError, match=message):
        point_indices(*settings)
