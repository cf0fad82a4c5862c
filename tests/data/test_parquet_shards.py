"""A folder of Parquet shards is one data set in the order of the names, and its columns are found or named."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from srs_ray.data import open_data, open_dataset
from srs_ray.data.images import preprocessing_name
from srs_ray.data.settings import DataSettings
from srs_ray.errors import DataError, PointError

SHAPE = (3, 32, 32)
NAMES = ["a.parquet", "b.parquet", "c.parquet"]
SIZES = [40, 0, 60]


@pytest.fixture
def images(picture, encoded):
    return [encoded(picture(seed=seed)) for seed in range(100)]


@pytest.fixture
def sharded(tmp_path, images):
    """Writes three shards, the second one empty, of 100 rows; gives their folder."""

    def write(folder: str = "shards", names=NAMES, index=None, **options) -> Path:
        (tmp_path / folder).mkdir()
        start = 0
        for name, size in zip(names, SIZES, strict=True):
            rows = range(start, start + size)
            columns = {
                "image": pa.array([images[row] for row in rows], pa.binary()),
                "label": pa.array([row % 10 for row in rows], pa.int64()),
            }
            if index is not None:
                columns["index"] = pa.array([index[row] for row in rows], pa.int64())
            pq.write_table(pa.table(columns), tmp_path / folder / name, **options)
            start += size
        return tmp_path / folder

    return write


@pytest.fixture
def opened(tmp_path):
    """Opens a file of one row with these columns, and the settings given."""

    def write_and_open(columns: list[str], **settings: str):
        values = {name: [b"x"] if name in ("image", "img", "picture", "a.b") else [7] for name in columns}
        pq.write_table(pa.table(values), tmp_path / "a.parquet")
        section = DataSettings(kind="parquet", path=str(tmp_path / "a.parquet"), **settings)
        return open_data(section, SHAPE, 10)

    return write_and_open


@pytest.mark.parametrize("row_group_size", [7, 1000])
def test_one_index_runs_over_all_shards_in_any_order_of_asking(sharded, picture, row_group_size):
    dataset = open_dataset("parquet", sharded(row_group_size=row_group_size), None, SHAPE, class_count=10)
    assert len(dataset) == 100
    asked = [0, 99, 40, 39, 41, 39, *range(0, 100, 9), *np.random.default_rng(0).permutation(100)]
    for index in map(int, asked):
        expected = torch.from_numpy(np.array(picture(seed=index))).permute(2, 0, 1).float() / 255
        assert torch.equal(dataset.image(index), expected)
        assert dataset.label(index) == index % 10
    assert (dataset.name(39), dataset.name(40)) == ("row 39 of a.parquet", "row 0 of c.parquet")
    for index in (-1, 100):
        with pytest.raises(IndexError, match=f"row {index} of 100"):
            dataset.image(index)


def test_hidden_and_other_files_are_no_shards(sharded):
    folder = sharded()
    (folder / ".a.parquet").write_text("an editor's copy")
    (folder / "README.md").write_text("what this is")
    (folder / "z.parquet").mkdir()
    assert len(open_dataset("parquet", folder, None, SHAPE)) == 100


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_one_shard_is_open_at_a_time(sharded):
    folder = sharded()
    dataset = open_dataset("parquet", folder, None, SHAPE)
    for index in (0, 99, 3, 50):
        dataset.image(index)
        maps = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line}
        assert len(maps) <= 1


def test_a_bad_row_of_a_shard_fails_its_point_alone(tmp_path, images):
    for name, labels, cells in [("a", [0, None], images[:2]), ("b", [10, 3], [b"", images[3]])]:
        columns = {"image": pa.array(cells, pa.binary()), "label": pa.array(labels, pa.int64())}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    dataset = open_dataset("parquet", tmp_path, None, SHAPE, class_count=10)
    with pytest.raises(PointError, match=r"^row 1 of a\.parquet: label is missing or -1, expected 0 to 9$"):
        dataset.label(1)
    with pytest.raises(PointError, match=r"^row 0 of b\.parquet: label is 10, expected 0 to 9$"):
        dataset.label(2)
    with pytest.raises(PointError, match=r"^row 0 of b\.parquet: the image is empty"):
        dataset.image(2)
    assert (dataset.label(3), dataset.image(3).shape) == (3, SHAPE)


def test_a_shard_that_is_gone_when_it_is_read_fails_its_points(sharded):
    folder = sharded()
    dataset = open_dataset("parquet", folder, None, SHAPE)
    (folder / "c.parquet").unlink()
    with pytest.raises(PointError, match=r"^row 0 of c\.parquet: cannot be read"):
        dataset.image(40)
    assert dataset.image(0).shape == SHAPE


def test_an_index_column_must_count_over_all_shards(sharded):
    assert len(open_dataset("parquet", sharded("counted", index=range(100)), None, SHAPE)) == 100
    each_from_zero = [*range(40), *range(60)]
    with pytest.raises(DataError, match=r"c\.parquet: the index column says 0 in row 40, .*over all shards"):
        open_dataset("parquet", sharded("each", index=each_from_zero), None, SHAPE)


def test_a_file_of_images_and_labels_has_the_identity_it_always_had(opened, tmp_path):
    dataset = opened(["image", "label", "extra"])
    expected = {
        "kind": "parquet",
        "points": 1,
        "content": hashlib.sha256((tmp_path / "a.parquet").read_bytes()).hexdigest(),
        "preprocessing": preprocessing_name(SHAPE),
    }
    assert dataset.identity == expected
    named = opened(["image", "label", "extra"], image_column="image", label_column="label")
    assert named.identity == expected


def test_identity_follows_the_shards_bytes_in_order_and_not_their_names(sharded, tmp_path):
    folder = sharded()
    here = open_dataset("parquet", folder, None, SHAPE).identity
    whole = b"".join((folder / name).read_bytes() for name in NAMES)
    assert here["content"] == hashlib.sha256(whole).hexdigest()
    assert here.keys() == {"kind", "points", "content", "preprocessing"}
    renamed = sharded("renamed", names=["part-1.parquet", "part-2.parquet", "part-3.parquet"])
    assert open_dataset("parquet", renamed, None, SHAPE).identity == here
    os.rename(renamed / "part-1.parquet", renamed / "part-4.parquet")
    assert open_dataset("parquet", renamed, None, SHAPE).identity != here
    (tmp_path / "alone").mkdir()
    alone = shutil.copy(folder / "a.parquet", tmp_path / "alone")
    assert (
        open_dataset("parquet", tmp_path / "alone", None, SHAPE).identity
        == open_dataset("parquet", alone, None, SHAPE).identity
    )


@pytest.mark.parametrize(
    ("columns", "entries"),
    [
        (["img", "label"], {"image_column": "img"}),
        (["image", "labels"], {"label_column": "labels"}),
        (["img", "fine_label", "coarse_label"], {"image_column": "img", "label_column": "fine_label"}),
        (["label", "coarse_label", "image"], {}),
    ],
)
def test_the_usual_columns_are_found_and_named_in_the_identity(opened, columns, entries):
    dataset = opened(columns)
    assert dataset.label(0) == 7
    found = {name: value for name, value in dataset.identity.items() if name.endswith("column")}
    assert found == entries


def test_named_columns_are_taken_whatever_they_are_called(opened):
    dataset = opened(["a.b", "class", "image", "label"], image_column="a.b", label_column="class")
    assert {"image_column": "a.b", "label_column": "class"}.items() <= dataset.identity.items()
    with pytest.raises(PointError, match="not readable as an image"):
        dataset.image(0)
    assert opened(["image", "coarse_label"], label_column="coarse_label").label(0) == 7


@pytest.mark.parametrize(
    ("columns", "settings", "found"),
    [
        (["image", "img", "label"], {}, r"both image and img could be meant, choose by data\.image_column"),
        (
            ["image", "label", "fine_label"],
            {},
            r"both label and fine_label could be meant, choose by data\.label_column",
        ),
        (["image", "coarse_label"], {}, r"columns image, coarse_label: expected .*data\.label_column"),
        (["picture", "label"], {}, r"columns picture, label: expected .*data\.image_column"),
        (["image", "label"], {"label_column": "class"}, r"data\.label_column is 'class', expected one of them"),
        (["image", "label"], {"image_column": "label"}, r"column label is int64: expected encoded images"),
    ],
)
def test_columns_that_are_not_there_or_could_be_either_are_refused_by_name(opened, columns, settings, found):
    with pytest.raises(DataError, match=found):
        opened(columns, **settings)


def test_shards_that_do_not_agree_are_refused_by_name(sharded):
    folder = sharded()
    columns = {"image": pa.array([b"x"]), "label": pa.array([1], pa.int32())}
    pq.write_table(pa.table(columns), folder / "d.parquet")
    with pytest.raises(
        DataError, match=r"d\.parquet has the columns .*label: int32; the first shard has .*label: int64"
    ):
        open_dataset("parquet", folder, None, SHAPE)
    (folder / "d.parquet").write_text("index,image,label")
    with pytest.raises(DataError, match=r"d\.parquet is not readable as Parquet"):
        open_dataset("parquet", folder, None, SHAPE)


def test_counted_shards_must_all_be_there_and_of_one_split(sharded):
    counted = [f"train-{number:05}-of-00003.parquet" for number in range(3)]
    folder = sharded(names=counted)
    assert len(open_dataset("parquet", folder, None, SHAPE)) == 100
    shutil.copy(folder / counted[0], folder / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match="holds shards of test and train: name a folder that holds one of them"):
        open_dataset("parquet", folder, None, SHAPE)
    (folder / "test-00000-of-00001.parquet").unlink()
    (folder / counted[1]).unlink()
    with pytest.raises(DataError, match=r"lacks 1 of the 3 shards .*number 00001"):
        open_dataset("parquet", folder, None, SHAPE)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
            r"count them otherwise: train-00000-of-00001\.parquet, train-00001-of-00002\.parquet: keep those of one",
        ),
        (
            ["train-00000-of-00002-aa", "train-00000-of-00002-bb", "train-00001-of-00002-aa"],
            r"more than once: train-00000-of-00002-aa\.parquet, train-00000-of-00002-bb\.parquet: keep one",
        ),
        (
            ["extra", "more", "train-00000-of-00003"],
            r"train-00000-of-00003\.parquet, which counts .*, and extra\.parquet, more\.parquet, .* or name the file",
        ),
        (
            ["train-00000-of-00001", "train-00000-of-00001 (1)", "z"],
            r"and train-00000-of-00001 \(1\)\.parquet, z\.parq",
        ),
        (["test", "train-00000-of-00001", "val-00000-of-00001"], r"and test\.parquet, which is none of them"),
        (
            ["train-00000-of-00002", "train-00001-of-00002", "train-00002-of-00002"],
            r"00002-of-00002\.parquet, a shard more",
        ),
    ],
)
def test_counted_shards_of_which_some_are_there_twice_or_are_no_shards_are_refused_by_name(sharded, names, reason):
    with pytest.raises(DataError, match=reason):
        open_dataset("parquet", sharded(names=[f"{name}.parquet" for name in names]), None, SHAPE)


def test_each_counted_shard_may_have_a_hash_of_its_own(sharded):
    names = [f"train-{number:05}-of-00003-{number}a.parquet" for number in range(3)]
    assert len(open_dataset("parquet", sharded(names=names), None, SHAPE)) == 100


def test_a_folder_of_empty_shards_has_no_rows(tmp_path):
    columns = {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no rows"):
        open_dataset("parquet", tmp_path, None, SHAPE)
