from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material that is not part of the repository: trained checkpoints, expected logits, real images."""
    if not SHARED.is_dir():
        pytest.skip("the folder `shared` with checkpoints and images is not beside the repository")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(1)
