"""scikit-learn's digits at the model's input size."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from srs_ray.data import load_all, open_dataset
from srs_ray.errors import DataError


def test_the_splits_are_the_first_1437_and_the_last_360_images():
    train, test = (open_dataset("digits", None, split, (1, 8, 8), class_count=10) for split in ("train", "test"))
    digits = load_digits()
    x_NCHW, y_N = load_all(train)
    assert torch.equal(x_NCHW[:, 0], torch.from_numpy(digits.images[:1437]).float() / 16)
    assert torch.equal(y_N, torch.from_numpy(digits.target[:1437]))
    x_NCHW, y_N = load_all(test)
    assert torch.equal(x_NCHW[:, 0], torch.from_numpy(digits.images[1437:]).float() / 16)
    assert torch.equal(y_N, torch.from_numpy(digits.target[1437:]))
    assert len(test) == 360


@pytest.mark.parametrize("size", [16, 28, 32])
def test_enlarging_is_bilinear_between_the_original_pixels(size):
    small_HW = open_dataset("digits", None, None, (1, 8, 8)).image(5)[0].double()
    # Half-pixel centres: output pixel i lies at (i + 1/2) 8/size - 1/2 of the original, clamped to its edge.
    at = ((torch.arange(size) + 0.5) * 8 / size - 0.5).clamp(0, 7)
    weights = (1 - (at[:, None] - torch.arange(8)).abs()).clamp(min=0).double()
    x_CHW = open_dataset("digits", None, None, (1, size, size)).image(5)
    torch.testing.assert_close(x_CHW[0].double(), weights @ small_HW @ weights.T, atol=1e-6, rtol=0)
    assert 0 <= x_CHW.min() < x_CHW.max() <= 1


def test_three_channels_are_the_gray_one_repeated():
    gray, colour = (open_dataset("digits", None, None, (channels, 32, 32)).image(3) for channels in (1, 3))
    assert torch.equal(colour, gray.repeat(3, 1, 1))


def test_identity_tells_splits_and_sizes_apart():
    identities = [
        open_dataset("digits", None, split, (1, size, size)).identity for split in ("train", "test") for size in (8, 32)
    ]
    assert len({str(identity) for identity in identities}) == 4
    assert open_dataset("digits", "anywhere", "test", (1, 32, 32)).identity == identities[3]


def test_a_changed_image_keeps_its_neighbours_and_the_data_set():
    dataset = open_dataset("digits", None, None, (3, 32, 32))
    before = dataset.image(0).clone()
    dataset.image(0).zero_()
    assert torch.equal(dataset.image(0), before)


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="split is 'val', but digits has train and test"):
        open_dataset("digits", None, "val", (1, 8, 8))
