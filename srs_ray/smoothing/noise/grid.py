"""Gaussian noise on the image grid: noisy images are whole 255ths, and sound in floating point.

Let Q round to the grid of whole 255ths. For an image x on the grid, Q(x + sigma Z) = x + J / 255, J = rint(255 sigma Z)
in each pixel, so x + J / 255 is an exact noisy input of F o Q, for which Cohen's theorem holds at every real image. F
reads float32(k + J) / 255, with k the image's bytes: a function of integers, whose own rounding is part of F. With
noise of floating-point numbers F could read the image off the last bits of x + e (Voracek and Hein 2022,
arXiv 2207.07209).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, nextafter
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.law import Law
from srs_ray.smoothing.noise.philox import WORD, counted, philox4x32, words_of_blocks
from srs_ray.smoothing.noise.table import GUIDE_BITS, LEVELS, Table, table_of
from srs_ray.solvers.compiling import Array, compiled

VERSION = 2  # of the counter; what float noise draws has 1
DRAWN_AT_ONCE = 2**22  # values, on a GPU: some sixty kernels on tensors of a few MB
OFF_GRID = 2.0**-23  # how far float32 may put a whole 255th: two units in the last place of 1


@dataclass(frozen=True)
class GridNoise:
    """J by inverting its law with one 64-bit word of Philox4x32-10 a value; the same bits on every device.

    Key (seed mod 2^32, point), counter (element // 2, sample, stage + 2^8 version, seed // 2^32): one to one for seeds
    below 2^63, points and samples below 2^32.
    """

    device: torch.device
    thresholds: dict[float, Tensor] = field(default_factory=dict, compare=False, repr=False)
    name: ClassVar[str] = f"grid255/philox4x32-10/inversion-64-bit/{VERSION}"

    @property
    def at_once(self) -> int:
        """See `NoiseGenerator`."""
        return 1 if self.device.type == "cpu" else DRAWN_AT_ONCE

    def law(self, sigma: float, size: int) -> Law:
        """See `NoiseGenerator`: values are independent, so their deviations from the law add up."""
        return Law(sigma, nextafter(size * table_of(sigma).deviation, inf))

    def fault(self, x_CHW: Tensor) -> str | None:
        """See `NoiseGenerator`: pixels must be whole 255ths, as float32 has them."""
        x = x_CHW.double()
        apart = (x - (x * LEVELS).round() / LEVELS).abs()
        if bool((apart <= OFF_GRID).all()):
            return None
        place = int(apart.flatten().argmax())
        return (
            f"its pixels are not all whole 255ths (one is {x.flatten()[place].item():.9g}), and noise on the image "
            "grid is for images that are: round them to the grid (data.pixels: rounded in a job, round_pixels=True "
            "in Python), or take float noise (noise.generator: philox4x64, in Python noise='philox4x64'), whose "
            "certificates hold in real arithmetic only"
        )

    def noisy(
        self, x_CHW: Tensor, sigma: float, seed: int, point: int, stage: Domain, samples: Sequence[int]
    ) -> Tensor:
        """See `NoiseGenerator`."""
        level_D = (x_CHW.flatten().double() * LEVELS).round().to(torch.int32)
        j_ND = self.draws(sigma, seed, point, stage, samples, x_CHW.numel())
        # Divided by a tensor that lies on the device: for a number, CUDA multiplies by what it takes for the inverse.
        levels = torch.full((1,), float(LEVELS), device=x_CHW.device)
        return (j_ND.to(x_CHW.device).add_(level_D)).float().div_(levels).view(len(samples), *x_CHW.shape)

    def draws(self, sigma: float, seed: int, point: int, stage: Domain, samples: Sequence[int], size: int) -> Tensor:
        """J of given samples in units of 1/255, shape (N, size), int32, on the generator's device."""
        if point > WORD or (len(samples) and max(samples) > WORD):
            raise ValueError(f"point {point} or a sample of it does not fit the generator's 32 bits")
        key, rest = (seed & WORD, point), (stage + (VERSION << 8), seed >> 32)
        if self.device.type == "cpu":
            return _drawn_by_loops(table_of(sigma), key, samples, rest, size)
        if sigma not in self.thresholds:  # which lie on the device from then on
            self.thresholds[sigma] = signed_thresholds(table_of(sigma)).to(self.device)
        return drawn_by_tensors(self.thresholds[sigma], table_of(sigma).lowest, key, samples, rest, size)


def signed_thresholds(table: Table) -> Tensor:
    """Thresholds as signed numbers in their order: a word's highest bit, turned over, is the sign."""
    return torch.from_numpy((table.thresholds ^ np.uint64(1 << 63)).view(np.int64))


def drawn_by_tensors(
    thresholds: Tensor, lowest: int, key: tuple[int, int], samples: Sequence[int], rest: tuple[int, int], size: int
) -> Tensor:
    """J by integer operations of tensors, where the `signed_thresholds` are."""
    device = thresholds.device
    blocks = torch.arange(-(-size // 2), device=device).unsqueeze(0)
    sample = counted(samples, device).unsqueeze(1)
    constants = [torch.full_like(sample, value) for value in rest]
    words = philox4x32((blocks, sample, *constants), key)
    word_ND = torch.stack([(words[0] << 32) | words[1], (words[2] << 32) | words[3]], dim=2).flatten(1)[:, :size]
    return inverted(word_ND, thresholds, lowest)


def inverted(word_ND: Tensor, thresholds: Tensor, lowest: int) -> Tensor:
    """J of 64-bit words in int64 tensors, int32."""
    signed = word_ND ^ torch.iinfo(torch.int64).min
    return torch.searchsorted(thresholds, signed, right=True, out_int32=True).sub_(lowest)


def _drawn_by_loops(
    table: Table, key: tuple[int, int], samples: Sequence[int], rest: tuple[int, int], size: int
) -> Tensor:
    j_ND = np.empty((len(samples), size), dtype=np.int32)
    sample_N = np.asarray(samples, dtype=np.int64)
    _draw(key, sample_N, rest, table.thresholds, table.guide, table.lowest, j_ND)
    return torch.from_numpy(j_ND)


@compiled
def _draw(
    key: tuple[int, int],
    sample_N: Array,
    rest: tuple[int, int],
    thresholds: Array,
    guide: Array,
    lowest: int,
    j_ND: Array,
) -> None:
    """Writes J of each sample: words, then for each the count of thresholds, begun at the guide's."""
    size = j_ND.shape[1]
    word_D = np.empty(size + size % 2, dtype=np.uint64)
    shift = np.uint64(64 - GUIDE_BITS)
    for n in range(len(sample_N)):
        words_of_blocks(key, (sample_N[n], rest[0], rest[1]), word_D)
        for i in range(size):
            word = word_D[i]
            count = np.int64(guide[word >> shift])
            while count < len(thresholds) and word >= thresholds[count]:
                count += 1
            j_ND[n, i] = count - lowest
