"""The user's own files, imported as a job names them: real files, a real interpreter, no stand-ins."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from srs_ray.errors import DataError, JobError, WeightsError
from srs_ray.models.user_code import Built, Import, build, describe_failure, distributions_of, loaded_code
from srs_ray.models.user_files import forget

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    forget()
    for name in [name for name in sys.modules if name.startswith("fakelib")]:
        del sys.modules[name]
    assert [folder for folder in sys.path if folder not in path and "site" not in folder] == []
    assert not [name for name in sys.modules if name.startswith("srs_ray_user_") and name not in modules]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    return write


def built(file: object, name: str = "make", **args: Any) -> Built:
    return build(Import.parse(f"{file}:{name}"), args, JobError)


def refusal(file: object, name: str = "make", **args: Any) -> str:
    with pytest.raises(JobError) as error:
        built(file, name, **args)
    return str(error.value)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "place", "name", "label", "is_file"),
    [
        ("my_models.py:resnet110", "my_models.py", "resnet110", "my_models.py:resnet110", True),
        ("sub/dir/my_models.py:Net.build", "sub/dir/my_models.py", "Net.build", "my_models.py:Net.build", True),
        ("~/a b/c.py:x", "~/a b/c.py", "x", "c.py:x", True),
        ("torchvision.models:resnet18", "torchvision.models", "resnet18", "torchvision.models:resnet18", False),
    ],
)
def test_an_import_is_a_file_or_a_module_and_a_name(text, place, name, label, is_file):
    what = Import.parse(text)
    assert (what.place, what.name, what.label, what.is_file) == (place, name, label, is_file)


@pytest.mark.parametrize(
    "text", ["my_models.py", "my_models.py:", ":resnet", "sub/models:net", "a.py:b c", "a.py:x.", "a..b:x", "", 3, None]
)
def test_what_is_no_import_is_refused(text):
    with pytest.raises(ValueError, match=r"expected FILE\.py:NAME or MODULE:NAME.*found "):
        Import.parse(text)


def test_a_file_is_called_with_its_arguments_and_hashed_with_what_it_loads(write, tmp_path):
    file = write(
        "models.py",
        """
        import blocks
        from pkg.parts import scale

        class Net:
            @staticmethod
            def build(depth, width=2):
                import late
                return scale(depth, width) + blocks.ONE + late.TWO
        """,
    )
    write("blocks.py", "from pkg import deep\nONE = deep.ONE")
    write("late.py", "TWO = 2")
    write("unused.py", "THREE = 3")
    write("pkg/__init__.py", "")
    write("pkg/deep.py", "ONE = 1")
    write("pkg/parts.py", "from .deep import ONE\ndef scale(a, b): return a * b * ONE")
    net = built(file, "Net.build", depth=5)
    assert net.value == 13
    assert net.label == "models.py:Net.build"
    names = ["blocks.py", "late.py", "models.py", "pkg/__init__.py", "pkg/deep.py", "pkg/parts.py"]
    assert net.code == {name: sha256(tmp_path / name) for name in names}
    assert {"blocks", "late", "pkg", "pkg.deep", "pkg.parts"} == set(net.modules[1:])
    assert Path(str(sys.modules[net.modules[0]].__file__)) == file
    assert Path(str(net.root)) == tmp_path


def test_an_installed_module_has_no_code(monkeypatch, tmp_path):
    thing = build(Import.parse("fractions:Fraction"), {"numerator": 3, "denominator": 6}, JobError)
    assert (str(thing.value), thing.code, thing.modules, thing.root) == ("1/2", {}, (), None)
    installed(tmp_path / "site", "fakelib", "1.2.3", "def make(): return 5")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert built("fakelib") == Built(5, "fakelib:make", {}, ())


def test_a_module_that_is_importable_but_not_installed_is_hashed_as_a_file_is(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write("homegrown/__init__.py", "")
    write("homegrown/net.py", "from .part import make")
    write("homegrown/part.py", "def make(): return 5")
    net = built("homegrown.net")
    assert net.value == 5
    assert set(net.code) == {"homegrown/__init__.py", "homegrown/net.py", "homegrown/part.py"}
    write("homegrown/part.py", "def make(): return 6")
    assert built("homegrown.net").value == 6


def test_an_edited_line_changes_the_code_and_is_what_runs(write):
    file = write("net.py", "import part\ndef make(): return part.NUMBER")
    write("part.py", "NUMBER = 1")
    for number in (2, 3, 2):  # texts of one length, written within one tick of the clock
        before = built(file)
        write("part.py", f"NUMBER = {number}")
        after = built(file)
        assert after.value == number
        assert {name for name in after.code if after.code[name] != before.code[name]} == {"part.py"}


def test_the_same_holds_in_a_package_without_a_file(write):
    file = write("net.py", "from parts import part\ndef make(): return part.NUMBER")
    for number in (1, 2):
        write("parts/part.py", f"NUMBER = {number}")
        assert built(file).value == number
    write("parts/__init__.py", "")
    forget()
    assert "parts" not in sys.modules
    assert "parts/__init__.py" in built(file).code


def test_moving_the_folder_changes_nothing(write, tmp_path):
    file = write("here/net.py", "import part\ndef make(): return part.NUMBER")
    write("here/part.py", "NUMBER = 1")
    before = built(file)
    (tmp_path / "here").rename(tmp_path / "there")
    after = built(tmp_path / "there" / "net.py")
    assert (after.value, after.label, after.code) == (before.value, before.label, before.code)
    assert str(tmp_path / "there") in str(sys.modules["part"].__file__)


def test_a_file_is_loaded_once_and_each_import_has_only_its_own_code(write, tmp_path):
    write("both.py", "import part\nCALLS = []\ndef make():\n    CALLS.append(1)\n    return CALLS")
    write("part.py", "")
    write("data.py", "def make(): return 0")
    model = built(tmp_path / "both.py")
    assert built(tmp_path / "both.py").value is model.value
    assert set(built(tmp_path / "data.py").code) == {"data.py"}
    assert set(loaded_code(model)) == {"both.py", "part.py"}


def test_what_is_imported_later_counts_once_it_is_loaded(write):
    text = """
    def make():
        def forward():
            import importlib, late
            return late.NUMBER + importlib.import_module("compu" + "ted").NUMBER
        return forward
    """
    net = built(write("net.py", text))
    write("late.py", "NUMBER = 1")
    write("computed.py", "NUMBER = 2")
    assert set(loaded_code(net)) == {"net.py"}
    assert net.value() == 3
    assert set(loaded_code(net)) == {"net.py", "late.py", "computed.py"}
    write("late.py", "NUMBER = 7")
    assert loaded_code(net)["late.py"] == hashlib.sha256(b"NUMBER = 1").hexdigest()


@pytest.mark.parametrize("name", ["random.py", "models.py", "torch.py", "json.py", "my-net 2.py", "__init__.py"])
def test_a_file_may_be_called_as_a_module_is(write, name):
    import json
    import random

    file = write(name, "import random, json\ndef make(): return random.random, json.dumps")
    assert built(file).value == (random.random, json.dumps)
    assert sys.modules["random"] is random
    assert sys.modules["json"] is json


def test_a_file_beside_it_does_not_take_the_place_of_the_standard_library(write, tmp_path):
    write("queue.py", "raise RuntimeError('not the standard library')")
    write("net.py", "def make():\n    import queue, part\n    return queue.Queue")
    write("part.py", "import queue")
    script = "from srs_ray.models.user_code import *; from srs_ray.errors import *; import sys\n"
    script += "print(build(Import.parse(sys.argv[1]), {}, JobError).value.__module__)"
    done = subprocess.run([sys.executable, "-c", script, f"{tmp_path}/net.py:make"], capture_output=True, text=True)
    assert done.stdout.strip() == "queue", done.stderr


def test_an_environment_in_the_folder_is_not_the_users_code(write, tmp_path, monkeypatch):
    installed(tmp_path / "site", "fakelib", "1.2.3", "from fakelib_part import VALUE", fakelib_part="VALUE = 7")
    monkeypatch.syspath_prepend(tmp_path / "site")
    net = built(write("net.py", "import fakelib\ndef make(): return fakelib.VALUE"))
    assert (net.value, set(net.code), len(net.modules)) == (7, {"net.py"}, 1)


def test_two_folders_with_a_module_of_one_name_are_refused(write, tmp_path):
    for folder in ("one", "two"):
        write(f"{folder}/net.py", "from part import NUMBER\ndef make(): return NUMBER")
        write(f"{folder}/part.py", f"NUMBER = '{folder}'")
    assert built(tmp_path / "one/net.py").value == "one"
    message = refusal(tmp_path / "two/net.py")
    assert f"net.py imports part: that is {tmp_path}/two/part.py, but {tmp_path}/one/part.py is loaded" in message
    assert built(tmp_path / "one/net.py").value == "one"
    forget()
    assert built(tmp_path / "two/net.py").value == "two"


def test_the_same_is_refused_where_the_import_is_yet_to_come(write, tmp_path):
    write("one/net.py", "def make():\n    def forward():\n        import part\n    return forward")
    write("one/part.py", "")
    write("two/net.py", "import part\ndef make(): pass")
    write("two/part.py", "")
    built(tmp_path / "one/net.py")
    assert "rename one of them" in refusal(tmp_path / "two/net.py")
    assert "part" not in sys.modules


def test_modules_of_one_name_that_nobody_imports_are_no_matter(write, tmp_path):
    for folder in ("one", "two"):
        write(f"{folder}/net.py", "def make(): return 1")
        write(f"{folder}/train.py", "raise RuntimeError")
    assert built(tmp_path / "one/net.py").modules != built(tmp_path / "two/net.py").modules


def test_a_module_that_only_another_files_folder_has_is_refused(write, tmp_path):
    write("one/net.py", "import part\ndef make(): pass")
    write("one/part.py", "")
    write("two/data.py", "import part\ndef make(): pass")
    built(tmp_path / "one/net.py")
    assert "data.py imports part, which is found only in the folder of another" in refusal(tmp_path / "two/data.py")


def test_a_file_beside_it_that_is_called_as_a_loaded_package_is_refused(write):
    import pydantic

    write("pydantic.py", "class Mine: pass")
    message = refusal(write("net.py", "from pydantic import Mine\ndef make(): pass"))
    assert "pydantic.py, but" in message
    assert str(pydantic.__file__) in message


NET = """\
import part
DEPTHS = (20, 110)

