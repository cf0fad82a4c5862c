"""What can be shown of a GPU's settings without one: what is asked of torch, and when."""

from __future__ import annotations

import pytest
import torch

from srs_ray.models.device_failure import is_device_failure
from srs_ray.models.devices import keep_to_share, use_exact_float32
from srs_ray.models.out_of_memory import is_out_of_memory


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


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "GET was unable to find an engine to execute this computation",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`",
    ],
)
def test_every_message_for_a_lack_of_memory_is_known_and_is_no_failure_of_the_device(said):
    assert is_out_of_memory(RuntimeError(said))
    assert not is_device_failure(RuntimeError(said))


@pytest.mark.parametrize(
    "said", ["CUDA error: an illegal memory access was encountered", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"]
)
def test_a_failure_of_the_device_is_no_lack_of_memory(said):
    assert is_device_failure(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError(said))
