"""Float noise: float32 normals, sigma times which is added to the image.

It serves runs that were begun with it, and images that are not whole 255ths. Certificates on it are for real
arithmetic: the last bits of x + e can tell a classifier the image (Voracek and Hein 2022, arXiv 2207.07209).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.law import Law, float_law
from srs_ray.smoothing.noise.philox import WORD, counted, numpy_generator, philox4x32

VERSION = 1
NORMALS_AT_ONCE = 2**22  # on a GPU: more than a hundred kernels, most of them of 8 MiB each way


class FloatNoise(ABC):
    """What generators of float32 normals share."""

    @abstractmethod
    def normals(self, seed: int, point: int, stage: Domain, samples: Sequence[int], size: int) -> Tensor:
        """Standard normals of given samples, shape (N, size), float32."""

    def noisy(
        self, x_CHW: Tensor, sigma: float, seed: int, point: int, stage: Domain, samples: Sequence[int]
    ) -> Tensor:
        """See `NoiseGenerator`."""
        e_ND = self.normals(seed, point, stage, samples, x_CHW.numel())
        return e_ND.view(len(samples), *x_CHW.shape).to(x_CHW.device).mul_(sigma).add_(x_CHW)

    def law(self, sigma: float, size: int) -> Law:
        """See `NoiseGenerator`."""
        return float_law(sigma)

    def fault(self, x_CHW: Tensor) -> str | None:
        """See `NoiseGenerator`: any image will do."""
        return None


@dataclass(frozen=True)
class Philox4x64(FloatNoise):
    """numpy's Philox with its float32 ziggurat, on the CPU: key (seed, point), counter (0, sample, stage, version)."""

    name: ClassVar[str] = f"philox4x64-10/numpy-float32-ziggurat/{VERSION}"
    at_once: ClassVar[int] = 1

    def normals(self, seed: int, point: int, stage: Domain, samples: Sequence[int], size: int) -> Tensor:
        """See `FloatNoise`."""
        e_ND = np.empty((len(samples), size), dtype=np.float32)
        generator = numpy_generator(seed, point, stage)  # set to each sample: a new one for each would take longer
        start = generator.bit_generator.state
        for row, sample in zip(e_ND, samples, strict=True):
            start["state"]["counter"][1] = sample
            generator.bit_generator.state = start
            generator.standard_normal(dtype=np.float32, out=row)
        return torch.from_numpy(e_ND)


@dataclass(frozen=True)
class Philox4x32(FloatNoise):
    """Philox4x32-10 in integer tensor operations, on any device.

    Key (seed mod 2^32, point), counter (element // 4, sample, stage + 2^8 version, seed // 2^32). Normals by Box and
    Muller in float64, rounded to float32 at the end, so that the last bits of a device's logarithm or cosine do not
    show.
    """

    device: torch.device
    name: ClassVar[str] = f"philox4x32-10/box-muller-float64/{VERSION}"

    @property
    def at_once(self) -> int:
        """See `NoiseGenerator`."""
        return 1 if self.device.type == "cpu" else NORMALS_AT_ONCE

    def normals(self, seed: int, point: int, stage: Domain, samples: Sequence[int], size: int) -> Tensor:
        """See `FloatNoise`."""
        if point > WORD:
            raise ValueError(f"point {point} does not fit the generator's key (32 bits)")
        blocks = torch.arange(-(-size // 4), device=self.device).unsqueeze(0)
        sample = counted(samples, self.device).unsqueeze(1)
        constants = [torch.full_like(sample, value) for value in (stage + (VERSION << 8), seed >> 32)]
        words = philox4x32((blocks, sample, *constants), (seed & WORD, point))
        uniform_NB4 = torch.stack(words, dim=2).double().add_(0.5).mul_(2.0**-32)
        length_NB2 = uniform_NB4[..., 0::2].log().mul_(-2.0).sqrt_()
        angle_NB2 = uniform_NB4[..., 1::2] * (2.0 * math.pi)
        e_NB22 = torch.stack([length_NB2 * angle_NB2.cos(), length_NB2 * angle_NB2.sin()], dim=3)
        return e_NB22.flatten(1)[:, :size].float()
