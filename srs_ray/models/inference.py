"""A model arranged for evaluation alone: the same function, up to rounding, in fewer and wider steps."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from srs_ray.models.mdeq import HEAD_EXPANSION, MDEQ, HeadBottleneck, ResidualBlock, in_parts

VECTOR = 16  # float32 values that a CPU's widest vectors hold
SHARED_PIXELS = 1024  # of images whose sums torch's group normalisation shares among threads
LEAST_PART = 16  # samples: each part has a convolution's weights arranged anew, which fewer would not pay for
CACHE_BYTES = 2.5 * 2**20  # of the widest activations that are there at a time, by measurement on a CPU


def arrange_for_inference(model: MDEQ, device: torch.device, dtype: torch.dtype) -> MDEQ:
    """The model, changed in place, in evaluation mode on that device; it cannot be trained any more.

    With bfloat16 the network computes in it, and images, states and solvers stay float32. Batch normalisation is folded
    into the convolutions before it, in float64, so that weights round once. On a CPU
    states and activations are channels-last, wide activations are computed in parts of the batch, and convolutions to
    fewer channels than a vector holds compute two pixels at once.
    """
    model.requires_grad_(False).eval().double()
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequential(module)
        elif isinstance(module, HeadBottleneck):
            for number in (1, 2, 3):
                _fold(module, f"conv{number}", f"bn{number}")
    if device.type == "cpu":
        model.channels_last = True
        blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
        for block, (_, height, width) in zip(blocks, model.config.branch_shapes, strict=True):
            block.at_once = _samples_in_cache(block.conv1.out_channels * height * width)
            if 2 * block.conv2.out_channels <= VECTOR and width % 2 == 0:
                block.register_module("conv2", PairedConvolution(block.conv2))
        _, height, width = model.config.branch_shapes[0]
        # Twice as many: the head is as wide at a single place.
        model.head_at_once = 2 * _samples_in_cache(HEAD_EXPANSION * model.config.head_channels[0] * height * width)
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.GroupNorm):
                    setattr(module, name, GroupNormOfEachSample(child))
        model.to(memory_format=torch.channels_last)
    mean, std = model.mean, model.std
    model.to(device=device, dtype=dtype)
    states = torch.float32 if dtype == torch.bfloat16 else dtype
    model.mean, model.std = (buffer.to(device=device, dtype=states) for buffer in (mean, std))
    return model


def _samples_in_cache(elements: int) -> int:
    """How many activations of so many elements fit the cache, as a power of two, and no fewer than make a part."""
    return max(LEAST_PART, 2 ** int(math.log2(max(1.0, CACHE_BYTES / (4 * elements)))))


def _fold_sequential(module: nn.Sequential) -> None:
    for (first, conv), (second, bn) in pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
            _fold(module, first, second)


def _fold(module: nn.Module, convolution: str, norm: str) -> None:
    conv, bn = module.get_submodule(convolution), module.get_submodule(norm)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    setattr(module, convolution, fuse_conv_bn_eval(conv, bn))
    setattr(module, norm, nn.Identity())


class GroupNormOfEachSample(nn.Module):
    """Group normalisation in which a sample's rounding does not depend on its place in the batch.

    torch's kernel for channels-last images of 1,024 pixels or more cuts the batch into one piece for each thread,
    wherever that falls, and adds up the sums of a sample that lies in two of them. With several threads such images
    go through it one at a time.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pixels = x_BCHW.shape[2] * x_BCHW.shape[3]
        one_at_a_time = pixels >= SHARED_PIXELS and torch.get_num_threads() > 1
        return in_parts(self.norm, x_BCHW, 1 if one_at_a_time else None)


class PairedConvolution(nn.Module):
    """A 3x3 convolution of padding 1 that computes pixels 2j and 2j + 1 of a row as channels of one, by a 3x4 kernel.

    A quarter of the products are with zeros; it pays where the vectors of a CPU would be half empty.
    """

    weight: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight_OIHW = convolution.weight.detach()
        self.out_channels = len(weight_OIHW)
        self.register_buffer("weight", torch.cat([F.pad(weight_OIHW, (0, 1)), F.pad(weight_OIHW, (1, 0))]))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pairs = F.conv2d(x_BCHW, self.weight, stride=(1, 2), padding=1)
        y_BHWC = pairs.permute(0, 2, 3, 1).contiguous().view(*x_BCHW.shape[:1], *x_BCHW.shape[2:], self.out_channels)
        return y_BHWC.permute(0, 3, 1, 2)
