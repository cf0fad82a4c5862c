"""The version of what is drawn and computed for given settings, which is in every run's fingerprint."""

from __future__ import annotations

SAMPLING_VERSION = 6  # raised when a change to the program can change a count
