"""The checks of benchmarks/gpu_check.py that say whether the CUDA path is right, on a GPU where there is one."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RIGHT = {
    "noise": [],
    "parity": ["mdeq-small-cifar10", 64],
    "one_function": ["mdeq-small-cifar10", 64, 100],
    "processes": ["mdeq-small-cifar10", 64],
    "waits": ["mdeq-small-cifar10", 64],
    "memory": ["mdeq-small-imagenet"],
}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("check", RIGHT)
def test_the_cuda_path_is_right(monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu_check")
    process = module.started(module.Machine(torch.device("cuda"), quick=False), check, RIGHT[check])
    found = module.ended(process, module.LONGEST)
    assert found["ok"], found
