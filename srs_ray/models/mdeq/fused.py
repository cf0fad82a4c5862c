"""Layer and head on a CPU: what lies between convolutions, in one pass over each sample (srs_ray.models.mdeq.loops)."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from srs_ray.models.mdeq.loops import (
    EPS,
    Array,
    add_carried,
    add_relus,
    end_block,
    mean_of_relu,
    normalize_into,
    normalize_relu,
    relu_beside,
)
from srs_ray.models.mdeq.model import (
    MDEQ,
    Branch,
    CarryDown,
    CarryUp,
    Fusion,
    HeadBottleneck,
    MDEQLayer,
    PostFusion,
    ResidualBlock,
    equal_parts,
)

LANES = 64  # elements that a loop takes at a time at least, where they make whole pixels


class FusedLayer:
    """f of a layer as it is now, in its dtype, for branches of these shapes (C, H, W) in a channels-last state.

    It has no derivatives. A sample's rounding depends neither on its place in the batch nor on the number of threads,
    unless its convolutions' does. Where all states are one (`expand`ed, as the first of a solve from a constant start),
    what does not see the image is computed once for all: all convolutions of the blocks, nine tenths of the layer.
    """

    def __init__(self, layer: MDEQLayer, shapes: list[tuple[int, int, int]]) -> None:
        self.shapes = shapes
        self.blocks = [_Block(cast(ResidualBlock, cast(Branch, branch).blocks[0])) for branch in layer.branches]
        self.carries = [_carries(cast(Fusion, fusion)) for fusion in layer.fuse_layers]
        self.posts = [_Post(cast(PostFusion, post)) for post in layer.post_fuse_layers]

    def __call__(self, z_BD: Tensor, injection_BCHW: Tensor) -> Tensor:
        batch, alike = len(z_BD), len(z_BD) > 1 and z_BD.stride(0) == 0
        z_BD = z_BD.contiguous()
        starts = [0]
        for shape in self.shapes:
            starts.append(starts[-1] + math.prod(shape))
        branches = [
            block(z_BD, start, shape, None if start else injection_BCHW, alike)
            for block, start, shape in zip(self.blocks, starts, self.shapes, strict=False)
        ]
        # All that goes from one branch to another is convolved before the first one is overwritten by its sum.
        carried = []
        for target, carries in enumerate(self.carries):
            others = [
                branch[:1] if alike and source else branch for source, branch in enumerate(branches) if source != target
            ]
            carried.append([_for_each(carry.convolve(y), batch) for carry, y in zip(carries, others, strict=True)])
        next_BD = torch.empty_like(z_BD)
        for y_BHWC, carries, xs, post, start in zip(branches, self.carries, carried, self.posts, starts, strict=False):
            for number, (carry, x_BHWC) in enumerate(zip(carries, xs, strict=True), 1):
                carry.add(x_BHWC, y_BHWC, relu=number == len(xs))
            post(y_BHWC, next_BD, start)
        return next_BD


class FusedFeatures:
    """What a head whose bottlenecks are joined reads off a channels-last state; without derivatives."""

    def __init__(self, model: MDEQ) -> None:
        self.shapes = model.config.branch_shapes
        self.bottlenecks = [cast(JoinedBottleneck, cast(nn.Sequential, incre)[0]) for incre in model.incre_modules]
        self.downs = [cast(nn.Sequential, down)[0] for down in model.downsamp_modules]
        self.final = model.final_layer[0]

    def __call__(self, z_BD: Tensor) -> Tensor:
        z_BD = z_BD.contiguous()
        batch, start = len(z_BD), 0
        y_BHWC = z_BD  # of no branch yet
        for number, (shape, bottleneck) in enumerate(zip(self.shapes, self.bottlenecks, strict=True)):
            channels, height, width = shape
            z_BHWC = z_BD[:, start : start + math.prod(shape)].unflatten(1, (height, width, channels))
            inner_BHWC = _convolve(bottleneck.conv2, _convolve(bottleneck.conv1, z_BHWC).relu_())
            both_BHWC = z_BD.new_empty(batch, height, width, inner_BHWC.shape[3] + channels)
            pixels = inner_BHWC.flatten(1, 2).numpy()
            relu_beside(pixels, z_BD.numpy(), start, both_BHWC.flatten(1, 2).numpy())
            x_BHWC = _convolve(bottleneck.last, both_BHWC)
            if number:
                down_BHWC = _convolve(self.downs[number - 1], y_BHWC)
                add_relus(x_BHWC.flatten(1).numpy(), down_BHWC.flatten(1).numpy())
            y_BHWC = x_BHWC if number else x_BHWC.relu_()
            start += math.prod(shape)
        final_BHWC = _convolve(self.final, y_BHWC)
        mean_BC = z_BD.new_empty(batch, final_BHWC.shape[3])
        mean_of_relu(final_BHWC.flatten(1, 2).numpy(), mean_BC.numpy())
        return mean_BC


class JoinedBottleneck(nn.Module):
    """A bottleneck of the head whose last convolution and shortcut are one convolution, of both their inputs."""

    def __init__(self, block: HeadBottleneck) -> None:
        super().__init__()
        self.conv1, self.conv2 = block.conv1, block.conv2
        last, shortcut = block.conv3, cast(nn.Conv2d, block.downsample[0])
        assert last.bias is not None  # batch norms are folded
        assert shortcut.bias is not None
        self.last = nn.Conv2d(last.in_channels + shortcut.in_channels, last.out_channels, 1)
        self.last.weight = nn.Parameter(torch.cat([last.weight.detach(), shortcut.weight.detach()], dim=1), False)
        self.last.bias = nn.Parameter(last.bias.detach() + shortcut.bias.detach(), False)

    def forward(self, z_BCHW: Tensor) -> Tensor:
        out = self.conv2(self.conv1(z_BCHW).relu_()).relu_()
        return self.last(torch.cat([out, z_BCHW], dim=1)).relu_()


class _Norms:
    """What loops take of group norms that belong together, (norms, C); one without parameters has ones and zeros."""

    def __init__(self, *norms: nn.GroupNorm, dtype: torch.dtype) -> None:
        self.groups = norms[0].num_groups
        if any(norm.eps != EPS or norm.num_groups != self.groups for norm in norms):
            raise ValueError(f"not norms of {self.groups} groups at an eps of {EPS}: {norms}")
        ones = torch.ones(norms[0].num_channels, dtype=dtype)
        self.weight = torch.stack([norm.weight.detach() if norm.affine else ones for norm in norms]).numpy()
        self.bias = torch.stack([norm.bias.detach() if norm.affine else 0 * ones for norm in norms]).numpy()

    @property
    def parameters_of_one(self) -> tuple[Array, Array, int]:
        return self.weight[0], self.bias[0], self.groups


class _Block:
    """A residual block, on a part of the batch at a time."""

    def __init__(self, block: ResidualBlock) -> None:
        self.block, dtype = block, block.gn1.weight.dtype
        self.norm, self.norms = _Norms(block.gn1, dtype=dtype), _Norms(block.gn2, block.gn3, dtype=dtype)

    def __call__(
        self, z_BD: Tensor, start: int, shape: tuple[int, int, int], injection_BCHW: Tensor | None, alike: bool = False
    ) -> Tensor:
        """The branch (B, H, W, C) whose input lies in z from `start` on; `alike`: all states are the first."""
        (channels, height, width), batch = shape, len(z_BD)
        if alike and injection_BCHW is None:
            return _for_each(self(z_BD[:1], start, shape, None), batch)
        y_BHWC = z_BD.new_empty(batch, height, width, channels)
        none = z_BD.new_empty(batch, 0, 0)
        injection_BRL = none if injection_BCHW is None else _rows(injection_BCHW.permute(0, 2, 3, 1))
        size = batch if alike else equal_parts(batch, self.block.at_once)  # one sample's activations are not wide
        for first in range(0, batch, size):
            part = slice(first, first + size)
            seen = slice(1) if alike else part
            z_PHWC = z_BD[seen, start : start + math.prod(shape)].unflatten(1, (height, width, channels))
            inner_PHWC = _convolve(self.block.conv1, z_PHWC)
            normalize_relu(_rows(inner_PHWC).numpy(), *self.norm.parameters_of_one)
            end_block(
                _rows(_for_each(_convolve(self.block.conv2, inner_PHWC), len(z_BD[part]))).numpy(),
                injection_BRL[part].numpy(),
                z_BD[part].numpy(),
                start,
                self.norms.weight,
                self.norms.bias,
                self.norms.groups,
                _rows(y_BHWC[part]).numpy(),
            )
        return y_BHWC


def _for_each(x_BHWC: Tensor, batch: int) -> Tensor:
    """The one sample that x is, once for each of the batch; x itself, if it has them all."""
    return x_BHWC if len(x_BHWC) == batch else x_BHWC.expand(batch, *x_BHWC.shape[1:]).contiguous()


def _carries(fusion: Fusion) -> list[_Carry]:
    """Those of a fusion that come from other branches."""
    nets = [cast(CarryUp | CarryDown, carry).net for carry in fusion if not isinstance(carry, nn.Identity)]
    return [_Carry([net] if hasattr(net, "conv") else list(net)) for net in nets]


class _Carry:
    """One branch on its way to another, in steps of a convolution and a norm each."""

    def __init__(self, steps: list[Any]) -> None:
        self.convolutions = [step.conv for step in steps]
        self.norms = [_Norms(step.gnorm, dtype=step.gnorm.weight.dtype) for step in steps]

    def convolve(self, x_BHWC: Tensor) -> Tensor:
        """All but the last norm."""
        for number, convolution in enumerate(self.convolutions):
            if number:
                norm = self.norms[number - 1]
                normalize_relu(_rows(x_BHWC).numpy(), *norm.parameters_of_one)
            x_BHWC = _convolve(convolution, x_BHWC)
        return x_BHWC

    def add(self, x_BHWC: Tensor, y_BHWC: Tensor, *, relu: bool) -> None:
        """Adds the last norm of x, which is lost, to y, of the same resolution or a finer one; a ReLU may follow."""
        norm, times = self.norms[-1], y_BHWC.shape[2] // x_BHWC.shape[2]
        rows = _rows(x_BHWC).numpy()
        add_carried(rows, *norm.parameters_of_one, times, relu, y_BHWC.flatten(2).numpy())


class _Post:
    """What a branch goes through after its fusion and ReLU."""

    def __init__(self, post: PostFusion) -> None:
        self.conv, self.norm = post.conv, _Norms(post.gnorm, dtype=post.conv.weight.dtype)

    def __call__(self, y_BHWC: Tensor, z_BD: Tensor, start: int) -> None:
        """Writes its part of the next state, from `start` on."""
        rows = _rows(_convolve(self.conv, y_BHWC)).numpy()
        normalize_into(rows, *self.norm.parameters_of_one, z_BD.numpy(), start)


def _convolve(convolution: nn.Module, x_BHWC: Tensor) -> Tensor:
    """(B, H, W, C) in one piece of memory, which the loops may overwrite."""
    return convolution(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


def _rows(x_BHWC: Tensor) -> Tensor:
    """The same as rows of pixels, (B, R, L); the same memory, if that is in one piece."""
    batch, height, width, channels = x_BHWC.shape
    pixels = math.gcd(height * width, LANES // math.gcd(LANES, channels))
    return x_BHWC.reshape(batch, -1, pixels * channels)
