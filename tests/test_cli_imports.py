"""Commands on jobs of the user's own: a model and a data set in files beside the job, real networks on real digits."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from srs_ray import cli
from srs_ray.models import user_files
from srs_ray.runs import RunDirectory

NETS = """
    import torch
    from torch import nn
    from layers import block

    def small(width=8, scale=1.0):
        torch.manual_seed(3)
        return Small(width, scale)

    class Small(nn.Module):
        def __init__(self, width, scale):
            super().__init__()
            self.body = nn.Sequential(block(1, width), nn.Flatten(), nn.Linear(64 * width, 10))
            self.scale = torch.tensor(float(scale))

        def forward(self, x):
            return self.body(x) * self.scale

    class TwoStates(nn.Module):
        state_shape = [(4, 8, 8), (10,)]

        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.stem = nn.Conv2d(1, 4, 3, padding=1)
            self.layer = nn.Conv2d(4, 4, 3, padding=1)
            self.mix = nn.Linear(256, 10)

        def inject(self, x):
            return self.stem(x), x.flatten(1)[:, :10]

        def f(self, z, injection):
            maps, vector = z
            stem, part = injection
            summed = self.mix(maps.flatten(1)) + 0.1 * vector + part
            return torch.tanh(0.2 * self.layer(maps) + stem), torch.tanh(summed)

        def head(self, z):
            return z[1]
"""
LAYERS = """
    from torch import nn

    def block(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())
"""
PATCHES = """
    import numpy as np
    from sklearn.datasets import load_digits

    class Patches:
        class_names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

        def __init__(self, broken=(), size=8):
            bunch = load_digits()
            self.images = (bunch.images[:, :size, :size] / 16).astype(np.float32)
            self.labels, self.broken = bunch.target, broken

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, index):
            if index in self.broken:
                raise OSError(f"patch {index} is gone")
            return self.images[index], self.labels[index]
"""

Command = Callable[..., tuple[int, str, str]]
Job = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Weights of `nets.py:small` for digits, in torch's format: under `state_dict`, `module.` before each name."""
    folder = tmp_path_factory.mktemp("trained")
    source = write(folder, "both.py", textwrap.dedent(LAYERS) + textwrap.dedent(NETS).replace("from layers", "# "))
    namespace: dict[str, Any] = {"__name__": "both"}
    exec(compile(source.read_text(), str(source), "exec"), namespace)
    network = namespace["small"]()
    bunch = load_digits()
    x_NCHW = torch.from_numpy((bunch.images / 16).astype(np.float32))[:, None]
    y_N = torch.from_numpy(bunch.target)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    draw = torch.Generator().manual_seed(0)
    for _ in range(60):
        some = torch.randint(len(y_N), (128,), generator=draw)
        noisy = x_NCHW[some] + 0.25 * torch.randn(128, 1, 8, 8, generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(noisy), y_N[some]).backward()
        optimizer.step()
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 60}, folder / "small.pth")
    return folder / "small.pth"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path, trained, monkeypatch) -> Iterator[Path]:
    """A working folder with the user's files and weights."""
    folder = tmp_path / "mine"
    for name, text in (("nets.py", NETS), ("layers.py", LAYERS), ("patches.py", PATCHES)):
        write(folder, name, text)
    shutil.copy(trained, folder / "small.pth")
    monkeypatch.chdir(folder)
    yield folder
    user_files.forget()


@pytest.fixture
def job(folder) -> Job:
    """Writes a job for the feed-forward model, or another model; sections given are laid over it."""

    def make(name: str = "job.yaml", **sections: Any) -> Path:
        settings: dict[str, Any] = {
            "model": {
                "import": "nets.py:small",
                "args": {"width": 8},
                "weights": "small.pth",
                "input_shape": [1, 8, 8],
                "classes": 10,
            },
            "data": {"import": "patches.py:Patches", "start": 1500, "stop": 1560, "every": 10, "pixels": "rounded"},
            "noise": {"sigma": 0.25},
            "sampling": {"method": "standard", "n0": 20, "n": 150},
            "certificate": {"alpha": 0.01},
            "execution": {"device": "cpu"},
            "report": {"radii": [0, 0.125]},
            "output": "run",
        }
        for section, given in sections.items():
            settings[section] = {**settings[section], **given} if isinstance(given, dict) else given
        settings["model"] = {key: value for key, value in settings["model"].items() if value is not None}
        path = folder / name
        path.write_text(yaml.safe_dump(settings))
        return path

    return make


