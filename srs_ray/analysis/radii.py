"""The radii that tables are asked for: numbers that remember how they were written."""

from __future__ import annotations

import math
from collections.abc import Iterable

from srs_ray.errors import SrsRayError


class Radius(float):
    """An l2 radius in pixel units of [0, 1] that keeps its label, so that a column says `36/255` and not 0.141."""

    label: str

    def __new__(cls, value: float, label: str | None = None) -> Radius:
        """`value` with `label`, by default the value in short."""
        radius = super().__new__(cls, value)
        radius.label = f"{value:g}" if label is None else label
        return radius


def parse_radii(radii: str | Iterable[str | float]) -> list[Radius]:
    """The radii in `"0, 0.25, 36/255"` or in a list of numbers and such pieces, in the order given.

    Raises SrsRayError naming the piece that is no number or fraction of numbers, negative, or not finite.
    """
    pieces = radii.split(",") if isinstance(radii, str) else list(radii)
    if not pieces:
        raise SrsRayError("no radii given; expected numbers or fractions, as in 0,0.25,36/255")
    return [_parse_radius(piece) for piece in pieces]


def _parse_radius(piece: str | float) -> Radius:
    if isinstance(piece, Radius):
        return piece
    label = piece.strip() if isinstance(piece, str) else f"{piece:g}"
    try:
        numerator, *denominator = [float(part) for part in label.split("/")] if isinstance(piece, str) else [piece]
        if len(denominator) > 1:
            raise ValueError
        value = numerator / denominator[0] if denominator else numerator
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise SrsRayError(f"radius {label!r} is not usable: expected numbers or fractions >= 0, as in 0,0.25,36/255")
    return Radius(value, label)
