"""What the trial of a model of one's own finds out, and what a run remembers of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srs_ray.errors import JobError
from srs_ray.models import user_files
from srs_ray.models.opening import read_model
from srs_ray.models.settings import ImportedModelSettings

MODELS = """
import torch
from torch import nn


class Base(nn.Module):
    def __init__(self, **kept):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)
        self.eval()

    def forward(self, x):
        return self.linear(x.flatten(1)) * 10


class MaskedAndNormalised(Base):  # one logit is huge for every image
    def forward(self, x):
        y = super().forward(x)
        y = (y - y.mean(0)) / (y.std(0) + 1e-5)
        y[:, 9] = -1e9
        return y


class Masked(Base):
    def forward(self, x):
        y = super().forward(x)
        y[:, 9] = -1e9
        return y


class Capacity(Base):  # of each class the first eight are classified, the others otherwise
    def forward(self, x):
        y = super().forward(x)
        first, out = y.argmax(1), y.clone()
        for c in range(10):
            beyond = (first == c).nonzero().flatten()[max(8, len(x) // 20):]
            out[beyond] = y.flip(1)[beyond]
        return out


class Equilibrium(nn.Module):
    state_shape = (32,)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.layer, self.out = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.eval()

    def inject(self, x):
        self.kept = self.stem(x.flatten(1))
        return self.kept

    def f(self, z, injection):
        return torch.tanh(0.3 * self.layer(z) + injection)

    def head(self, z):
        return self.out(z) * 5


class KeepsItsInjection(Equilibrium):
    def f(self, z, injection):
        return torch.tanh(0.3 * self.layer(z) + self.kept)


class ReadsItsInjection(Equilibrium):
    def head(self, z):
        return self.out(z) * 5 + (self.kept[:, :10] if len(self.kept) == len(z) else 0)


class InPlace(Equilibrium):
    def f(self, z, injection):
        return z.copy_(torch.tanh(0.3 * self.layer(z) + injection))


class MakesATensor(Base):
    shift = None

    def forward(self, x):
        if self.shift is None:
            self.shift = torch.randn(10)
        return super().forward(x) + self.shift


SHIFT = torch.zeros(10)


class ByAGlobal(Base):
    def forward(self, x):
        return super().forward(x) + SHIFT


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def scripted():
    return torch.jit.script(Base())
"""


@pytest.fixture(autouse=True)
def _forget() -> None:
    user_files.forget()


def read(folder: Path, name: str, **settings: Any) -> Any:
    section = {"import": f"{folder / 'models_of_mine.py'}:{name}", "input_shape": [1, 8, 8], "classes": 10, **settings}
    return read_model(ImportedModelSettings.model_validate(section))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models_of_mine.py").write_text(MODELS)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("MaskedAndNormalised", "depend on the other images in its batch"),
        ("Capacity", "depend on the other images in its batch"),
        ("KeepsItsInjection", "when inject is called for other images before f or head"),
        ("ReadsItsInjection", "when inject is called for other images before f or head"),
        ("InPlace", "f changes the state or the injection that it is given"),
        ("MakesATensor", "makes the tensor shift when it is first called"),
        ("lazy", "weight of its LazyLinear has no shape before the first call"),
    ],
)
def test_a_model_that_goes_by_more_than_its_image_is_refused(folder: Path, name: str, fault: str) -> None:
    with pytest.raises(JobError, match=fault):
        read(folder, name)


@pytest.mark.parametrize("name", ["Base", "Masked", "Equilibrium", "ByAGlobal", "scripted"])
def test_one_that_does_not_is_taken(folder: Path, name: str) -> None:
    assert read(folder, name).label == f"models_of_mine.py:{name}"


def test_a_tensor_among_the_globals_is_in_the_digest(folder: Path) -> None:
    before = read(folder, "ByAGlobal").identity["model.weights.digest"]
    text = (folder / "models_of_mine.py").read_text().replace("SHIFT = torch.zeros(10)", "SHIFT = torch.ones(10)")
    (folder / "models_of_mine.py").write_text(text)
    assert read(folder, "ByAGlobal").identity["model.weights.digest"] != before


def test_an_empty_argument_is_an_argument(folder: Path) -> None:
    assert read(folder, "Base").identity.keys() != read(folder, "Base", args={"extra": {}}).identity.keys()
