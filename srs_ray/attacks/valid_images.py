"""Found images as images that can be classified under the law of the certificate: on its grid, and not too far."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 255
_HALVINGS = 40
_SHRUNK = 1.0 - 1e-6  # float32 rounds; a distance must not pass the radius by that
_LONGEST = 8.0  # times the given movement: small movements vanish in rounding unless they are stretched


def on_the_grid(x_CHW: Tensor, moved_CHW: Tensor, radius: float, clipped: bool) -> tuple[Tensor, float]:
    """The image of whole 255ths in the direction of `moved_CHW` from `x_CHW`, and its distance, at most `radius`.

    `x_CHW` is on the grid. The movement is stretched or shortened so that what rounding makes of it is as long as fits:
    each rounded pixel grows with the movement, so bisection finds that.
    """
    level_CHW = (x_CHW.double() * LEVELS).round()
    moved_CHW = moved_CHW.double() * LEVELS
    most = (LEVELS * radius) ** 2

    def at(stretch: float) -> Tensor:
        there_CHW = (stretch * moved_CHW).round() + level_CHW
        return (there_CHW.clamp(0, LEVELS) if clipped else there_CHW) - level_CHW

    low, high = 0.0, _LONGEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if float(at(middle).square().sum()) <= most else (low, middle)
    steps_CHW = at(low)
    # As `GridNoise` divides: whole 255ths, as float32 has them.
    image_CHW = (level_CHW + steps_CHW).float().div(torch.full((1,), float(LEVELS), device=x_CHW.device))
    return image_CHW, math.sqrt(float(steps_CHW.square().sum())) / LEVELS


def as_it_is(x_CHW: Tensor, moved_CHW: Tensor, radius: float, clipped: bool) -> tuple[Tensor, float]:
    """The same for noise of floating-point numbers, which takes any image."""
    for stretch in (1.0, _SHRUNK):
        image_CHW = (x_CHW.double() + stretch * moved_CHW.double()).float()
        image_CHW = image_CHW.clamp(0.0, 1.0) if clipped else image_CHW
        distance = float(torch.linalg.vector_norm(image_CHW.double() - x_CHW.double()))
        if distance <= radius:
            break
    else:
        return x_CHW, 0.0
    return image_CHW, distance
