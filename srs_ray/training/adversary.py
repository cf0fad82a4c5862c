"""SmoothAdv (Salman et al. 2019, arXiv 1906.04584): images moved against the smoothed classifier, to be trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-12


def smoothed_loss(logits_MBK: Tensor, y_B: Tensor) -> Tensor:
    """`-log` of the mean probability of class y over the M noisy copies of each image, shape (B,)."""
    log_p_MBK = F.log_softmax(logits_MBK, dim=2)
    mean_log_p_BK = torch.logsumexp(log_p_MBK, dim=0) - torch.tensor(float(len(logits_MBK))).log()
    return F.nll_loss(mean_log_p_BK, y_B, reduction="none")


def attack(
    logits_of: Callable[[Tensor], Tensor], x_BCHW: Tensor, y_B: Tensor, noise_MBCHW: Tensor, radius: float, steps: int
) -> Tensor:
    """Images within `radius` (l2, pixel units) of `x_BCHW` that raise the smoothed loss of class y on this noise.

    Projected gradient ascent in `steps` steps of `2 radius / steps` along the gradient of each image; `logits_of`
    takes (M B, C, H, W) and carries a gradient to its input. Pixels may leave [0, 1], as noisy ones do.
    """
    copies, batch = noise_MBCHW.shape[:2]
    moved_BCHW = torch.zeros_like(x_BCHW)
    for _ in range(steps):
        moved_BCHW = moved_BCHW.detach().requires_grad_()
        noisy_MBCHW = x_BCHW + moved_BCHW + noise_MBCHW
        logits_MBK = logits_of(noisy_MBCHW.flatten(0, 1)).unflatten(0, (copies, batch))
        (slope_BCHW,) = torch.autograd.grad(smoothed_loss(logits_MBK, y_B).sum(), moved_BCHW)
        with torch.no_grad():
            moved_BCHW = moved_BCHW + (2 * radius / steps) * slope_BCHW / _norms(slope_BCHW)
            moved_BCHW = moved_BCHW * (radius / _norms(moved_BCHW)).clamp_max(1.0)
    return (x_BCHW + moved_BCHW).detach()


def _norms(x_BCHW: Tensor) -> Tensor:
    """The l2 norm of each image, shape (B, 1, 1, 1), never quite 0."""
    return torch.linalg.vector_norm(x_BCHW, dim=(1, 2, 3), keepdim=True).clamp_min(_TINY)
