"""A seed for settings that were chosen by results: the noise that chose them must not certify them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srs_ray.job import Job
from srs_ray.runs.fingerprint import digest

SEED = "execution.seed"


def fresh_seed(job: Job, settings: Mapping[str, Any]) -> int:
    """A seed below 2^31 that is not the job's, the same each time for this job and these settings, by dotted name.

    Other settings, and other jobs, get others. docs/statistics.md says why a proposal needs one.
    """
    chosen = {f"chosen.{name}": value for name, value in settings.items() if name != SEED}
    number = int(digest({**job.smoothing.fingerprint(), SEED: job.execution.seed, **chosen})[:8], 16) >> 1
    return number if number != job.execution.seed else number ^ 1
