"""Projected gradient descent in an l2 ball (Madry et al. 2018), against any loss of an image.

Shapes: M noisy copies, C channels, H and W pixels, K classes. Distances are l2, in pixel units of [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

STEP = 2.5  # radii that all steps together are long
_TINY = 1e-12


@dataclass(frozen=True)
class Ball:
    """Images within an l2 distance of `x_CHW`; `clipped`: with pixels in [0, 1]."""

    x_CHW: Tensor
    radius: float
    clipped: bool

    def project(self, moved_CHW: Tensor) -> Tensor:
        """The image nearest to x + `moved_CHW` of the ball, less x; with clipping, an image near it."""
        moved_CHW = moved_CHW * (self.radius / l2_norm(moved_CHW)).clamp_max(1.0)
        if self.clipped:  # x lies in [0, 1] itself, so that no pixel moves further by it
            moved_CHW = (self.x_CHW + moved_CHW).clamp(0.0, 1.0) - self.x_CHW
        return moved_CHW

    def step(self, moved_CHW: Tensor, slope_CHW: Tensor, steps: int) -> Tensor:
        """One of `steps` steps up the slope, back in the ball: 2.5 radius / steps along the slope's direction."""
        length = STEP * self.radius / steps
        return self.project(moved_CHW + length * slope_CHW / l2_norm(slope_CHW))


def l2_norm(x_CHW: Tensor) -> Tensor:
    """The l2 norm, never quite 0."""
    return torch.linalg.vector_norm(x_CHW).clamp_min(_TINY)


def ascend(slope_of: Callable[[Tensor], Tensor], ball: Ball, start_CHW: Tensor, steps: int) -> Tensor:
    """How far the image has moved after `steps` steps of gradient ascent in the ball, from x + `start_CHW`.

    `slope_of` takes an image and gives the gradient of the loss there; where that is not finite it counts as 0.
    """
    moved_CHW = ball.project(start_CHW)
    for _ in range(steps):
        slope_CHW = torch.nan_to_num(slope_of(ball.x_CHW + moved_CHW), nan=0.0, posinf=0.0, neginf=0.0)
        moved_CHW = ball.step(moved_CHW, slope_CHW, steps)
    return moved_CHW


def smoothed_slope(log_p_of: Callable[[Tensor], Tensor], x_CHW: Tensor, noise_parts: Iterator[Tensor]) -> Tensor:
    """The gradient at `x_CHW` of -log of the mean over noise draws of p (Salman et al. 2019, arXiv 1906.04584).

    `log_p_of` takes noisy images (M, C, H, W) and gives log p, shape (M,). `noise_parts` gives the draws in parts, so
    that one part alone is in memory: log of the sum of all has the parts' gradients, weighted by their softmax.
    """
    sums, slopes = [], []
    for noise_MCHW in noise_parts:
        with torch.enable_grad():
            leaf_CHW = x_CHW.detach().clone().requires_grad_()
            sum_of_part = torch.logsumexp(log_p_of(leaf_CHW + noise_MCHW), dim=0)
            (slope_CHW,) = torch.autograd.grad(sum_of_part, leaf_CHW)
        sums.append(sum_of_part.detach())
        slopes.append(slope_CHW)
    weight_P = torch.softmax(torch.stack(sums), dim=0)
    return -torch.einsum("p,pchw->chw", weight_P, torch.stack(slopes))
