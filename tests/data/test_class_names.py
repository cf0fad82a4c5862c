"""A label means the class that the model was made for, or the data are refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srs_ray.data import open_data, open_dataset
from srs_ray.data.class_names import check_class_names
from srs_ray.data.imported import open_imported
from srs_ray.data.settings import DataSettings
from srs_ray.errors import DataError
from srs_ray.models.user_code import Import
from srs_ray.models.weights import Weights, named_classes

SHAPE = (3, 32, 32)
ANIMALS = ("cat", "dog", "polar bear")


@pytest.mark.parametrize("data", [ANIMALS, ("Cat", "DOG", "polar_bear"), None, ("cat", "dog")])
def test_the_same_names_and_no_names_are_taken(data, caplog):
    check_class_names(data, ANIMALS, "my-arch")
    check_class_names(ANIMALS, None, "my-arch")
    assert caplog.text == ""


@pytest.mark.parametrize("data", [("dog", "cat", "polar bear"), ("cat", "polar-bear", "seal")])
def test_names_at_other_places_are_refused(data):
    with pytest.raises(
        DataError, match=r"the data's class 1 is|the data's class 0 is 'dog', which is class 1 of my-arch"
    ):
        check_class_names(data, ANIMALS, "my-arch")


def test_names_that_the_model_does_not_know_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        check_class_names(("cat", "n02084071", "bear"), ANIMALS, "my-arch")
    assert "2 of 3 class names differ between the data and my-arch, the first at class 1: 'n02084071'" in caplog.text


def test_a_name_that_two_classes_have_says_nothing_of_their_order(caplog):
    check_class_names(("crane", "cat", "crane"), ("crane bird", "cat", "crane"), "my-arch")
    assert "1 of 3 class names differ" in caplog.text


def test_weights_name_their_classes_on_their_card():
    card = Weights({}, {"classes": json.dumps(ANIMALS)}).card
    assert named_classes(card, 3) == ANIMALS
    assert named_classes(card, 4) is None
    assert named_classes(Weights({}, {"classes": "3"}).card, 3) is None


@pytest.fixture
def animals(tmp_path, picture, encoded):
    """A Parquet file of three images with these labels, and its metadata as Hugging Face writes them."""

    def make(labels: list[int], names: tuple[str, ...] | None = None) -> Path:
        table = pa.table({"image": [encoded(picture(seed=abs(label))) for label in labels], "label": labels})
        features = {"label": {"_type": "ClassLabel", "names": names}}
        metadata = {} if names is None else {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "animals.parquet")
        return tmp_path / "animals.parquet"

    return make


def test_a_parquet_file_names_its_classes_as_hugging_face_does_or_the_job_does(animals):
    assert open_dataset("parquet", animals([0, 1, 2]), None, SHAPE, class_count=3).class_names is None
    path = animals([0, 1, 2], ANIMALS)
    assert open_dataset("parquet", path, None, SHAPE, class_count=3).class_names == ANIMALS

    def named(*names: str) -> tuple[str, ...] | None:
        return open_data(DataSettings(kind="parquet", path=str(path), classes=names), SHAPE, 3).class_names

    assert named("cat", "hound", "bear") == ("cat", "hound", "bear")
    with pytest.raises(DataError, match="which is class 1 of"):
        named("dog", "cat", "polar bear")
    with pytest.raises(DataError, match=r"data\.classes has 2 names, and there are 3 classes"):
        named("cat", "dog")


@pytest.mark.parametrize("classes", [2, 4])
def test_a_parquet_file_that_names_more_or_fewer_classes_than_the_model_has_is_refused(animals, classes):
    path = animals([0, 1, 1], ANIMALS)
    with pytest.raises(
        DataError, match=rf"the data name 3 classes, the model tells {classes} apart: choose .*data\.classes"
    ):
        open_dataset("parquet", path, None, SHAPE, class_count=classes)
    assert open_dataset("parquet", path, None, SHAPE).class_count == 3


def test_a_job_may_name_more_classes_than_the_parquet_file_but_not_in_another_order(animals):
    path = animals([0, 1, 2], ANIMALS)

    def named(*names: str) -> tuple[str, ...] | None:
        return open_data(DataSettings(kind="parquet", path=str(path), classes=names), SHAPE, 4).class_names

    assert named("cat", "dog", "polar bear", "seal") == ("cat", "dog", "polar bear", "seal")
    with pytest.raises(DataError, match=r"class 2 is 'polar bear', which is class 3 of data\.classes .*1 of 3"):
        named("cat", "dog", "seal", "polar bear")


def test_labels_that_count_from_one_are_refused_with_the_remedy(animals, tmp_path):
    with pytest.raises(DataError, match=r"labels are 1 to 3, and the 3 classes have the labels 0 to 2: subtract 1"):
        open_dataset("parquet", animals([1, 2, 3]), None, SHAPE, class_count=3)
    with pytest.raises(DataError, match="labels are 2 to 3"):
        open_dataset("parquet", animals([-1, 2, 3, 3]), None, SHAPE, class_count=3)
    # One label that is no class; a part of the data; none known; too few to tell.
    for labels in ([0, 1, 3], [1, 2, 2], [-1, -1, -1], [1, 3]):
        open_dataset("parquet", animals(labels), None, SHAPE, class_count=3)


@pytest.mark.parametrize("attribute", ["targets", "labels"])
def test_so_are_those_that_an_object_of_ones_own_lists(tmp_path, attribute):
    (tmp_path / "my_data.py").write_text(
        "class Data:\n"
        f"    def __init__(self, labels): self.{attribute} = labels\n"
        "    def __len__(self): return 3\n"
        "    def __getitem__(self, index): return None, index\n"
    )
    what = Import.parse(f"{tmp_path}/my_data.py:Data")
    with pytest.raises(DataError, match=rf"{attribute} of my_data\.py:Data: labels are 1 to 3"):
        open_imported(what, {"labels": [1, 2, 3]}, SHAPE, 3)
    for others in ([0, 1, 3], [1, 2], ["1", "2", "3"], None, 7):
        assert len(open_imported(what, {"labels": others}, SHAPE, 3)) == 3


def test_a_job_lists_its_classes_or_names_a_file_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "names.txt").write_text("cat\n\n  dog \npolar bear\n", encoding="utf-8")
    for given in ("~/names.txt", list(ANIMALS)):
        section = DataSettings(kind="imagefolder", path="x", classes=given)
        assert section.classes == ANIMALS
        assert section.model_dump(mode="json")["classes"] == list(ANIMALS)
    assert DataSettings(kind="imagefolder", path="x", classes=[1, 2, 10]).classes == ("1", "2", "10")
    assert "classes" not in DataSettings(kind="imagefolder", path="x").model_dump()
    for given, reason in (
        ("~/absent.txt", r"absent\.txt cannot be read: No such file"),
        (["cat", "cat"], "'cat' is there twice"),
        ([], "at least one class name"),
        ([np.inf], "string"),
    ):
        with pytest.raises(ValueError, match=reason):
            DataSettings(kind="imagefolder", path="x", classes=given)
