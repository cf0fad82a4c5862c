"""Circular 3x3 cross-correlations, their adjoints, and their symbols: what convolutional monotone models consist of."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional

from srs_ray.models.monotone.proven import UNIT, frobenius, largest_singular_value


def correlate(z_BCHW: Tensor, kernel: Tensor) -> Tensor:
    """Circular cross-correlation by a kernel (out, in, 3, 3), same size."""
    return functional.conv2d(functional.pad(z_BCHW, (1, 1, 1, 1), mode="circular"), kernel)


def adjoint(z_BCHW: Tensor, kernel: Tensor) -> Tensor:
    """The adjoint of `correlate` by the same kernel."""
    return correlate(z_BCHW, kernel.flip(2, 3).transpose(0, 1))


def correlate_by_two(z_BCHW: Tensor, kernel: Tensor) -> Tensor:
    """`correlate`, of which every other row and column is kept, from the first."""
    return correlate(z_BCHW, kernel)[:, :, ::2, ::2]


def adjoint_by_two(z_BCHW: Tensor, kernel: Tensor) -> Tensor:
    """The adjoint of `correlate_by_two`, onto a side of twice the size."""
    batch, channels, height, width = z_BCHW.shape
    spread = z_BCHW.new_zeros(batch, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = z_BCHW
    return adjoint(spread, kernel)


def symbols(kernel: np.ndarray, size: int) -> np.ndarray:
    """The matrices (size * size, out, in) by which a circular correlation acts on each frequency of such a grid."""
    turns = np.exp(2j * np.pi / size * np.outer(np.arange(size), np.arange(-1, 2)))  # frequency, tap
    return np.einsum("oihw,ah,bw->aboi", kernel, turns, turns).reshape(size * size, *kernel.shape[:2])


def norm_of(kernel: np.ndarray, size: int) -> float:
    """A proved upper bound on the norm of `correlate` on a grid of that size: that of its symbols.

    Each symbol is a sum of 9 taps times two turns. The angle of a turn is below 2 pi and has 4 roundings, so that a
    turn is within 30 u of its complex number of modulus 1, and a symbol off by at most 256 u times the sum of the taps'
    absolute values.
    """
    off = 256 * UNIT * frobenius(np.abs(kernel).sum(axis=(2, 3)))
    return largest_singular_value(symbols(kernel, size)) + off


def largest_estimate(kernel: Tensor) -> float:
    """About the norm of `correlate`, by few frequencies, for a choice of step sizes: no bound."""
    return largest_singular_value(symbols(kernel.detach().double().cpu().numpy(), 4), rounds=4)
