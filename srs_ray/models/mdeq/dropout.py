"""Variational dropout (Gal, Ghahramani 2016, arXiv 1512.05287): one mask for all evaluations of a solve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from srs_ray.models.mdeq.model import MDEQ, ResidualBlock


@contextmanager
def variational_dropout(model: MDEQ, rate: float, batch: int, generator: torch.Generator) -> Iterator[None]:
    """While entered, the second convolution of each residual block loses a share `rate` of its output channels.

    Which ones is drawn once per image and block: f stays one map, and has a fixed point. What is left is scaled by
    1 / (1 - rate).
    """
    hooks = []
    for block in model.fullstage.modules():
        if rate > 0 and isinstance(block, ResidualBlock):
            mask_BC11 = torch.empty(batch, block.conv2.out_channels, 1, 1, device=model.device)
            mask_BC11.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
            hooks.append(block.conv2.register_forward_hook(_multiply_by(mask_BC11)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _multiply_by(mask_BC11: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * mask_BC11.to(output.dtype)

    return hook
