"""A data set from the user's own file: its items are points, and whatever is wrong with one of them is said of it."""

from __future__ import annotations

import hashlib
import textwrap

import pytest
import torch

from srs_ray.data import load_all, open_data
from srs_ray.data.imported import ImportedData
from srs_ray.data.settings import DataSettings
from srs_ray.errors import DataError, PointError
from srs_ray.models.user_code import Import, build

SHAPE = (3, 8, 6)
PATCHES = """
    import numpy as np
    import torch
    from PIL import Image

    class Patches:
        def __init__(self, count=40, brightness=1, **rest):
            self.count, self.brightness = count, brightness

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            image = np.random.default_rng(index).integers(0, 256, (8, 6, 3)) * self.brightness
            return image.astype(np.uint8), index % 4
"""


@pytest.fixture
def code(tmp_path):
    """Writes the user's file: the class above, and classes after it that are given as text."""

    def write(more: str = "", name: str = "my_data.py", folder: str = "code"):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / name
        path.write_text(textwrap.dedent(PATCHES) + textwrap.dedent(more))
        return path

    return write


@pytest.fixture
def opened(code):
    """Opens a class of the user's file by a job's section; `more` is text after the class `Patches`."""

    def open_(name="Patches", more="", shape=SHAPE, class_count=4, path=None, **section):
        path = code(more) if path is None else path
        return open_data(DataSettings.model_validate({"import": f"{path}:{name}", **section}), shape, class_count)

    return open_


def test_items_are_points_with_their_labels(opened):
    dataset = opened(args={"count": 5})
    x_NCHW, y_N = load_all(dataset)
    assert x_NCHW.shape == (5, *SHAPE)
    assert y_N.tolist() == [0, 1, 2, 3, 0]
    assert (len(dataset), dataset.class_count, dataset.name(3)) == (5, 4, "item 3 of my_data.py:Patches")
    assert len({x_CHW.sum().item() for x_CHW in x_NCHW}) == 5


def test_the_same_image_of_every_library_is_the_same_input(opened):
    more = """
    class EveryLibrary(Patches):
        def __getitem__(self, index):
            image, label = super().__getitem__(0)
            tensor = torch.from_numpy(image).permute(2, 0, 1)
            return [image, tensor, Image.fromarray(image), tensor / 255, image / np.float32(255)][index], label
    """
    dataset = opened("EveryLibrary", more, args={"count": 5})
    assert all(torch.equal(dataset.image(index), dataset.image(0)) for index in range(5))


def test_any_number_of_channels_will_do(opened):
    more = """
    class Bands(Patches):
        def __getitem__(self, index):
            return torch.full((13, 8, 6), index / 100), index % 4
    """
    dataset = opened("Bands", more, shape=(13, 8, 6))
    assert torch.equal(dataset.image(7), torch.full((13, 8, 6), 0.07))
    assert dataset.identity["preprocessing"] == "13 channels, exactly 6x8"


def test_an_item_is_read_once_for_its_label_and_its_image(opened):
    more = """
    class Counting(Patches):
        reads = []
        def __getitem__(self, index):
            self.reads.append(index)
            return super().__getitem__(index)
    """
    dataset = opened("Counting", more)
    for index in (3, 4):
        dataset.label(index)
        dataset.image(index).zero_()
        assert dataset.image(index).max() > 0
    assert dataset.built.value.reads == [3, 4]


