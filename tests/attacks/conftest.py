from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from srs_ray.models.mdeq.checkpoints import load_model
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.models.opened import Opened, opened

SHAPE = (1, 8, 8)


class Halfspace(nn.Module):
    """Class 1 where w x > b for a unit vector w. Smoothed by any Gaussian it decides likewise: the exact distance from
    an image to the other class is |w x - b|."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        sign_CHW = torch.where(torch.arange(64).view(SHAPE) % 3 == 0, 1.0, -1.0)
        self.register_buffer("w_CHW", sign_CHW / sign_CHW.norm())
        self.bias = bias

    def forward(self, x_BCHW: Tensor) -> Tensor:
        margin_B = (x_BCHW * self.w_CHW).sum(dim=(1, 2, 3)) - self.bias
        return 20.0 * torch.stack([-margin_B, margin_B], dim=1)


@pytest.fixture
def image() -> Tensor:
    """Pixels on the image grid, far enough from 0 and 1 for a perturbation of length 1 to leave them there."""
    level_CHW = torch.randint(100, 156, SHAPE, generator=torch.Generator().manual_seed(0))
    return level_CHW.float() / 255


@pytest.fixture
def halfspace(image: Tensor):
    """The half space that decides at a given distance from the image, which is of class 1."""

    def make(distance: float) -> Opened:
        margin = float((image * Halfspace(0.0).w_CHW).sum())
        network = Halfspace(margin - distance)
        return opened(network, label="halfspace", input_shape=SHAPE, classes=2, device=torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def digits_model() -> Opened:
    return opened_mdeq(load_model("mdeq-tiny-digits", "mdeq-tiny-digits-sigma25"))
