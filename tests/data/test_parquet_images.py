"""Parquet files of encoded images: a row is a point, whatever the row groups, and a bad row is a bad point."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from srs_ray.data import open_dataset
from srs_ray.errors import DataError, PointError

SHAPE = (3, 32, 32)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def images(picture, encoded):
    return [encoded(picture(seed=seed)) for seed in range(100)]


@pytest.fixture
def opened(tmp_path):
    def write_and_open(columns: dict, class_count: int | None = None, name: str = "a.parquet", **options):
        pq.write_table(pa.table(columns), tmp_path / name, **options)
        return open_dataset("parquet", tmp_path / name, None, SHAPE, class_count=class_count)

    return write_and_open


@pytest.mark.parametrize("row_group_size", [1, 7, 50, 1000])
def test_rows_are_points_in_any_order_of_asking_and_any_row_groups(opened, images, picture, row_group_size):
    dataset = opened({"image": images, "label": [row % 10 for row in range(100)]}, row_group_size=row_group_size)
    asked = [0, 99, 98, 3, 3, 2, *range(0, 100, 9), *np.random.default_rng(0).permutation(100)]
    for row in map(int, asked):
        expected = torch.from_numpy(np.array(picture(seed=row))).permute(2, 0, 1).float() / 255
        assert torch.equal(dataset.image(row), expected)
        assert dataset.label(row) == row % 10
    assert (len(dataset), dataset.class_count) == (100, 10)
    assert dataset.name(17) == "row 17 of a.parquet"


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary()])
def test_both_layouts_of_the_image_column_give_the_same_points(opened, images, binary):
    plain = opened({"image": pa.array(images, binary), "label": [0] * 100}, name="plain.parquet")
    huggingface = pa.array(
        [{"bytes": image, "path": "x.png"} for image in images], pa.struct([("bytes", binary), ("path", pa.string())])
    )
    nested = opened({"image": huggingface, "label": [0] * 100}, name="nested.parquet")
    assert all(torch.equal(plain.image(row), nested.image(row)) for row in range(0, 100, 7))


def test_a_bad_row_fails_its_point_alone(opened, images):
    columns = {"image": [images[0], b"", None, images[3][:90], images[4]], "label": [0, 1, None, -5, 10]}
    dataset = opened(columns, class_count=10)
    for row, reason in [(1, "empty"), (2, "the row holds no image"), (3, "not readable")]:
        with pytest.raises(PointError, match=rf"^row {row} of a\.parquet: .*{reason}"):
            dataset.image(row)
    for row, found in [(2, "missing or -1"), (3, "-5"), (4, "10")]:
        with pytest.raises(PointError, match=rf"^row {row} of a\.parquet: label is {found}, expected 0 to 9$"):
            dataset.label(row)
    assert dataset.image(4).shape == SHAPE
    assert dataset.label(1) == 1


def test_a_damaged_page_fails_its_points_and_not_those_of_other_row_groups(opened, images, tmp_path):
    dataset = opened({"image": images, "label": [0] * 100}, row_group_size=10, compression="zstd", use_dictionary=False)
    expected = dataset.image(95)
    file = tmp_path / "a.parquet"
    column = pq.read_metadata(file).row_group(0).column(0)
    content = bytearray(file.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 200] = bytes(200)
    (tmp_path / "damaged.parquet").write_bytes(content)
    damaged = open_dataset("parquet", tmp_path / "damaged.parquet", None, SHAPE)
    for _ in range(2):
        with pytest.raises(PointError, match=r"^row 3 of damaged\.parquet: cannot be read"):
            damaged.image(3)
        assert torch.equal(damaged.image(95), expected)


def test_an_index_column_must_count_the_rows(opened, images):
    assert len(opened({"index": range(100), "image": images, "label": [0] * 100})) == 100
    shuffled = [*range(50), 51, 50, *range(52, 100)]
    with pytest.raises(DataError, match="index column says 51 in row 50"):
        opened({"index": shuffled, "image": images, "label": [0] * 100})


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"picture": [b""], "label": [0]}, "columns picture, label: expected image and label"),
        ({"image": ["text"], "label": [0]}, "column image is string"),
        ({"image": [{"path": "x.png"}], "label": [0]}, "column image is struct"),
        ({"image": [b""], "label": ["cat"]}, "column label is string"),
        ({"image": [b""], "label": [0.5]}, "column label is double"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "no rows"),
    ],
)
def test_a_file_with_other_columns_is_refused_with_what_was_found(opened, columns, found):
    with pytest.raises(DataError, match=found):
        opened(columns)


def test_a_missing_file_a_folder_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match="no Parquet file"):
        open_dataset("parquet", tmp_path / "none.parquet", None, SHAPE)
    with pytest.raises(DataError, match="no Parquet file"):
        open_dataset("parquet", tmp_path, None, SHAPE)
    (tmp_path / "text.parquet").write_text("index,image,label")
    with pytest.raises(DataError, match="not readable as Parquet"):
        open_dataset("parquet", tmp_path / "text.parquet", None, SHAPE)


def test_a_split_is_refused_because_a_file_has_none(tmp_path):
    with pytest.raises(DataError, match="a Parquet file has no splits"):
        open_dataset("parquet", tmp_path / "a.parquet", "test", SHAPE)


def test_identity_follows_the_files_bytes_and_not_its_path(opened, images, tmp_path):
    labels = [0] * 100
    dataset = opened({"image": images, "label": labels})
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(tmp_path / "a.parquet", tmp_path / "elsewhere" / "b.parquet")
    assert open_dataset("parquet", copy, None, SHAPE).identity == dataset.identity
    relabelled = opened({"image": images, "label": [*labels[:-1], 1]}, name="relabelled.parquet")
    reordered = opened({"image": images[::-1], "label": labels}, name="reordered.parquet")
    assert dataset.identity != relabelled.identity
    assert dataset.identity != reordered.identity


def test_a_row_beyond_the_file_is_an_index_error(opened, images):
    dataset = opened({"image": images, "label": [0] * 100})
    for row in (-1, 100):
        with pytest.raises(IndexError, match=rf"row {row} of 100"):
            dataset.image(row)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the CIFAR-10 Parquet files are not there")
def test_the_real_cifar10_file_opens_and_decodes():
    dataset = open_dataset("parquet", SHARED / "cifar10-test.parquet", None, SHAPE)
    assert (len(dataset), dataset.class_count) == (10_000, 10)
    labels = [dataset.label(index) for index in range(10_000)]
    assert np.bincount(labels).tolist() == [1000] * 10
    for index in range(0, 10_000, 500):
        assert dataset.image(index).shape == SHAPE
