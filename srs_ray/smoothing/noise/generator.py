"""What a noise generator gives: noisy copies as a pure function of (seed, point, stage, sample, element)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.law import Law


class NoiseGenerator(Protocol):
    """Draws noisy copies of an image: any of them can be drawn again alone, on any worker, in any order.

    Generators are counter-based: the run's seed and the point are the key, stage and sample the counter. No state is
    carried from one sample to the next. `name` is in the fingerprint and has the version of what is drawn. `at_once` is
    how many numbers it would rather draw at once than fewer: on a GPU every step of it has its price.
    """

    name: ClassVar[str]

    @property
    def at_once(self) -> int: ...

    def noisy(
        self, x_CHW: Tensor, sigma: float, seed: int, point: int, stage: Domain, samples: Sequence[int]
    ) -> Tensor:
        """The noisy copies of these numbers, shape (N, C, H, W), float32, where the image is."""

    def law(self, sigma: float, size: int) -> Law:
        """How a noisy copy of `size` values stands to Gaussian noise. ValueError for a sigma it cannot draw."""

    def fault(self, x_CHW: Tensor) -> str | None:
        """Why noisy copies of this image in [0, 1] cannot be drawn, and what can be done; None where they can."""
