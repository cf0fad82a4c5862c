from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srs_ray.data import open_dataset
from srs_ray.data.rounding import rounded
from srs_ray.models.mdeq.checkpoints import load_model
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.smoothing.noise import NoisyPoint, Philox4x64


@pytest.fixture(scope="session")
def model() -> MDEQ:
    """The tiny MDEQ that ships with the package, trained on handwritten digits at sigma 0.25."""
    return load_model("mdeq-tiny-digits", "mdeq-tiny-digits-sigma25")


@pytest.fixture(scope="session")
def digit() -> Tensor:
    """A digit of the test split, on which noisy predictions differ."""
    return rounded(open_dataset("digits", None, "test", (1, 16, 16)).image(12))


@pytest.fixture
def point(digit: Tensor) -> NoisyPoint:
    return NoisyPoint(digit, 0.5, seed=3, index=12, generator=Philox4x64())


class SomeSamplesBroken(Philox4x64):
    """Noise in which given estimation samples are infinite, as a broken input would be."""

    def __init__(self, broken: set[int]) -> None:
        object.__setattr__(self, "broken", broken)

    def normals(self, seed, point, stage, samples, size):
        e_ND = super().normals(seed, point, stage, samples, size)
        e_ND[torch.tensor([stage == 1 and sample in self.broken for sample in samples])] = torch.inf
        return e_ND


@pytest.fixture
def broken_samples() -> type[SomeSamplesBroken]:
    return SomeSamplesBroken
