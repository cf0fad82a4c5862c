"""The row of one point, as a run directory stores it."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime

from torch import Tensor


@dataclass(frozen=True)
class PointRow:
    """One row of a run directory; `srs_ray.runs.schema` describes its columns. Error rows have no result."""

    index: int
    label: int | None
    source: str | None = None
    class_name: str | None = None
    pixels: str | None = None
    status: str = "ok"
    error: str | None = None
    predicted: int | None = None
    radius: float | None = None
    correct: bool | None = None
    selected: int | None = None
    p_lower: float | None = None
    n0: int | None = None
    n: int | None = None
    selection_classes: list[int] | None = None
    selection_counts: list[int] | None = None
    classes: list[int] | None = None
    counts: list[int] | None = None
    audited: int | None = None
    disagreed: int | None = None
    function_evaluations: int | None = None
    reference_evaluations: int | None = None
    fallbacks: int | None = None
    unconverged: int | None = None
    method: str | None = None
    stopped: str | None = None
    audit_share: float | None = None
    look_n: list[int] | None = None
    look_hits: list[int] | None = None
    look_audited: list[int] | None = None
    look_disagreed: list[int] | None = None
    audited_misses: int | None = None
    found: int | None = None
    look_audited_misses: list[int] | None = None
    look_found: list[int] | None = None
    steps: int | None = None
    sigma: float | None = None
    seconds: float | None = None
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}/{os.getpid()}")
    device: str | None = None
    dtype: str | None = None
    batch: int | None = None
    attempt: int = 1
    finished_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def pixel_digest(x_CHW: Tensor) -> str:
    """sha256, in hexadecimal, of an image's pixels: float32, little-endian, channel by channel, row by row."""
    pixels = x_CHW.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
    return hashlib.sha256(pixels.tobytes()).hexdigest()
