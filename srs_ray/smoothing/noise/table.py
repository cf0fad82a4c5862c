"""The law of Gaussian noise that is rounded to whole 255ths, as thresholds of a 64-bit word.

`J = rint(255 sigma Z)` has `P(J <= j) = Phi((j + 1/2) / (255 sigma))`. A uniform word w of 64 bits gives the J that is
the number of thresholds `2^64 P(J <= j)` at most w, counted from the lowest: inversion, with each threshold rounded to
a whole number. How far that is from the law is computed with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import lru_cache
from math import inf, nextafter
from typing import Any

import numpy as np

LEVELS = 255  # steps of the grid in [0, 1]
LARGEST_SIGMA = 12.0  # 2^16 thresholds would do for 14: about 4,670 sigma of them are above 0
SMALLEST_SIGMA = 1e-6
GUIDE_BITS = 16
_DIGITS = 50
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
_WORDS = Decimal(2**64)


@dataclass(frozen=True, eq=False)
class Table:
    """Thresholds of one sigma, ascending: a word w stands for J = #(thresholds <= w) - lowest.

    `guide` has for the upper 16 bits of a word the number of thresholds at most the least such word. `deviation` is the
    total variation distance between the law of J and what a uniform word gives, rounded up.
    """

    thresholds: np.ndarray[Any, np.dtype[np.uint64]]
    guide: np.ndarray[Any, np.dtype[np.uint16]]
    lowest: int
    deviation: float


@lru_cache(maxsize=8)
def table_of(sigma: float) -> Table:
    """The table of J for this sigma, in pixel units of [0, 1]. Raises ValueError for a sigma that is too large."""
    if sigma > LARGEST_SIGMA:
        raise ValueError(
            f"sigma is {sigma:g}: noise on the image grid is made for sigma up to {LARGEST_SIGMA:g}, in units of the "
            "pixels' range [0, 1]; choose a smaller one, or float noise (noise.generator: philox4x64)"
        )
    if sigma < SMALLEST_SIGMA:
        raise ValueError(
            f"sigma is {sigma:g}: noise on the image grid is made for sigma from {SMALLEST_SIGMA:g} on, in units of "
            "the pixels' range [0, 1]; less never moves a pixel to the next of 256 levels"
        )
    upper, exact = _upper_tails(sigma)
    thresholds = np.array([*reversed(upper), *(2**64 - word for word in upper)], dtype=np.uint64)
    edges = np.arange(2**GUIDE_BITS, dtype=np.uint64) << np.uint64(64 - GUIDE_BITS)
    guide = np.searchsorted(thresholds, edges, side="right").astype(np.uint16)
    for array in (thresholds, guide):
        array.flags.writeable = False
    return Table(thresholds, guide, len(upper), _deviation(upper, exact))


def _upper_tails(sigma: float) -> tuple[list[int], list[Decimal]]:
    """2^64 P(J > j) for j = 0, 1, ..., rounded to whole numbers and down to the last above 0; and P(J > j) itself.

    The exact tails go on for one entry more. `Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/15 + ...)`, in 50 digits.
    """
    words: list[int] = []
    tails: list[Decimal] = []
    with localcontext() as context:
        context.prec = _DIGITS
        step = 1 / (LEVELS * Decimal(float(sigma)))
        peak = 1 / (2 * _PI).sqrt()
        while True:
            x = (len(words) + Decimal("0.5")) * step
            square, term, total, odd = x * x, x, x, 1
            while term > total.scaleb(-_DIGITS):
                odd += 2
                term = term * square / odd
                total += term
            tail = Decimal("0.5") - peak * (-square / 2).exp() * total
            tails.append(tail)
            word = int((tail * _WORDS).to_integral_value(ROUND_HALF_EVEN))
            if word == 0:
                return words, tails
            words.append(word)


def _deviation(words: list[int], tails: list[Decimal]) -> float:
    """Half the sum of |drawn - exact| over all J, by symmetry, with room for the 50 digits' rounding."""
    with localcontext() as context:
        context.prec = _DIGITS
        drawn = [Decimal(word) / _WORDS for word in words] + [Decimal(0)]
        apart = abs(2 * (tails[0] - drawn[0]))  # J = 0
        apart += 2 * sum(
            (abs((drawn[j] - drawn[j + 1]) - (tails[j] - tails[j + 1])) for j in range(len(words))), Decimal(0)
        )
        apart += 2 * abs(tails[-1])
        return nextafter(float(apart / 2 + Decimal("1e-40")), inf)