def resnet20(depth: int = 20, *, width=16):
    return part.check(depth)

def resnet110(): pass

class Net:
    def build(self): pass
"""


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("resnet11", {}, "net.py has no resnet11; did you mean resnet110"),
        ("transformer", {}, "net.py has no transformer: it defines resnet20, resnet110, Net"),
        ("Net.biuld", {}, "net.py:Net has no biuld; did you mean build?"),
        ("DEPTHS", {}, "net.py:DEPTHS is a tuple: expected a function or class, which can be called"),
        (
            "resnet20",
            {"dept": 20},
            "net.py:resnet20: its args do not fit: got an unexpected keyword argument 'dept'; did you mean depth? "
            "(it takes depth=20, width=16)",
        ),
        ("Net.build", {}, "net.py:Net.build: its args do not fit: missing a required argument: 'self' (it takes self)"),
        ("resnet20", {3: 4}, "net.py:resnet20: its args do not fit: keywords must be strings"),
        (
            "resnet20",
            {"depth": 21},
            "net.py:resnet20 raised ValueError: depth must be 6n + 2: found 21 (part.py, line 4, in check)",
        ),
    ],
)
def test_a_mistake_in_the_name_the_arguments_or_the_call_is_one_message(write, name, args, expected):
    text = "def check(depth):\n    import json\n    if depth % 6 != 2:\n"
    write("part.py", text + "        raise ValueError(f'depth must be 6n + 2:\\n  found {depth}')")
    with pytest.raises(WeightsError) as error:
        build(Import.parse(f"{write('net.py', NET)}:{name}"), args, WeightsError)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\nx = = 2", "net.py:make raised SyntaxError: invalid syntax (net.py, line 2)"),
        ("import broken", "net.py:make raised SyntaxError: invalid syntax (broken.py, line 1)"),
        (
            "\nimport no_such_package",
            "net.py:make raised ModuleNotFoundError: No module named 'no_such_package' (net.py, line 2, in <module>)",
        ),
        ("import json\njson.loads('{')", "(net.py, line 2, in <module>)"),
        ("assert False", "net.py:make raised AssertionError (net.py, line 1, in <module>)"),
        ("import sys\nsys.exit('usage: train')", "net.py:make raised SystemExit: usage: train (net.py, line 2"),
        ("def make():\n    raise SystemExit(2)", "SystemExit: 2 (net.py, line 2, in make): what it does as a script"),
        ("class make:\n    def __init__(self): self.x", "no attribute 'x' (net.py, line 2, in make.__init__)"),
        ("from srs_ray.errors import *\ndef make(): raise DataError('no')", "net.py:make raised DataError: no (net.py"),
    ],
)
def test_what_the_code_raises_is_told_with_its_place(write, text, expected):
    write("broken.py", "= 1")
    message = refusal(write("net.py", text))
    assert expected in message
    assert not [name for name in sys.modules if name.endswith("_net") and name.startswith("srs_ray_user_")] or (
        "def make" in text or "class make" in text
    )


def test_an_interrupt_is_not_a_mistake_of_the_job(write):
    with pytest.raises(KeyboardInterrupt):
        built(write("net.py", "raise KeyboardInterrupt"))


def test_a_file_that_is_mended_is_loaded_again(write):
    write("part.py", "NUMBER = 1")
    assert "ZeroDivisionError" in refusal(write("net.py", "import part\n1 / 0"))
    assert "part" not in sys.modules
    assert built(write("net.py", "from part import NUMBER\ndef make(): return NUMBER")).value == 1


def test_a_file_that_is_not_there_is_named_with_its_like(write, tmp_path, monkeypatch):
    write("my_models.py", "")
    (tmp_path / "data.py").mkdir()
    monkeypatch.chdir(tmp_path)
    assert f"there is no file {tmp_path}/my_model.py; did you mean my_models.py?" in refusal("my_model.py")
    assert f"{tmp_path}/data.py is a folder: expected a Python file" in refusal("data.py")
    assert "no_such_user" in refusal("~no_such_user/net.py")
    assert "my_model:make: the module my_model is not installed: install its package, or name" in refusal("my_model")
    assert "the module torchvision.modles is not installed" in refusal("torchvision.modles")


def test_a_home_directory_and_a_working_directory_are_followed(write, tmp_path, monkeypatch):
    write("code/net.py", "def make(): return 1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "code")
    assert built("~/code/net.py").modules == built("net.py").modules == built("../code/net.py").modules


def test_a_failure_later_is_told_with_the_users_place(write):
    text = """
    import json
    def make():
        def forward(text):
            return json.loads(text)
        return forward
    """
    net = built(write("net.py", text))
    with pytest.raises(ValueError) as error:
        net.value("{")
    told = describe_failure(error.value, net)
    assert told.startswith("JSONDecodeError: Expecting property name")
    assert told.endswith("(net.py, line 5, in make.<locals>.forward)")
    assert describe_failure(error.value, [str(net.root)]) == told
    assert "(decoder.py, line " in describe_failure(error.value, [])
    assert describe_failure(ValueError(), net) == "ValueError"


def test_the_class_of_the_error_is_the_callers(tmp_path):
    with pytest.raises(DataError):
        build(Import.parse(f"{tmp_path}/none.py:make"), {}, DataError)


def installed(site: Path, name: str, version: str, text: str, **modules: str) -> None:
    """A distribution as an installer leaves it."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{module}.py,,\n" for module in (name, *modules)))
    for module, content in {name: text, **modules}.items():
        (site / f"{module}.py").write_text(content)


def test_distributions_are_those_that_modules_come_from(write, tmp_path, monkeypatch):
    installed(tmp_path / "site", "fakelib", "1.2.3+cu132", "class Net: pass")
    monkeypatch.syspath_prepend(tmp_path / "site")
    import torch
    import torchvision

    modules = [type(part).__module__ for part in torchvision.models.resnet18().modules()]
    found = distributions_of([*modules, "fakelib", "fakelib.part", "json", "srs_ray.errors", "no_such_module"])
    assert found == {"torchvision": torchvision.__version__.partition("+")[0], "fakelib": "1.2.3"}
    assert distributions_of([torch.nn.Conv2d.__module__]) == {}
    write("user/fakelib.py", "")
    net = built(write("user/net.py", "import fakelib\ndef make(): pass"))
    assert distributions_of(net.modules) == {}