def test_what_an_item_raises_fails_its_point_alone_with_file_and_line(opened):
    more = """
    class Broken(Patches):
        def __getitem__(self, index):
            if index == 3:
                return {}[index]  # the line
            if index == 4:
                raise StopIteration
            return super().__getitem__(index)
    """
    dataset = opened("Broken", more)
    line = 1 + (textwrap.dedent(PATCHES) + textwrap.dedent(more)).splitlines().index(
        "            return {}[index]  # the line"
    )
    for ask in (dataset.label, dataset.image):
        expected = (
            rf"^item 3 of my_data\.py:Broken: KeyError: 3 \(my_data\.py, line {line}, in (Broken\.)?__getitem__\)$"
        )
        with pytest.raises(PointError, match=expected):
            ask(3)
        with pytest.raises(PointError, match=r"^item 4 of my_data\.py:Broken: StopIteration"):
            ask(4)
    assert dataset.label(5) == 1


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ("{'image': 1, 'label': 2}", "is a dict, expected the pair"),
        ("(image, label, 0)", "is a tuple of 3, expected the pair"),
        ("torch.zeros(2, 3)", "is a Tensor, expected the pair"),
        ("None", "is a NoneType, expected the pair"),
        ("(None, label)", "the image is a NoneType"),
        ("(image / 1.0, label)", "expected 0 to 1: divide by 255"),
        ("(image[:4], label)", r"has the shape \(4, 6, 3\), the model takes \(3, 8, 6\), or \(8, 6, 3\)"),
        ("(Image.new('RGB', (9, 9)), label)", "is 9x9, the model takes 6x8"),
        ("(image, None)", "label is None"),
        ("(image, True)", "label is True"),
        ("(image, 1.0)", r"label is 1\.0"),
        ("(image, 4)", "label is 4, expected 0 to 3"),
        ("(image, -1)", "label is -1, expected 0 to 3"),
    ],
)
def test_an_item_that_is_no_image_with_a_label_fails_its_point(opened, item, found):
    more = f"""
    class Odd(Patches):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return {item}
    """
    dataset = opened("Odd", more)
    with pytest.raises(PointError, match=rf"^item 2 of my_data\.py:Odd: .*{found}"):
        assert dataset.label(2) == dataset.image(2)


def test_an_item_beyond_the_length_is_an_index_error(opened):
    dataset = opened(args={"count": 5})
    for index in (-1, 5):
        with pytest.raises(IndexError, match=f"item {index} of 5"):
            dataset.label(index)


@pytest.mark.parametrize("attribute", ["class_names", "classes"])
def test_the_objects_class_names_say_how_many_there_are(opened, attribute):
    more = f"""
    class Named(Patches):
        {attribute} = ["cat", "dog"]
    class Renamed(Patches):
        {attribute} = ["dog", "cat"]
    class Other(Patches):
        {attribute} = 17
    """
    named, renamed = (opened(name, more, class_count=2) for name in ("Named", "Renamed"))
    assert (named.class_names, named.class_count) == (("cat", "dog"), 2)
    assert named.identity["classes"] != renamed.identity["classes"]
    with pytest.raises(PointError, match="label is 3, expected 0 to 1"):
        named.label(3)
    with pytest.raises(DataError, match=r"my_data\.py:Named data has 2 classes, the model tells 4 apart"):
        opened("Named", more)
    assert (opened("Other", more).class_names, opened("Other", more).class_count) == (None, 4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("__len__ = None", "has no length: TypeError"),
        (
            "def __len__(self): raise RuntimeError('no disk')",
            r"has no length: RuntimeError: no disk \(my_data\.py, line",
        ),
        ("def __len__(self): return 0", "has no items"),
        ("@property\n        def identity(self): raise OSError('gone')", r"identity of .*Wrong: OSError: gone"),
        ("identity = 3", "identity of my_data.py:Wrong is 3: expected text, or a mapping"),
        ("identity = {'a': [1]}", "expected text, or a mapping"),
        ("identity = {'a': float('nan')}", "expected text, or a mapping"),
        ("def identity(self): return 'a'", "expected text, or a mapping"),
    ],
)
def test_an_object_that_is_no_data_set_is_refused_with_what_is_wrong(opened, body, message):
    with pytest.raises(DataError, match=message):
        _ = opened("Wrong", f"\n    class Wrong(Patches):\n        {body}\n").identity


def test_an_object_without_length_or_items_is_refused(opened):
    with pytest.raises(DataError, match=r"gives a Empty without __len__ and __getitem__: expected an object"):
        opened("Empty", "\n    class Empty: pass\n")


