"""Where an unfinished training is kept: one file, replaced as a whole, that only the same training goes on from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from srs_ray.errors import WeightsError
from srs_ray.runs.fingerprint import differences, not_compared


@dataclass(frozen=True)
class Checkpoint:
    """After `batch` batches of `epoch` (from 1): the trainer's state, sums of this epoch's losses, epochs reported.

    `fingerprint` maps dotted settings to plain values.
    """

    fingerprint: dict[str, Any]
    epoch: int
    batch: int
    trainer: dict[str, Any]
    sums: dict[str, tuple[float, int]]
    seconds: float
    reports: list[dict[str, Any]]


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes it aside and then over the last one, so that a kill at any moment leaves a whole one."""
    aside = path.with_suffix(".new")
    try:
        with aside.open("wb") as file:
            torch.save(vars(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer tells of a full disk by a RuntimeError
        raise WeightsError(
            f"cannot write the checkpoint {path}: {error}; what was trained since the last is lost"
        ) from error


def load(path: Path, fingerprint: Mapping[str, Any], device: torch.device) -> Checkpoint | None:
    """The checkpoint at `path`, or None if there is none.

    Raises WeightsError if it cannot be read (nothing but tensors and plain values is), or if it is of a training with
    another fingerprint; the differing settings are named.
    """
    if not path.exists():
        return None
    try:
        found = Checkpoint(**torch.load(path, map_location=device, weights_only=True))
    except Exception as error:  # a damaged file can fail in any way, and none of them is ours to mend
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a readable checkpoint: {reason}; remove it to start anew") from error
    later = not_compared(found.fingerprint, fingerprint)
    changed = [
        f"{name}: {was} there, {now} here"
        for name, was, now in differences(found.fingerprint, fingerprint)
        if name not in later
    ]
    if changed:
        raise WeightsError(
            f"{path} is of another training ({'; '.join(changed)}): give another output, or remove it to start anew"
        )
    return found
