"""What keeps a tensor from being an image that a model takes."""

from __future__ import annotations

from torch import Tensor


def image_fault(x_CHW: Tensor, shape: tuple[int, int, int]) -> str | None:
    """What keeps a tensor from being an image of that shape with pixels in [0, 1]; None if nothing does."""
    if tuple(x_CHW.shape) != shape:
        return f"the model takes images of shape {shape}, found {tuple(x_CHW.shape)}"
    if not x_CHW.is_floating_point():
        return f"pixels are floating-point numbers in [0, 1], found {x_CHW.dtype}: divide 8-bit pixels by 255"
    low, high = x_CHW.min().item(), x_CHW.max().item()  # NaN where any pixel is
    if not (low >= 0 and high <= 1):
        return f"pixels lie in [0, 1] and are finite, found {low:g} to {high:g}"
    return None
