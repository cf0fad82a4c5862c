"""The row of one attacked point, as an attack's directory stores it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True)
class AttackRow:
    """One row; `srs_ray.runs.attack_schema` describes its columns. Error rows have no result."""

    index: int
    label: int | None
    source: str | None = None
    class_name: str | None = None
    pixels: str | None = None
    status: str = "ok"
    error: str | None = None
    predicted: int | None = None
    radius: float | None = None
    attacked: int | None = None
    correct: bool | None = None
    contradicts: bool | None = None
    tried_radii: list[float] | None = None
    screened_hits: list[int] | None = None
    check_distances: list[float] | None = None
    check_hits: list[int] | None = None
    check_classes: list[int] | None = None
    check_counts: list[int] | None = None
    check_p_values: list[float] | None = None
    evaluations: int | None = None
    gradients: int | None = None
    distance: float | None = None
    found_class: int | None = None
    base_class: int | None = None
    base_distance: float | None = None
    sigma: float | None = None
    seconds: float | None = None
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}/{os.getpid()}")
    device: str | None = None
    dtype: str | None = None
    batch: int | None = None
    attempt: int = 1
    finished_at: datetime = field(default_factory=lambda: datetime.now(UTC))
