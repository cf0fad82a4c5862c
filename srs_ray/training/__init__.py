"""How models are made: noise-augmented training of an MDEQ, from a job to weights and their card."""

from __future__ import annotations

from srs_ray.training.progress import TrainingProgress
from srs_ray.training.reports import EpochReport, StepReport
from srs_ray.training.training_job import Training, TrainingResult, train

__all__ = ["EpochReport", "StepReport", "Training", "TrainingProgress", "TrainingResult", "train"]
