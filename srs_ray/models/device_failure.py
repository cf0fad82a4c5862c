"""Tells a device that failed from other errors: what runs on it afterwards in the same process fails too."""

from __future__ import annotations

import torch

from srs_ray.models.out_of_memory import is_out_of_memory

_DEVICE_FAILED = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS")


def is_device_failure(error: BaseException) -> bool:
    """Whether the error, or one that it was raised from, says that a GPU failed, for another reason than its memory."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and not is_out_of_memory(cause) and _says_so(cause):
            return True
        cause = cause.__cause__
    return False


def _says_so(error: RuntimeError) -> bool:
    return isinstance(error, torch.AcceleratorError) or any(text in str(error) for text in _DEVICE_FAILED)
