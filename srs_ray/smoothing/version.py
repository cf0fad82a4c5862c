"""The version of what is drawn and computed for given settings, which is in every run's fingerprint."""

from __future__ import annotations

SAMPLING_VERSION = 7  # raised when a change to the program can change a count
_BEFORE_GRID_NOISE = {"philox4x64": 6, "philox4x32": 6}  # what only brought another generator changed nothing for these


def sampling_version(generator: str, of_method: int = 0) -> int:
    """The version of sampling with this noise generator, by a method that only `of_method` changed: the last that
    changed what they give."""
    return max(_BEFORE_GRID_NOISE.get(generator, SAMPLING_VERSION), of_method)
