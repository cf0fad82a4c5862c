"""How models are made: Gaussian-augmented training of an MDEQ, from a job to a weights file."""

from __future__ import annotations

from srs_ray.training.progress import TrainingProgress
from srs_ray.training.training_job import EpochReport, TrainingResult, train

__all__ = ["EpochReport", "TrainingProgress", "TrainingResult", "train"]