TWO_STATES = {"import": "nets.py:TwoStates", "args": None, "weights": None}
SRS = {"method": "srs", "n0": 20, "n": 150, "steps": 3, "chains": 16}


@pytest.fixture
def srs_ray_command(folder, monkeypatch, capfd) -> Command:
    """Runs a command in the folder and gives (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["srs-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_every_command_takes_a_job_of_ones_own(job, srs_ray_command, folder):
    assert srs_ray_command("plan", job(), "--no-ray", "--pilot", 2)[0] == 0
    code, out, err = srs_ray_command("certify", job(), "--no-ray")
    assert code == 0, err
    assert "6 of 6 points certified, 4 of them now" in out
    assert "nets.py:small" in out
    row = RunDirectory.open("run").rows().to_pylist()[0]
    assert sum(row["counts"]) == 150
    assert sum(row["correct"] for row in RunDirectory.open("run").rows().to_pylist()) >= 3
    for form in ("table", "markdown", "latex", "csv", "json"):
        code, out, err = srs_ray_command("aggregate", "run", "--format", form)
        assert code == 0, err
        assert out
    assert srs_ray_command("plot", "run", "--output", "curve.png")[0] == 0
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = srs_ray_command("export", "run")
    assert (code, len(out.splitlines())) == (0, 7)
    assert "6 of 6 points done" in srs_ray_command("status", "run")[1]


def test_reading_a_run_executes_nothing_of_the_users(job, srs_ray_command, folder):
    assert srs_ray_command("certify", job(), "--no-ray")[0] == 0
    for name in ("nets.py", "patches.py"):
        write(folder, name, "raise RuntimeError('reading a run ran this')")
    for command in (("status",), ("aggregate",), ("export",), ("plot", "--output", "curve.png")):
        code, out, err = srs_ray_command(command[0], "run", *command[1:])
        assert code == 0, out + err


@pytest.mark.parametrize("own", [pytest.param("feed-forward", marks=pytest.mark.slow), "two states"])
def test_rows_are_equal_for_any_workers(job, srs_ray_command, cluster, result_rows, own):
    if own == "two states":
        path = job(model=TWO_STATES, sampling=SRS, certificate={"audit": 100}, data={"stop": 1540})
    else:
        path = job()
    rows = []
    for number, how in enumerate((["--no-ray"], ["--workers", 2])):
        where = how if how == ["--no-ray"] else [*how, "--address", cluster]
        code, out, err = srs_ray_command("certify", path, "--output", f"run-{number}", *where)
        assert code == 0, out + err
        rows.append(result_rows(f"run-{number}"))
    assert rows[0] == rows[1]
    assert all(row["status"] == "ok" for row in rows[0])


def test_a_run_of_ones_own_goes_on_where_it_stopped(job, srs_ray_command, cluster, result_rows):
    assert srs_ray_command("certify", job(), "--no-ray", "--stop", 1530)[0] == 0
    code, out, err = srs_ray_command("certify", job(), "--address", cluster)
    assert code == 0, err
    assert "6 of 6 points certified, 3 of them now" in out
    assert srs_ray_command("certify", job(), "--no-ray", "--output", "unbroken")[0] == 0
    assert result_rows("run") == result_rows("unbroken")


def _edit(folder: Path) -> None:
    text = (folder / "layers.py").read_text()
    (folder / "layers.py").write_text(text.replace("nn.ReLU()", "nn.SiLU()"))


def _edit_data(folder: Path) -> None:
    text = (folder / "patches.py").read_text()
    (folder / "patches.py").write_text(text.replace("/ 16", "/ 17"))


def _other_weights(folder: Path) -> None:
    content = torch.load(folder / "small.pth", weights_only=True)
    content["state_dict"]["module.body.2.bias"] += 1
    torch.save(content, folder / "small.pth")


@pytest.mark.parametrize(
    ("change", "settings", "named"),
    [
        (_edit, (), "model.code.layers.py"),
        (_edit_data, (), "data.code.patches.py"),
        (_other_weights, (), "model.weights.digest"),
        (None, ("model.args.scale=2.0",), "model.args.scale"),
        (None, ("data.args={broken: [3]}",), "data.args.broken"),
        (None, ("model.import=nets.py:Small", "model.args={width: 8, scale: 1.0}"), "model.import"),
    ],
)
def test_what_changes_the_model_or_the_data_is_refused_by_name(job, srs_ray_command, folder, change, settings, named):
    assert srs_ray_command("certify", job(), "--no-ray", "--stop", 1510)[0] == 0
    if change is not None:
        change(folder)
    options = [part for setting in settings for part in ("--set", setting)]
    code, out, err = srs_ray_command("certify", job(), "--no-ray", *options)
    assert code == 2
    assert named in err
    assert "Traceback" not in out + err


def test_the_folder_may_move(job, srs_ray_command, folder, tmp_path, monkeypatch):
    assert srs_ray_command("certify", job(), "--no-ray", "--stop", 1510)[0] == 0
    folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    code, out, err = srs_ray_command("certify", tmp_path / "moved/job.yaml", "--no-ray")
    assert code == 0, err
    assert "6 of 6 points certified, 5 of them now" in out


REFUSED = """
    import torch
    from torch import nn

    class Linear(nn.Module):
        def __init__(self, classes=10):
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Dropout(0.5))

        def forward(self, x):
            return self.inner(x)

    def in_training():
        network = Linear().eval()
        network.inner[2].train()
        return network

    def hidden_in_training():
        network = Linear()
        return lambda x: network(x)

    class Neighbours(Linear):
        def forward(self, x):
            return self.inner(x - x.mean(0))

    class Order(Linear):
        def forward(self, x):
            return self.inner(x) + torch.arange(len(x))[:, None]

    class Random(Linear):
        def forward(self, x):
            return self.inner(x + torch.randn_like(x))

    class Tuple(Linear):
        def forward(self, x):
            return self.inner(x), x

    def raises():
        open("nowhere.txt")

    def function():
        weight = torch.zeros(64, 10)
        return lambda x: x.flatten(1) @ weight

    class Parts(nn.Module):
        def inject(self, x): return x.flatten(1)
        def f(self, z, injection): return torch.tanh(injection)
        def head(self, z): return z[:, :10]

    class WrongShape(Parts):
        state_shape = (32,)

    class NoShape(Parts):
        state_shape = 64

    class WrongStart(Parts):
        state_shape = (64,)
        stored_start = torch.zeros(3)

    def nothing(): return None
    def number(): return 7
