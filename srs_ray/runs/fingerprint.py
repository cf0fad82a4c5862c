"""Fingerprints: the settings that decide what a row means, and whether two runs agree on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any


class Absent(Enum):
    """The value of a setting that one of two fingerprints does not have."""

    ABSENT = "(not set)"

    def __str__(self) -> str:
        return self.value


ABSENT = Absent.ABSENT

# Settings that older programs did not put into a fingerprint. A run without one of them is continued all the same: its
# own fingerprint stays as it is, and the caller says that this setting is not compared.
LATER = frozenset({"data.sample", "evaluation.sample"})


def digest(settings: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the settings as canonical JSON: the same for any order of keys, and for 1 and 1.0.

    `settings` maps dotted names to JSON scalars or lists of them. Raises ValueError for NaN and infinities, TypeError
    for what JSON does not have. Numbers are written as RFC 8785 does where it matters here: whole floats as integers.
    """
    return hashlib.sha256(_canonical(dict(settings)).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(setting, old value, new value) for each that differs, by name; ABSENT stands for a value that is not there.

    Empty exactly when the digests agree.
    """
    pairs = [(name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in sorted({*old, *new})]
    return [(name, was, now) for name, was, now in pairs if not _same(was, now)]


def not_compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The settings of LATER that the new fingerprint has and the old one, of an older program, does not."""
    return sorted(name for name in LATER if name in new and name not in old)


def _same(was: Any, now: Any) -> bool:
    if was is ABSENT or now is ABSENT:
        return was is now
    return _canonical(was) == _canonical(now)


def _canonical(value: Any) -> str:
    return json.dumps(_whole_numbers_as_integers(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _whole_numbers_as_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _whole_numbers_as_integers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_numbers_as_integers(item) for item in value]
    return value
