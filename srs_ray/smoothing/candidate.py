"""A point's candidate class: what its selection samples choose."""

from __future__ import annotations

from collections.abc import Sequence

NO_CLASS = -1  # of a sample without a finite answer, and of a point whose samples choose no class
ABSTAIN = -1


def winner(classes: Sequence[int], counts: Sequence[int]) -> int:
    """The most frequent of the classes, which `counts` says how often occur; the lowest of those tied.

    NO_CLASS where samples without a class outnumber it, or none has one.
    """
    often = dict(zip(classes, counts, strict=True))
    without = often.pop(NO_CLASS, 0)
    if not often:
        return NO_CLASS
    best = min(often, key=lambda named: (-often[named], named))
    return best if often[best] >= without else NO_CLASS