"""


@pytest.mark.parametrize(
    ("name", "sections", "expected"),
    [
        ("in_training", {}, "wrong.py:in_training is in training mode in inner.2: Dropout"),
        ("hidden_in_training", {}, "is in training mode in network: Linear"),
        ("Neighbours", {}, "an image's logits depend on the other images in its batch"),
        ("Order", {}, "an image's logits depend on its place in the batch"),
        ("Random", {}, "gives other logits for the same images when it is called again"),
        ("Tuple", {}, "gives tuple, expected a tensor of logits"),
        ("Linear", {"model": {"args": {"classes": 7}}}, "gives logits of shape (6, 7) for 6 images, expected (6, 10)"),
        (
            "Linear",
            {"model": {"input_shape": [3, 8, 8]}},
            "shapes cannot be multiplied (6x192 and 64x10) (wrong.py, line 11, in Linear.forward)",
        ),
        (
            "raises",
            {},
            "raised FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.txt' (wrong.py, line 39",
        ),
        (
            "Linear",
            {"model": {"weights": "small.pth"}},
            "missing: inner.1.bias, inner.1.weight not in this model: body",
        ),
        ("function", {"model": {"weights": "small.pth"}}, "which is no torch module and takes no state dict"),
        ("Linear", {"sampling": SRS, "certificate": {"audit": 100}}, "has none of them: use method: standard"),
        ("Linear", {"model": {"reference": {"solver": "naive", "steps": 3}}}, "leave reference out"),
        ("Parts", {}, "has inject, f and head, but no state_shape"),
        ("WrongShape", {}, "f gives 64 elements a sample, state_shape says 32"),
        ("NoShape", {}, "state_shape of wrong.py:NoShape is 64: expected the shape"),
        ("WrongStart", {}, "stored_start has [(3,)], and state_shape says [(64,)]: it is one state"),
        ("nothing", {}, "gives a NoneType: expected a classifier"),
        ("number", {}, "gives a int: expected a classifier"),
        ("Lineer", {}, "did you mean Linear?"),
        ("Linear", {"model": {"args": {"classe": 3}}}, "did you mean classes?"),
    ],
)
def test_a_model_that_cannot_be_certified_is_refused_before_anything_starts(
    job, srs_ray_command, folder, name, sections, expected
):
    write(folder, "wrong.py", REFUSED)
    model = {"import": f"wrong.py:{name}", "args": None, "weights": None, **sections.get("model", {})}
    path = job(**{**sections, "model": model})
    for command in ("certify", "plan"):
        code, out, err = srs_ray_command(command, path, "--no-ray")
        assert code == 2, out + err
        assert expected in " ".join(err.split())
        assert "Traceback" not in out + err
        assert not (folder / "run").exists()


def test_weights_of_another_shape_are_named(job, srs_ray_command, folder):
    code, _, err = srs_ray_command("certify", job(model={"args": {"width": 4}}), "--no-ray")
    assert code == 2
    assert "body.0.0.weight: found shape (8, 1, 3, 3), expected (4, 1, 3, 3)" in err
    assert not (folder / "run").exists()


FAILING = """
    from nets import small

    def make():
        network = small()
        seen = []

        class Failing(type(network)):
            def forward(self, x):
                seen.append(len(x))
                if len(seen) > 60:
                    raise ValueError(f"call {len(seen)} is one too many")
                return super().forward(x)

        network.__class__ = Failing
        return network
