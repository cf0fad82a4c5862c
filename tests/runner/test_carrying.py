"""Objects of the user's code on another node: a fresh interpreter, without the user's files on its path."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

import srs_ray
from srs_ray.errors import JobError
from srs_ray.models.user_code import Built, Import, build
from srs_ray.models.user_files import forget
from srs_ray.runner.carrying import Carried, carry

PROGRAM = str(Path(srs_ray.__file__).resolve().parent.parent)
WORKER = """
import pickle, sys
from srs_ray.errors import SrsRayError
carried = pickle.load(open(sys.argv[1], "rb"))
try:
    values = [each.open() for each in carried]
except SrsRayError as error:
    sys.exit(f"{type(error).__name__}: {error}")
value = values[-1]
"""

Write = Callable[[str, str], Path]
OnNode = Callable[..., str]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    forget()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        file = tmp_path / "code" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    return write


@pytest.fixture
def on_node(tmp_path: Path) -> OnNode:
    """What a script prints in an interpreter of its own, in which `value` is the last of the carried objects."""

    def run(*carried: Carried, script: str, path: tuple[Path, ...] = ()) -> str:
        (tmp_path / "node").mkdir(exist_ok=True)
        (tmp_path / "node" / "carried").write_bytes(pickle.dumps(carried))
        (tmp_path / "node" / "run.py").write_text(WORKER + textwrap.dedent(script))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([PROGRAM, *map(str, path)])}
        command = [sys.executable, "run.py", "carried"]
        done = subprocess.run(command, cwd=tmp_path / "node", env=environment, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip()

    return run


def built(file: object, name: str = "make", **args: Any) -> Built:
    return build(Import.parse(f"{file}:{name}"), args, JobError)


def carried(thing: Built, packages: Mapping[str, str] | None = None) -> Carried:
    return carry(thing.value, [thing], packages or {})


def test_a_model_runs_where_its_files_are_not(write, on_node, tmp_path):
    text = """
    import functools
    import torch
    import blocks
    from pkg.parts import Scale

    @functools.lru_cache(maxsize=3)
    def offset(n):
        return n + blocks.STATE["offset"]

    class Net(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, width), Scale(3.0), torch.nn.ReLU())

        @functools.cached_property
        def one(self):
            return 1

        @functools.lru_cache
        def more(self, n):
            return n + self.one

        def forward(self, x):
            import late
            from pkg import deep
            assert type(self.layers[1]) is deep.again().Scale
            return self.layers(x) + offset(1) * self.more(0) + late.two() + deep.ZERO

    def make(width):
        blocks.STATE["offset"] = 5
        return Net(width)
    """
    file = write("net.py", text)
    write("blocks.py", "STATE = {}")
    write("late.py", "import blocks\ndef two():\n    return 2 * (blocks.STATE['offset'] == 5)")
    write("pkg/deep.py", "ZERO = 0\ndef again():\n    from . import parts\n    return parts")  # pkg has no __init__.py
    write(
        "pkg/parts.py",
        "import torch\nclass Scale(torch.nn.Module):\n    def __init__(self, by):\n        super().__init__()\n"
        "        self.by = by\n    def forward(self, x):\n        return self.by * x",
    )
    net = built(file, width=3)
    x = torch.arange(8.0).reshape(2, 4)
    expected = net.value(x)  # the trial that loads what is imported late
    sent = carried(net)
    (tmp_path / "code").rename(tmp_path / "elsewhere")
    script = """
    import copy, torch
    print(copy.deepcopy(value)(torch.arange(8.0).reshape(2, 4)).tolist())
    """
    assert on_node(sent, script=script) == str(expected.tolist())
    assert torch.equal(sent.open()(x), expected)  # in the driver's own process
    assert torch.equal(net.value(x), expected)


def test_a_failure_on_a_node_is_told_with_the_place_in_the_file(write, on_node):
    net = built(write("net.py", "def make():\n    def forward():\n        return 1 / 0\n    return forward"))
    script = f"""
    from srs_ray.models.user_code import describe_failure
    try:
        value()
    except ZeroDivisionError as error:
        print(describe_failure(error, [{str(net.root)!r}]))
    """
    told = on_node(carried(net), script=script)
    assert told == "ZeroDivisionError: division by zero (net.py, line 3, in make.<locals>.forward)"


def test_two_objects_of_one_folder_share_its_modules_on_a_node(write, on_node):
    write("shared.py", "class Box:\n    pass\nFIRST = []")
    one = built(write("one.py", "import shared\ndef make():\n    return shared.Box()"))
    two = built(
        write("two.py", "def make():\n    def use():\n        import shared\n        return shared\n    return use")
    )
    two.value()
    script = """
    import shared
    print(value() is shared, isinstance(values[0], shared.Box))
    """
    assert on_node(carried(one), carried(two), script=script) == "True True"


def test_a_process_that_had_an_older_file_gets_the_edited_one(write, on_node):
    text = "def make():\n    def use():\n        import part\n        return part.NUMBER\n    return use"
    sent = []
    for number in (1, 2):
        write("part.py", f"NUMBER = {number}")
        net = built(write("net.py", text))
        assert net.value() == number
        sent.append(carried(net))
    assert on_node(*sent, script="print(value())") == "2"


def test_what_was_opened_anew_since_is_not_sent(write):
    net = built(write("net.py", "def make(): return make"))
    built(write("net.py", "def make(): return 2"))
    with pytest.raises(JobError, match=r"net\.py:make is of files that were opened anew.*build it again"):
        carried(net)


def test_a_global_that_cannot_be_pickled_stays_behind_and_is_missed_by_name(write, on_node):
    write("part.py", "import threading\nLOCK = threading.Lock()\nNUMBER = 3")
    text = """
    def make():
        def use(name):
            if name == "LOCK":
                from part import LOCK
            import part
            return getattr(part, name)
        return use
    """
    net = built(write("net.py", text))
    net.value("NUMBER")
    assert on_node(carried(net), script="print(value('NUMBER'))") == "3"
    told = on_node(carried(net), script="value('LOCK')")
    assert "ImportError: LOCK of part did not come along from the driver: cannot pickle '_thread.lock' object" in told


def test_an_object_that_cannot_be_pickled_is_named_with_its_part(write):
    text = """
    import threading, torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(2, 2)
            self.encoder.guard = threading.Lock()
    """
    net = built(write("net.py", text), "Net")
    with pytest.raises(JobError) as error:
        carried(net)
    message = str(error.value)
    assert message.startswith("net.py:Net cannot be sent to workers (for its _modules.encoder.guard): cannot pickle")
    assert "--no-ray" in message


def test_a_package_that_a_node_lacks_or_has_otherwise_is_named(write, on_node, tmp_path, monkeypatch):
    def installed(version: str) -> Path:
        site = tmp_path / version
        info = site / f"fakelib-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fakelib\nVersion: {version}\n")
        (site / "fakelib.py").write_text(f"class Net:\n    version = {version!r}\n")
        return site

    monkeypatch.syspath_prepend(installed("1.0.3"))
    net = built(write("net.py", "import fakelib\ndef make(): return fakelib.Net()"))
    sent = carried(net, {"fakelib": "1.0.3"})
    show = "print(value.version)"
    assert on_node(sent, script=show, path=(tmp_path / "1.0.3",)) == "1.0.3"
    host = os.uname().nodename
    missing = on_node(sent, script=show)
    needs = f"JobError: {host}: net.py:make needs the package fakelib 1.0.3"
    assert missing == f"{needs}, which is not installed on this node: install it there"
    other = on_node(sent, script=show, path=(installed("1.0.9"),))
    assert other == f"{needs}, as the driver has it, but this node has 1.0.9: install fakelib 1.0.3 there"
    unnamed = on_node(carried(net), script=show)
    assert unnamed.startswith(f"JobError: {host}: net.py:make cannot be opened on this node: ModuleNotFoundError: ")
    del sys.modules["fakelib"]


def test_a_name_that_another_module_has_on_a_node_is_refused(write, on_node, tmp_path):
    write("part.py", "")
    sent = carried(built(write("net.py", "import part\ndef make(): return make")))
    script = tmp_path / "taken"
    script.mkdir()
    (script / "part.py").write_text("")
    (script / "sitecustomize.py").write_text("import part")
    told = on_node(sent, script="", path=(script,))
    assert "net.py:make: the name of its module part is taken by <module 'part' from" in told


def test_an_installed_model_needs_nothing_of_ours(on_node):
    thing = build(Import.parse("fractions:Fraction"), {"numerator": 1, "denominator": 2}, JobError)
    assert on_node(carried(thing), script="print(value)") == "1/2"


def test_a_worker_of_a_real_ray_gets_the_object(write, cluster):
    write("part.py", "N = 2")
    write("late.py", "N = 3")
    text = """
    import part
    class Data:
        def __len__(self):
            import late
            return part.N + late.N
    """
    data = built(write("data.py", text), "Data")
    assert len(data.value) == 5
    sent = carried(data)
    write("late.py", "N = 30")

    def length(sent: Carried) -> int:
        return len(sent.open())

    ray.init(address=cluster)
    try:
        assert ray.get(ray.remote(length).remote(sent)) == 5
    finally:
        ray.shutdown()
