"""Folders of images: order and labels come from the names, identity from names, sizes and some of the bytes."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from srs_ray.data import open_data, open_dataset
from srs_ray.data.folders import FILES_READ
from srs_ray.data.settings import DataSettings
from srs_ray.errors import DataError, PointError

SHAPE = (3, 32, 32)
SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample"
ANIMALS = ("cat/b.png", "cat/a.png", "dog/deep/c.png", "dog/a.png", "ant/z.png")


@pytest.fixture
def animals(tmp_path, picture):
    def make(name: str) -> Path:
        root = tmp_path / name
        for seed, file in enumerate(ANIMALS):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            picture(seed=seed).save(root / file)
        return root

    return make


@pytest.fixture(scope="module")
def imagenet_like(tmp_path_factory):
    """1,000 class folders of one file each: opening reads names only, so the files are empty."""
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(1000):
        folder = root / "val" / f"n{number * 7:08d}"
        folder.mkdir(parents=True)
        (folder / "a.JPEG").touch()
    return root


def names(dataset):
    return [dataset.name(index) for index in range(len(dataset))]


def listing(order):
    """os.scandir as a file system would have it that lists its entries in that order."""
    scandir = os.scandir

    class Listing:
        def __init__(self, path="."):
            with scandir(path) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=order == "falling"))

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.entries)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    return Listing


def test_points_are_ordered_by_class_then_file_and_labelled_by_sorted_class(animals, picture, encoded):
    dataset = open_dataset("imagefolder", animals("animals"), None, SHAPE)
    in_order = ["ant/z.png", "cat/a.png", "cat/b.png", "dog/a.png", "dog/deep/c.png"]
    assert names(dataset) == [f"animals/{name}" for name in in_order]
    assert [dataset.label(index) for index in range(5)] == [0, 1, 1, 2, 2]
    assert dataset.class_count == 3
    assert dataset.image(1).shape == SHAPE
    assert not dataset.image(1).equal(dataset.image(2))


def test_the_order_does_not_depend_on_how_the_file_system_lists_files(animals, monkeypatch):
    root = animals("animals")
    found = []
    for order in ("rising", "falling"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", listing(order))
            dataset = open_dataset("imagefolder", root, None, SHAPE)
        found.append((names(dataset), dataset.identity))
    assert found[0] == found[1]


def test_identity_is_the_same_at_another_path(animals):
    here, there = (open_dataset("imagefolder", animals(name), None, SHAPE) for name in ("here", "there"))
    assert here.identity == there.identity
    assert not any("here" in str(value) for value in here.identity.values())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: shutil.copy(root / "cat/a.png", root / "cat/new.png"), id="a file is added"),
        pytest.param(lambda root: (root / "cat/a.png").unlink(), id="a file is removed"),
        pytest.param(lambda root: (root / "cat/a.png").rename(root / "cat/aa.png"), id="a file is renamed"),
        pytest.param(lambda root: (root / "cat/a.png").rename(root / "dog/0.png"), id="a file changes its class"),
        pytest.param(lambda root: (root / "cat").rename(root / "cow"), id="a class is renamed"),
    ],
)
def test_identity_differs_when(animals, change):
    root = animals("animals")
    before = open_dataset("imagefolder", root, None, SHAPE).identity
    change(root)
    assert open_dataset("imagefolder", root, None, SHAPE).identity != before


def test_identity_differs_by_split_and_input(animals):
    root = animals("data/test").parent
    animals("data/train")
    identities = [
        open_dataset("imagefolder", root, "test", SHAPE).identity,
        open_dataset("imagefolder", root, "train", SHAPE).identity,
        open_dataset("imagefolder", root, "test", (1, 32, 32)).identity,
        open_dataset("imagefolder", root, "test", (3, 224, 224)).identity,
    ]
    assert len({str(identity) for identity in identities}) == 4


def test_a_split_that_is_not_there_is_refused_rather_than_read_as_classes(animals):
    root = animals("data/test").parent
    with pytest.raises(DataError, match=r"no folder .*tset.*leave split out"):
        open_dataset("imagefolder", root, "tset", SHAPE)


def test_folders_that_look_like_splits_are_not_taken_for_classes(animals, picture):
    root = animals("data/train").parent
    animals("data/val")
    with pytest.raises(
        DataError, match=r"train, val hold no image .*same folders \(ant, cat, dog\).* by data\.split, .*data\.classes"
    ):
        open_dataset("imagefolder", root, None, SHAPE)
    assert open_dataset("imagefolder", root, "train", SHAPE).class_names == ("ant", "cat", "dog")
    section = DataSettings(kind="imagefolder", path=str(root), classes=["train", "val"])
    assert open_data(section, SHAPE, 2).class_names == ("train", "val")
    picture().save(root / "val" / "a.png")
    assert open_dataset("imagefolder", root, None, SHAPE).class_count == 2


def test_classes_that_hold_one_folder_each_or_different_ones_are_classes(tmp_path, picture):
    for file in ("cat/images/a.png", "dog/images/b.png"):
        (tmp_path / file).parent.mkdir(parents=True)
        picture().save(tmp_path / file)
    assert open_dataset("imagefolder", tmp_path, None, SHAPE).class_names == ("cat", "dog")
    (tmp_path / "cat" / "indoors").mkdir()
    picture().save(tmp_path / "cat" / "indoors" / "c.png")
    assert open_dataset("imagefolder", tmp_path, None, SHAPE).class_names == ("cat", "dog")


def test_a_class_without_images_is_refused_by_name(animals):
    root = animals("animals")
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        open_dataset("imagefolder", root, None, SHAPE)


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match="one folder of images per class"):
        open_dataset("imagefolder", tmp_path, None, SHAPE)


def test_a_bad_file_fails_its_point_alone(animals, picture):
    root = animals("animals")
    (root / "ant/z.png").write_bytes(b"")
    (root / "cat/a.png").write_text("a text with the name of an image")
    picture(40, 32).save(root / "dog/a.png")
    dataset = open_dataset("imagefolder", root, None, SHAPE)
    (root / "dog/deep/c.png").unlink()
    for index, reason in [
        (0, r"^animals/ant/z\.png: the image is empty"),
        (1, r"^animals/cat/a\.png: not readable as an image"),
        (3, r"^animals/dog/a\.png: is 40x32, the model takes 32x32$"),
        (4, r"^animals/dog/deep/c\.png: cannot be read \(No such file or directory\)$"),
    ]:
        with pytest.raises(PointError, match=reason):
            dataset.image(index)
        assert dataset.label(index) in range(3)
    assert dataset.image(2).shape == SHAPE


def test_imagenet_is_found_under_its_split_and_at_the_path_itself(imagenet_like):
    below = open_dataset("imagenet", imagenet_like, None, (3, 224, 224), class_count=1000)
    itself = open_dataset("imagenet", imagenet_like / "val", None, (3, 224, 224), class_count=1000)
    assert below.identity == itself.identity
    assert [below.label(index) for index in range(1000)] == list(range(1000))
    assert below.name(999) == "val/n00006993/a.JPEG"


def test_imagenet_with_a_folder_too_few_or_a_stranger_says_what_was_found(tmp_path, imagenet_like):
    root = shutil.copytree(imagenet_like / "val", tmp_path / "val")
    (root / "n00000000").rename(root / "devkit")
    with pytest.raises(DataError, match=r"1000 folders, 1 named otherwise, such as 'devkit'; expected 1,000"):
        open_dataset("imagenet", root, "val", (3, 224, 224))
    shutil.rmtree(root / "devkit")
    with pytest.raises(DataError, match="holds 999 folders; expected 1,000"):
        open_dataset("imagenet", root, "val", (3, 224, 224))
    with pytest.raises(DataError, match="no ImageNet at"):
        open_dataset("imagenet", tmp_path / "nowhere", None, (3, 224, 224))


def test_imagenet_leaves_out_what_image_folders_leave_out(tmp_path, imagenet_like, caplog):
    root = shutil.copytree(imagenet_like / "val", tmp_path / "val")
    before = open_dataset("imagenet", root, None, (3, 224, 224)).identity
    for folder in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "n00000000/@eaDir"):
        (root / folder).mkdir()
        (root / folder / "a.JPEG").touch()
    (root / "itself").symlink_to("itself")
    (root / "loop").symlink_to(".")
    assert open_dataset("imagenet", root, None, (3, 224, 224)).identity == before
    assert "left out 5 " in caplog.text


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the ImageNet sample is not there")
def test_the_real_imagenet_sample_opens_and_decodes():
    dataset = open_dataset("imagenet", SAMPLE, None, (3, 224, 224), class_count=1000)
    assert len(dataset) == 1000
    assert dataset.name(0) == "imagenet-sample/n01440764/n01440764_tench.JPEG"
    for index in range(0, 1000, 100):
        x_CHW = dataset.image(index)
        assert x_CHW.shape == (3, 224, 224)
        assert 0 <= x_CHW.min() < x_CHW.max() <= 1
        assert dataset.label(index) == index


def test_identity_holds_a_digest_of_sizes_and_of_evenly_spaced_files(tmp_path):
    for index in range(2 * FILES_READ):
        (tmp_path / f"class-{index % 2}").mkdir(exist_ok=True)
        (tmp_path / f"class-{index % 2}" / f"{index:04}.png").write_bytes(bytes(10))

    def sample() -> str:
        return open_dataset("imagefolder", tmp_path, None, SHAPE).identity["sample"]

    before = sample()
    (tmp_path / "class-0" / "0000.png").write_bytes(b"other byte")  # the first file is read
    assert sample() != before
    (tmp_path / "class-0" / "0000.png").write_bytes(bytes(10))
    assert sample() == before
    (tmp_path / "class-0" / "0002.png").write_bytes(b"other byte")  # the second is not, but its size is looked at
    assert sample() == before
    (tmp_path / "class-0" / "0002.png").write_bytes(bytes(11))
    assert sample() != before


HIDDEN = ["cat/.ipynb_checkpoints/a.png", "cat/@eaDir/a.png/THUMB.png", "cat/._a.png", "dog/deep/.hidden/c.png"]
HIDDEN += [".ipynb_checkpoints/a.png", "__MACOSX/cat/a.png", ".trash/b.png", "cat/Thumbs.db", "dog/.DS_Store"]
HIDDEN += ["#recycle/a.png", "cat/lost+found/a.png"]


def test_hidden_and_machine_made_entries_are_left_out_at_every_depth(animals, picture, caplog):
    root = animals("animals")
    before = open_dataset("imagefolder", root, None, SHAPE)
    assert caplog.text == ""
    for file in HIDDEN:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=9).save(root / file, "PNG")
    after = open_dataset("imagefolder", root, None, SHAPE)
    assert names(after) == names(before)
    assert after.identity == before.identity
    assert "left out 9 hidden or machine-made entries, pipes, devices or links" in caplog.text
    assert "such as '#recycle'" in caplog.text


def test_links_are_followed_but_for_those_that_loop(animals, caplog):
    root = animals("animals")
    before = names(open_dataset("imagefolder", root, None, SHAPE))
    (root / "cat" / "again").symlink_to("../cat")
    (root / "dog" / "deep" / "up").symlink_to("../..")
    (root / "self").symlink_to(".")
    (root / "cat" / "itself").symlink_to("itself")
    assert names(open_dataset("imagefolder", root, None, SHAPE)) == before
    assert "left out 3" in caplog.text
    (root / "elsewhere").symlink_to("cat")
    assert "animals/elsewhere/a.png" in names(open_dataset("imagefolder", root, None, SHAPE))


def test_pipes_sockets_and_devices_are_left_out_and_never_read(animals, caplog):
    root = animals("animals")
    before = names(open_dataset("imagefolder", root, None, SHAPE))
    os.mkfifo(root / "cat" / "aa.png")
    (root / "dog" / "null.png").symlink_to(os.devnull)
    os.mknod(root / "ant" / "s.png", stat.S_IFSOCK)
    dataset = open_dataset("imagefolder", root, None, SHAPE)
    assert names(dataset) == before
    assert len(dataset.identity["sample"]) == 64
    assert "left out 3 " in caplog.text
    (root / "cat" / "zz.png").symlink_to("gone.png")
    assert "animals/cat/zz.png" in names(open_dataset("imagefolder", root, None, SHAPE))


def test_folders_inside_a_class_are_ordered_as_torchvision_orders_them(tmp_path, picture):
    for file in ("a/b/1.png", "a/b-c/2.png", "a/b/d/3.png", "a/4.png", "a/b.png", "B/x.JPG", "a/z.PNG", "a/notes.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / file, "PNG")
    theirs = [os.path.relpath(file, tmp_path.parent) for file, _ in ImageFolder(str(tmp_path)).samples]
    assert names(open_dataset("imagefolder", tmp_path, None, SHAPE)) == theirs


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (["cat", "dog", "ant"], "there are ant, cat, dog"),
        ([f"n{number:08}" for number in range(30)] + ["backup"], "unlike the others: backup"),
    ],
)
def test_the_message_of_too_many_classes_names_what_may_be_none(tmp_path, folders, named):
    for folder in folders:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    with pytest.raises(DataError, match=rf"{len(folders)} classes.*remove the folder that is no class \({named}\)"):
        open_dataset("imagefolder", tmp_path, None, SHAPE, class_count=len(folders) - 1)


def test_an_image_path_that_is_too_long_for_the_system_is_no_folder(tmp_path):
    for kind in ("imagefolder", "imagenet", "parquet"):
        with pytest.raises(DataError, match=r"^no "):
            open_dataset(kind, tmp_path / ("x" * 300), None, SHAPE)


def test_numbers_whose_order_as_text_is_another_are_refused_with_the_remedy(tmp_path):
    for number in range(1, 11):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.png").touch()
    with pytest.raises(DataError, match=r"sorted as text 10 comes where 2 comes.*data\.classes.*\[1, 2, 3, \.\.\.\]"):
        open_dataset("imagefolder", tmp_path, None, SHAPE)
    in_order = [str(number) for number in range(1, 11)]
    section = DataSettings(kind="imagefolder", path=str(tmp_path), classes=in_order)
    dataset = open_data(section, SHAPE, 10)
    by_name = {dataset.name(index).split("/")[1]: dataset.label(index) for index in range(10)}
    assert by_name == {name: label for label, name in enumerate(in_order)}
    assert dataset.class_names == tuple(in_order)
    (tmp_path / "10").rename(tmp_path / "0")
    assert open_dataset("imagefolder", tmp_path, None, SHAPE).label(9) == 9


def test_classes_of_the_job_are_those_of_the_folder_or_refused(animals):
    root = animals("animals")
    section = DataSettings(kind="imagefolder", path=str(root), classes=["dog", "cat", "ant"])
    dataset = open_data(section, SHAPE, 3)
    assert [dataset.label(index) for index in range(5)] == [2, 1, 1, 0, 0]
    assert dataset.identity != open_dataset("imagefolder", root, None, SHAPE).identity
    section = DataSettings(kind="imagefolder", path=str(root), classes=["dog", "cow", "ant"])
    with pytest.raises(DataError, match="holds no 'cow' and also 'cat'"):
        open_data(section, SHAPE, 3)
