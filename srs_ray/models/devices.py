"""The device that a process computes on: its name, its share of memory, and float32 that is float32."""

from __future__ import annotations

import torch


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def use_exact_float32() -> None:
    """On CUDA, float32 means float32 (no TF32), and the same kernels are chosen every time."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def keep_to_share(device: str, share: float) -> None:
    """Of a GPU's memory this process takes at most that share from now on: several workers on one GPU each have theirs.

    What goes beyond it is out of memory, as on a smaller GPU, and not a fault of another worker's. A whole GPU or more,
    and a CPU, are left as they are.
    """
    if device == "cuda" and share < 1:
        torch.cuda.set_per_process_memory_fraction(share)
