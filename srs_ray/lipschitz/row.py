"""The row of one point with a deterministic certificate, as a run directory stores it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True)
class LipschitzRow:
    """One `ok` row of a run directory; `srs_ray.runs.schema` describes its columns."""

    index: int
    label: int | None
    predicted: int
    radius: float
    correct: bool | None
    leading: int
    runner_up: int
    logit_margin: float
    allowance: float
    pair_constant: float
    layer_evaluations: int
    seconds: float
    pixels: str | None = None
    source: str | None = None
    class_name: str | None = None
    status: str = "ok"
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}/{os.getpid()}")
    device: str = "cpu"
    dtype: str = "float64"
    batch: int = 1
    attempt: int = 1
    finished_at: datetime = field(default_factory=lambda: datetime.now(UTC))