def test_without_a_model_the_object_must_name_its_classes(opened):
    with pytest.raises(DataError, match="does not say its classes: give it class_names"):
        opened(class_count=None)


def test_an_object_that_cannot_be_built_is_a_data_error(opened):
    with pytest.raises(DataError, match=r"my_data\.py.*Nothing"):
        opened("Nothing")


def test_identity_names_import_code_arguments_and_length(opened, code):
    args = {"count": 20, "root": "/data", "crop": {"size": 64, "centre": True}, "bands": [1, 2], "none": None}
    identity = opened(args=args).identity
    assert identity == {
        "kind": "import",
        "import": "my_data.py:Patches",
        "code.my_data.py": hashlib.sha256(code().read_bytes()).hexdigest(),
        "points": 20,
        "preprocessing": "RGB, exactly 6x8",
        "args.count": 20,
        "args.root": "/data",
        "args.crop.size": 64,
        "args.crop.centre": True,
        "args.bands": [1, 2],
        "args.none": None,
        "content": identity["content"],
    }


def test_identity_follows_items_and_not_the_place_of_the_code_or_the_points_asked_for(opened, code):
    here = opened().identity
    assert opened(start=3, stop=30, every=5).identity == here
    assert opened(path=code(folder="elsewhere")).identity == here
    dimmer = opened(args={"brightness": 0.5}).identity
    assert dimmer["content"] != here["content"]
    assert opened(args={"count": 39}).identity["content"] != here["content"]
    assert opened(shape=(3, 6, 8)).identity["content"] != here["content"]


def test_identity_is_over_sixteen_items_evenly_spaced_and_takes_one_that_raises(opened):
    more = """
    class Probed(Patches):
        def __init__(self, wrong=None, error="KeyError", **args):
            super().__init__(**args)
            self.wrong, self.error, self.asked = wrong, error, set()
        def __getitem__(self, index):
            self.asked.add(index)
            if index == self.wrong:
                raise {"KeyError": KeyError, "OSError": OSError}[self.error]
            return super().__getitem__(index)
    """

    def content(**args):
        dataset = opened("Probed", more, args=args)
        return dataset.identity["content"], dataset.built.value.asked

    whole, asked = content(count=160)
    assert asked == set(range(0, 160, 10))
    assert content(count=3)[1] == {0, 1, 2}
    contents = {whole, content(count=160, wrong=10)[0], content(count=160, wrong=10, error="OSError")[0]}
    assert len(contents) == 3
    assert content(count=160, wrong=11)[0] == whole


@pytest.mark.parametrize(
    ("own", "entries"),
    [
        ("'release 3'", {"identity": "release 3"}),
        ("{'release': 3, 'sha': 'ab'}", {"identity.release": 3, "identity.sha": "ab"}),
    ],
)
def test_an_identity_of_the_objects_own_stands_for_its_arguments_and_items(opened, own, entries):
    more = f"""
    class Released(Patches):
        identity = {own}
        def __getitem__(self, index):
            raise RuntimeError("an identity of one's own reads nothing")
    """
    here, moved = (opened("Released", more, args={"root": root}).identity for root in ("/data", "/elsewhere"))
    assert here == moved
    assert entries.items() <= here.items()
    assert not any(name.startswith(("args", "content")) for name in here)
    assert {"kind", "import", "code.my_data.py", "points"} <= here.keys()


def test_items_that_change_from_one_reading_to_the_next_are_refused(opened):
    more = """
    class Augmented(Patches):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return torch.rand(3, 8, 6), label
    """
    with pytest.raises(DataError, match=r"item 0 of my_data\.py:Augmented is not the same when it is read again"):
        _ = opened("Augmented", more).identity


def test_an_object_that_is_already_built_is_the_same_data_set(opened, code):
    args = {"count": 7}
    built = build(Import.parse(f"{code()}:Patches"), args, DataError)
    carried = ImportedData(built, args, SHAPE, 4)
    dataset = opened(args=args)
    assert carried.identity == dataset.identity
    assert all(torch.equal(carried.image(index), dataset.image(index)) for index in range(7))
