"""The noise of a job, and what is drawn of it: how it stands to the Gaussian that certificates speak of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from srs_ray.settings import Settings

REAL_ARITHMETIC = (
    "in real arithmetic: this run's noise is of floating-point numbers, whose last bits can tell a classifier the image"
)


class NoiseSettings(Settings):
    """Gaussian noise. Certificates by float noise hold in real arithmetic only, those by grid noise as computed."""

    sigma: float = Field(gt=0, description="Standard deviation, in pixel units of [0, 1].")
    generator: Literal["auto", "grid", "philox4x64", "philox4x32"] = Field(
        "auto",
        description="`grid` keeps noisy images on the grid of whole 255ths; `auto` is `grid`; the others draw float "
        "noise.",
    )


@dataclass(frozen=True)
class Law:
    """What one noisy copy of an image is drawn from.

    It is Gaussian noise of standard deviation `sigma`, in pixel units of [0, 1], but for a total variation distance of
    at most `deviation`, and what `caveat` says.
    """

    sigma: float
    deviation: float = 0.0
    caveat: str = ""

    def p_lower(self, drawn: float) -> float:
        """A lower bound on p_A under Gaussian noise, from one on the probability under what is drawn; at least 0."""
        return max(0.0, drawn - self.deviation)

    def p_drawn(self, p: float) -> float:
        """What a bound on the probability under what is drawn must exceed for `p_lower` to exceed p."""
        return p + self.deviation


def float_law(sigma: float) -> Law:
    """That of float noise: sigma is a float32 where it is multiplied by, and no radius is of a larger one."""
    return Law(min(sigma, float(np.float32(sigma))), caveat=REAL_ARITHMETIC)
