"""The domains of randomness of one point."""

from __future__ import annotations

from enum import IntEnum


class Domain(IntEnum):
    """The domains of randomness of one point; none shares a counter with another."""

    SELECTION = 0
    ESTIMATION = 1
    AUDIT_CHOICE = 2
    AUDIT_UNIFORM = 3
    PREDICTION = 4
    CHAIN_AGREEMENT = 5
    MISS_CHOICE = 6
    ANCHOR = 7
    CALIBRATION = 8
    ATTACK = 9
    ATTACK_CHECK = 10
