"""The sizes of the looks at a point before all n samples are drawn, and how alpha is spent over them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, inf

MOST_LOOKS = 5000


def look_sizes(n: int, first: int, growth: float = 2.0) -> tuple[int, ...]:
    """The sample sizes of the looks, ascending: n, the last one over `growth`, rounded up, while not below `first`.

    n alone where the next were below `first`. Raises ValueError unless n and first are at least 1 and growth above 1.
    """
    if n < 1 or first < 1:
        raise ValueError(f"n and the first look's size must be at least 1, found n = {n}, first = {first}")
    if not 1.0 < growth < inf:
        raise ValueError(f"looks must grow by a factor above 1, found {growth}")
    sizes = [n]
    while first <= (smaller := ceil(sizes[-1] / growth)) < sizes[-1]:
        sizes.append(smaller)
        if len(sizes) > MOST_LOOKS:
            raise ValueError(f"more than {MOST_LOOKS:,} looks: raise their growth, {growth:g}, or the first, {first}")
    return tuple(reversed(sizes))


def spend_alpha(alpha: float, sizes: Sequence[int], power: float) -> tuple[float, ...]:
    """Levels of the looks, alpha ((n_j / n)^power - (n_{j-1} / n)^power): each above 0, their exact sum at most alpha.

    A small power spends early. Raises ValueError for sizes that do not ascend, and for a power that leaves a look
    nothing. Source: Kim and DeMets, Biometrika 1987; the bounds here add up the levels and ignore how looks correlate.
    """
    check_sizes(sizes)
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
    spent = [0.0, *(float((size / sizes[-1]) ** power) for size in sizes)]  # the last is exactly 1
    # Three roundings of half a unit each, and the exact differences sum to 1: this much less is never too much.
    alphas = tuple((after - before) * alpha * (1.0 - 2.0**-50) for before, after in pairwise(spent))
    if not min(alphas) > 0.0:
        raise ValueError(f"power {power} leaves a look at one of the sizes {tuple(sizes)} no level of its own")
    return alphas


def check_sizes(sizes: Sequence[int]) -> None:
    """Raise ValueError unless sizes of looks ascend from at least 1."""
    if not sizes or any(before >= after for before, after in pairwise((0, *sizes))):
        raise ValueError(f"the looks' sizes must ascend from at least 1, found {tuple(sizes)}")