"""


@pytest.mark.parametrize("ray", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_that_raises_in_mid_run_makes_error_rows_with_file_and_line(job, srs_ray_command, folder, cluster, ray):
    write(folder, "failing.py", FAILING)
    path = job(model={"import": "failing.py:make", "args": None}, execution={"attempts": 1, "batch": 4})
    where = ["--address", cluster, "--workers", 1] if ray else ["--no-ray"]
    code, out, err = srs_ray_command("certify", path, *where)
    assert code == 3, out + err
    failed = [row for row in RunDirectory.open("run").rows().to_pylist() if row["status"] == "error"]
    assert failed
    for row in failed:
        assert row["error"].startswith("given up after it failed once: ValueError: call ")
        assert row["error"].endswith(" is one too many (failing.py, line 12, in make.<locals>.Failing.forward)")
    assert "Traceback" not in out + err


def test_an_input_shape_that_no_image_has_is_refused_with_both_shapes(job, srs_ray_command, folder):
    code, out, err = srs_ray_command("certify", job(data={"args": {"size": 6}}), "--no-ray")
    assert code == 2, out
    assert "item 1500 of patches.py:Patches: has the shape (6, 6), the model takes (1, 8, 8)" in err
    assert "each of the first 4 points" in err
    assert "model.input_shape is [1, 8, 8]" in err
    assert not (folder / "run").exists()


def test_a_broken_first_image_is_one_error_row(job, srs_ray_command):
    code, out, _ = srs_ray_command("certify", job(data={"args": {"broken": [1500]}}), "--no-ray")
    assert code == 3
    assert "5 of 6 points certified" in out
    first = RunDirectory.open("run").rows().to_pylist()[0]
    assert (first["index"], first["status"]) == (1500, "error")
    assert "OSError: patch 1500 is gone (patches.py, line " in first["error"]


@pytest.mark.parametrize("settings", [{"dtype": "float64"}, {"dtype": "bfloat16"}, {"batch": 1}])
@pytest.mark.parametrize("own", ["feed-forward", "two states"])
def test_types_and_batches(job, srs_ray_command, settings, own):
    if own == "two states":
        path = job(model=TWO_STATES, sampling=SRS, certificate={"audit": 100}, execution=settings)
    else:
        path = job(execution=settings)
    code, out, err = srs_ray_command("certify", path, "--no-ray", "--stop", 1520)
    assert code == 0, out + err
    rows = RunDirectory.open("run").rows().to_pylist()
    assert {row["dtype"] for row in rows} == {settings.get("dtype", "float32")}
    assert all(row["batch"] == 1 for row in rows) or "batch" not in settings


CHATTY = """
    from nets import small

    print("loaded")

    def make():
        print("built\\n" * 1000)
        network = small()
        network.register_forward_hook(lambda *_: print("called\\n" * 10))
        return network
