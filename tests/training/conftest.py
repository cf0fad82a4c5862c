from __future__ import annotations

from typing import Any

import pytest

from srs_ray.training.settings import TrainJob


@pytest.fixture(scope="session")
def brief_job() -> dict[str, Any]:
    """A training of seconds: both phases on 192 digits, evaluated on 1."""
    return {
        "model": {"arch": "mdeq-tiny-digits"},
        "data": {"kind": "digits", "split": "train", "stop": 192},
        "evaluation": {"kind": "digits", "split": "test", "start": 3, "stop": 4},
        "noise": {"sigma": 0.25},
        "training": {
            "unrolled_epochs": 1,
            "equilibrium_epochs": 1,
            "unrolled_steps": 2,
            "jacobian": {"weight": 1.0, "every": 2},
            "batch": 48,
            "augment": "crop-flip",
        },
        "execution": {"device": "cpu"},
        "output": "weights.safetensors",
    }


@pytest.fixture
def job(brief_job: dict[str, Any], tmp_path: Any) -> TrainJob:
    return TrainJob.model_validate(brief_job | {"output": str(tmp_path / "new" / "weights.safetensors")})
