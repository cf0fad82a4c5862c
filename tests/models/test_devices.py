"""What can be shown of a GPU's settings without one: what is asked of torch, and when."""

from __future__ import annotations

import pytest
import torch

from srs_ray.models.devices import keep_to_share, use_exact_float32


@pytest.mark.parametrize(
    ("device", "share", "asked"), [("cuda", 0.25, [0.25]), ("cuda", 1.0, []), ("cuda", 2.0, []), ("cpu", 0.5, [])]
)
def test_a_worker_with_a_share_of_a_gpu_has_that_share_of_its_memory(monkeypatch, device, share, asked):
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    keep_to_share(device, share)
    assert shares == asked


def test_float32_is_float32_on_cuda():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        use_exact_float32()
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before