"""


def test_what_the_users_code_prints_does_not_get_into_json(job, srs_ray_command, folder, cluster):
    write(folder, "chatty.py", CHATTY)
    Image.new("L", (8, 8)).save("black.png")
    path = job(model={"import": "chatty.py:make", "args": None})
    code, out, err = srs_ray_command("plan", path, "--no-ray", "--pilot", 2, "--format", "json")
    assert code == 0, err
    assert json.loads(out)["done"] == 2
    assert "called" in err
    code, out, err = srs_ray_command("predict", path, "black.png", "--n", 50, "--format", "json")
    assert code == 0, err
    assert len(json.loads(out)["images"]) == 1
    code, out, err = srs_ray_command("certify", path, "--address", cluster)
    assert code == 0, out + err
    assert "6 of 6 points certified" in out
    assert "called" not in out.partition("points to do")[2]


def test_predict_gives_each_image_its_class_or_says_why_not(job, srs_ray_command, folder):
    bunch = load_digits()
    for index in (1500, 1510):
        Image.fromarray((bunch.images[index] * 255 / 16).round().astype(np.uint8)).save(f"{index}.png")
    Path("broken.png").write_bytes(b"no image")
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    path = job(model={"class_names": names})
    images = ("1500.png", "broken.png", "1510.png")
    code, out, err = srs_ray_command("predict", path, *images, "--n", 200, "--format", "json")
    assert code == 3, err
    first, broken, second = json.loads(out)["images"]
    for shown, index in ((first, 1500), (second, 1510)):
        label = int(bunch.target[index])
        assert (shown["predicted"], shown["class_name"], shown["abstains"]) == (label, names[label], False)
        assert sum(shown["counts"]) == 200
        assert shown["p_value"] <= 0.01
    assert [shown["index"] for shown in (first, broken, second)] == [0, 1, 2]
    assert broken["error"].startswith("broken.png: not readable as an image")
    code, out, _ = srs_ray_command("predict", path, *images, "--n", 200)
    assert code == 3
    assert f"1500.png  {bunch.target[1500]} ({names[bunch.target[1500]]})" in out
    assert "error: broken.png: not readable as an image" in out
    assert "With probability at least 1 - alpha = 0.99 over the noise" in out
    code, out, _ = srs_ray_command("predict", path, "1500.png", "--n", 200, "--sigma", 10)
    assert code == 0
    assert "abstains" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere.yaml", "a.png"), "no job file at nowhere.yaml"),
        (("job.yaml", "a.png", "--alpha", "2"), "certificate.alpha"),
        (("job.yaml", "a.png", "--n", "0"), "Invalid value for '--n'"),
        (("job.yaml", "a.png", "--format", "xml"), "xml"),
        (("job.yaml", "a.png", "--weights", "nowhere.pth"), "no weights at nowhere.pth"),
        (("job.yaml", "a.png", "--device", "tpu"), "execution.device"),
        (("job.yaml",), "Missing argument 'IMAGE...'"),
    ],
)
def test_a_mistake_in_a_prediction_is_one_message_and_exit_code_2(job, srs_ray_command, arguments, expected):
    job()
    code, out, err = srs_ray_command("predict", *arguments)
    assert code == 2
    assert expected in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in out + err


def test_an_image_on_which_the_model_raises_is_an_error_with_file_and_line(job, srs_ray_command, folder):
    write(folder, "failing.py", FAILING)
    Image.new("L", (8, 8)).save("black.png")
    path = job(model={"import": "failing.py:make", "args": None}, execution={"batch": 4})
    code, out, err = srs_ray_command("predict", path, "black.png")
    assert code == 3, err
    assert "one too many (failing.py, line 12, in make.<locals>.Failing.forward)" in out
