"""A label is a class: a whole number below the class count, of whatever type numbers come in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srs_ray.data.points import class_label
from srs_ray.errors import PointError


@pytest.mark.parametrize(
    "label",
    [3, np.int64(3), np.uint8(3), np.array(3), np.array(3, ">i2"), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)],
)
def test_whole_numbers_of_every_library_are_labels(label):
    found = class_label(label, 4, "a")
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize(
    "label",
    [
        None,
        True,
        np.True_,
        torch.tensor(True),
        1.0,
        np.float64(1),
        torch.tensor(1.0),
        "1",
        [1],
        torch.tensor([1]),
        np.array([1]),
    ],
)
def test_what_is_no_whole_number_is_refused(label):
    with pytest.raises(PointError, match=r"^item 5: label is .*, expected a whole number, 0 to 3$"):
        class_label(label, 4, "item 5")


@pytest.mark.parametrize("label", [-1, 4, np.int64(4), torch.tensor(-5), 2**70])
def test_a_number_that_is_no_class_is_refused(label):
    with pytest.raises(PointError, match=rf"^item 5: label is {int(label)}, expected 0 to 3$"):
        class_label(label, 4, "item 5")
