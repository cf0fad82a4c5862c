from __future__ import annotations

import pytest
import torch
from torch import nn

from srs_ray.models.mdeq.winograd import WinogradConvolution


def convolution(inputs: int, outputs: int, **settings: object) -> nn.Conv2d:
    settings = {"padding": 1, "bias": False, **settings}
    return nn.Conv2d(inputs, outputs, 3, **settings).requires_grad_(False)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("height", range(1, 14))
def test_it_is_the_convolution_and_leaves_its_images_as_they_are(height: int, layout: torch.memory_format) -> None:
    direct = convolution(5, 7).double()
    x_BCHW = torch.randn(3, 5, height, 6, dtype=torch.float64).contiguous(memory_format=layout)
    before_BCHW = x_BCHW.clone()
    assert torch.allclose(WinogradConvolution(direct)(x_BCHW), direct(x_BCHW), rtol=0, atol=1e-13)
    assert torch.equal(x_BCHW, before_BCHW)


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(32, 160, 32), (160, 32, 32), (256, 1280, 7), (1280, 256, 7)])
@torch.inference_mode()
def test_in_float32_it_is_nearly_as_exact_as_the_convolution(inputs: int, outputs: int, size: int) -> None:
    torch.manual_seed(0)
    direct = convolution(inputs, outputs)
    x_BCHW = torch.randn(2, inputs, size, size).contiguous(memory_format=torch.channels_last)
    exact_BCHW = direct.double()(x_BCHW.double())
    direct.float()
    errors = [(f(x_BCHW) - exact_BCHW).square().mean().sqrt() for f in (WinogradConvolution(direct), direct)]
    assert errors[0] < 4 * errors[1]
    assert errors[0] < 5e-6 * exact_BCHW.square().mean().sqrt()


def test_derivatives_are_those_of_the_convolution() -> None:
    direct = convolution(4, 6).double()
    x_BCHW = torch.randn(2, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    v_BCHW = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    found, expected = (torch.autograd.grad(f(x_BCHW), x_BCHW, v_BCHW) for f in (WinogradConvolution(direct), direct))
    assert torch.equal(*found, *expected)


@pytest.mark.parametrize("settings", [{"stride": 2}, {"padding": 0}, {"bias": True}, {"dilation": 2}, {"groups": 2}])
def test_other_convolutions_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a plain 3x3 convolution"):
        WinogradConvolution(convolution(4, 4, **settings))
