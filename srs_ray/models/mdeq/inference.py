"""A model arranged for evaluation alone: the same function, up to rounding, in fewer and wider steps."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from srs_ray.models.mdeq.fused import FusedFeatures, FusedLayer, JoinedBottleneck
from srs_ray.models.mdeq.model import HEAD_EXPANSION, MDEQ, HeadBottleneck, ResidualBlock, in_parts
from srs_ray.models.mdeq.winograd import WinogradConvolution

VECTOR = 16  # float32 values that a CPU's widest vectors hold
SHARED_PIXELS = 1024  # of images whose sums torch's group normalisation shares among threads
LEAST_WINOGRAD = 32, 4096  # channels and elements of a branch where Winograd's filtering pays, by measurement on a CPU
CACHE_BYTES = 4 * 2**20  # of the widest activations that are there at a time, by measurement on a CPU
WINOGRAD_BYTES = 6 * 2**20  # the same of convolutions by Winograd's filtering, whose weights are twice as many
LEAST_HEAD = 32  # samples: each part has the head's weights arranged anew, which fewer would not pay for


def arrange_for_inference(model: MDEQ, device: torch.device, dtype: torch.dtype) -> MDEQ:
    """The model, changed in place, in evaluation mode on that device; it cannot be trained any more.

    With bfloat16 the network computes in it, and images, states and solvers stay float32. Batch normalisation is folded
    into the convolutions before it, in float64, so that weights round once. On a CPU states and activations are
    channels-last, wide activations are computed in parts of the batch, large convolutions by Winograd's filtering, and
    layers of fewer channels than a vector holds take several pixels at once; sums over resolutions and in the head are
    formed in fewer steps.
    """
    model.requires_grad_(False).eval().double()
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequential(module)
        elif isinstance(module, HeadBottleneck):
            for number in (1, 2, 3):
                _fold(module, f"conv{number}", f"bn{number}")
    fused = device.type == "cpu" and dtype != torch.bfloat16
    if device.type == "cpu":
        model.channels_last = True
        blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
        for block, (_, height, width) in zip(blocks, model.config.branch_shapes, strict=True):
            block.at_once = _samples_in_cache(block.conv1.out_channels * height * width)
            _pair(block, "conv2", width)
            if dtype != torch.bfloat16:  # sums would lose what little precision that has
                _filter_rows(block, height, width)
        _, height, width = model.config.input_shape
        for name in ("0", "3"):
            _pair(model.downsample, name, width)
        stride = 2 if model.config.downsample_times else 1
        model.stem_at_once = _samples_in_cache(model.config.channels[0] * (height // stride) * (width // stride))
        for incre, (_, _, width) in zip(model.incre_modules, model.config.branch_shapes, strict=True):
            assert isinstance(incre, nn.Sequential)
            assert isinstance(incre[0], HeadBottleneck)
            _pair(incre[0], "conv2", width)
            incre[0] = JoinedBottleneck(incre[0])
        _, height, width = model.config.branch_shapes[0]
        widest = HEAD_EXPANSION * model.config.head_channels[0] * height * width
        model.head_at_once = max(LEAST_HEAD, _samples_in_cache(widest))
        if not fused:
            for module in list(model.modules()):
                for name, child in list(module.named_children()):
                    if isinstance(child, nn.GroupNorm):
                        setattr(module, name, GroupNormOfEachSample(child))
        model.to(memory_format=torch.channels_last)
    mean, std, stored_D = model.mean, model.std, model.stored_D
    model.to(device=device, dtype=dtype)
    states = torch.float32 if dtype == torch.bfloat16 else dtype
    model.mean, model.std = (buffer.to(device=device, dtype=states) for buffer in (mean, std))
    model.stored_D = None if stored_D is None else stored_D.to(device=device, dtype=states)
    if fused:
        model.fused_layer = FusedLayer(model.fullstage, model.config.branch_shapes)
        model.fused_features = FusedFeatures(model)
    return model.eval()  # the modules that were put in, too


def _samples_in_cache(elements: int, cache_bytes: int = CACHE_BYTES) -> int:
    """How many activations of so many elements fit the cache, as a power of two."""
    return 2 ** int(math.log2(max(1.0, cache_bytes / (4 * elements))))


def _pair(module: nn.Module, name: str, width: int) -> None:
    """Pairs a 3x3 convolution of images so wide, if it leaves half of a vector empty."""
    convolution = module.get_submodule(name)
    assert isinstance(convolution, nn.Conv2d)
    if 2 * convolution.out_channels <= VECTOR and convolution.stride == (1, 1) and width % 2 == 0:
        module.register_module(name, PairedConvolution(convolution))


def _filter_rows(block: ResidualBlock, height: int, width: int) -> None:
    """Filters the convolutions of a block for images so large, where that pays."""
    channels, least_channels, least_elements = block.conv2.out_channels, *LEAST_WINOGRAD
    if channels >= least_channels and channels * height * width >= least_elements:
        block.at_once = _samples_in_cache(block.conv1.out_channels * height * width, WINOGRAD_BYTES)
        for name in ("conv1", "conv2"):
            convolution = block.get_submodule(name)
            assert isinstance(convolution, nn.Conv2d)
            block.register_module(name, WinogradConvolution(convolution))


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
    bias: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight_OIHW, bias_O = convolution.weight.detach(), convolution.bias
        self.out_channels = len(weight_OIHW)
        self.register_buffer("weight", torch.cat([F.pad(weight_OIHW, (0, 1)), F.pad(weight_OIHW, (1, 0))]))
        self.register_buffer("bias", None if bias_O is None else bias_O.detach().repeat(2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pairs = F.conv2d(x_BCHW, self.weight, self.bias, stride=(1, 2), padding=1)
        y_BHWC = pairs.permute(0, 2, 3, 1).contiguous().view(*x_BCHW.shape[:1], *x_BCHW.shape[2:], self.out_channels)
        return y_BHWC.permute(0, 3, 1, 2)
