"""CIFAR-10 on disk as torchvision keeps it.

The authors' files cannot be made here, and torchvision checks their md5 sums; so these tests write the same layout with
few images, tell torchvision the sums of those files, and go through its real loader.
"""

from __future__ import annotations

import hashlib
import pickle
import shutil

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from srs_ray.data import open_dataset
from srs_ray.errors import DataError, PointError

SHAPE = (3, 32, 32)
NAMES = [f"class {label}" for label in range(10)]


@pytest.fixture
def pixels_NCHW():
    return np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def layout(tmp_path, monkeypatch, pixels_NCHW):
    """Writes five training batches and a test batch of ten images each; `labels` are those of the test batch."""

    def write(labels=tuple(range(10)), name="data"):
        folder = tmp_path / name / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        for number, batch in enumerate(["test_batch", *(f"data_batch_{number}" for number in range(1, 6))]):
            rows = pixels_NCHW[10 * number : 10 * number + 10].reshape(10, -1)
            content = {"data": rows, "labels": list(labels) if number == 0 else [number] * 10}
            (folder / batch).write_bytes(pickle.dumps(content))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}))
        sums = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
        training = [[batch, sums[batch]] for batch in sorted(sums) if batch.startswith("data")]
        monkeypatch.setattr(CIFAR10, "train_list", training)
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
        monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
        return folder.parent

    return write


def test_pixels_and_labels_come_out_as_stored(layout, pixels_NCHW):
    path = layout()
    test = open_dataset("cifar10", path, None, SHAPE, class_count=10)
    train = open_dataset("cifar10", path, "train", SHAPE, class_count=10)
    assert (len(test), len(train)) == (10, 50)
    assert torch.equal(test.image(7), torch.from_numpy(pixels_NCHW[7]).float() / 255)
    assert torch.equal(train.image(49), torch.from_numpy(pixels_NCHW[59]).float() / 255)
    assert [test.label(index) for index in range(10)] == list(range(10))
    assert train.label(49) == 5
    assert train.name(49) == "CIFAR-10 train image 49"


def test_a_gray_model_gets_one_channel(layout):
    assert open_dataset("cifar10", layout(), None, (1, 32, 32)).image(0).shape == (1, 32, 32)


def test_identity_follows_pixels_and_labels_and_not_the_path(layout, tmp_path):
    path = layout()
    here = open_dataset("cifar10", path, "test", SHAPE).identity
    there = open_dataset("cifar10", shutil.copytree(path, tmp_path / "there"), "test", SHAPE).identity
    assert here == there
    assert open_dataset("cifar10", path, "train", SHAPE).identity != here
    relabelled = open_dataset("cifar10", layout(labels=[1] * 10, name="relabelled"), "test", SHAPE)
    assert relabelled.identity != here


def test_missing_files_are_named_with_the_way_to_get_them(tmp_path):
    with pytest.raises(DataError, match=rf"no CIFAR-10 at {tmp_path}/cifar-10-batches-py.*--download"):
        open_dataset("cifar10", tmp_path, None, SHAPE)


def test_a_damaged_batch_is_refused(layout):
    path = layout()
    with (path / "cifar-10-batches-py" / "test_batch").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"incomplete or damaged.*--download"):
        open_dataset("cifar10", path, "test", SHAPE)


def test_a_model_of_another_size_and_an_unknown_split_are_refused(layout):
    path = layout()
    with pytest.raises(DataError, match="CIFAR-10 images are 32x32, the model takes 224x224"):
        open_dataset("cifar10", path, None, (3, 224, 224))
    with pytest.raises(DataError, match="split is 'val', but cifar10 has train and test"):
        open_dataset("cifar10", path, "val", SHAPE)


def test_a_download_without_a_connection_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(DataError, match="could not be downloaded"):
        open_dataset("cifar10", tmp_path, None, SHAPE, download=True)


def test_a_label_that_is_no_class_fails_its_point_alone(layout):
    dataset = open_dataset("cifar10", layout(labels=[*range(9), 10]), "test", SHAPE, class_count=10)
    with pytest.raises(PointError, match=r"^CIFAR-10 test image 9: label is 10, expected 0 to 9$"):
        dataset.label(9)
    assert dataset.label(8) == 8
