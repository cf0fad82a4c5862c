"""How models are made: noise-augmented training of an MDEQ, from a job to weights and their card.

Settings are read without torch, as job files are; the rest is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srs_ray.training.progress import TrainingProgress
    from srs_ray.training.reports import EpochReport, StepReport
    from srs_ray.training.training_job import Training, TrainingResult, train

__all__ = ["EpochReport", "StepReport", "Training", "TrainingProgress", "TrainingResult", "train"]

_HOME_OF = {
    "EpochReport": "reports",
    "StepReport": "reports",
    "Training": "training_job",
    "TrainingProgress": "progress",
    "TrainingResult": "training_job",
    "train": "training_job",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
