"""The registry: what a kind declares is all that the settings and the opening know of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from srs_ray.data import KINDS, open_data, registry
from srs_ray.data.kind import Kind
from srs_ray.data.settings import DataSettings
from srs_ray.errors import DataError


class Plain:
    """A data set of two gray images."""

    class_count = 2

    @property
    def identity(self):
        return {"kind": "plain"}

    def __len__(self):
        return 2

    def label(self, index):
        return index

    def image(self, index):
        return torch.zeros(2, 4, 4)

    def name(self, index):
        return f"plain {index}"


@pytest.fixture
def plain(monkeypatch):
    """A new kind, by nothing but its declaration and its entry; gives what its opener was called with."""
    calls = []

    def open_plain(section, input_shape, class_count, download):
        calls.append((str(kind.path_of(section)), kind.split_of(section), input_shape, class_count, download))
        return Plain()

    kind = Kind(
        "plain",
        open_plain,
        takes=("split",),
        splits=("left", "right"),
        default_split="right",
        channels=(2,),
        downloads=True,
    )
    monkeypatch.setitem(registry.KINDS, "plain", kind)
    return calls


def test_a_new_kind_is_its_declaration_and_one_entry(plain):
    section = DataSettings(kind="plain", path="somewhere")
    assert len(open_data(section, (2, 4, 4), 2, download=True)) == 2
    open_data(DataSettings(kind="plain", path="somewhere", split="left"), (2, 4, 4))
    assert plain == [
        ("somewhere", "right", (2, 4, 4), 2, True),
        ("somewhere", "left", (2, 4, 4), None, False),
    ]


def test_what_a_new_kind_declares_is_what_it_is_refused_for(plain):
    with pytest.raises(ValueError, match="data of kind plain needs a path"):
        DataSettings(kind="plain")
    with pytest.raises(DataError, match="split is 'up', but plain has left and right"):
        open_data(DataSettings(kind="plain", path="x", split="up"), (2, 4, 4))
    with pytest.raises(DataError, match="takes 3 channels: images of kind plain can be given to models with 2"):
        open_data(DataSettings(kind="plain", path="x"), (3, 4, 4))
    with pytest.raises(DataError, match="digits cannot be downloaded, only cifar10 and plain can"):
        open_data(DataSettings(kind="digits"), (3, 32, 32), download=True)
    assert plain == []


def test_every_kind_is_found_under_its_own_name():
    assert [kind.name for kind in KINDS.values()] == list(KINDS)
    assert list(KINDS) == ["cifar10", "imagenet", "imagefolder", "parquet", "digits", "import"]


def test_the_home_of_a_path_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=f"no folder {tmp_path}/images"):
        open_data(DataSettings(kind="imagefolder", path="~/images"), (3, 32, 32))


def test_no_kinds_library_is_loaded_before_the_kind_is_used():
    check = (
        "import sys, srs_ray.data, srs_ray.data.settings;"
        "print([m for m in ('torchvision', 'sklearn', 'pyarrow', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
