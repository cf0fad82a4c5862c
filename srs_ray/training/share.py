"""A process' part of a data-parallel training, and how it agrees with the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Which part of each batch a process of a data-parallel training takes: images rank, rank + size, ..."""

    rank: int = 0
    size: int = 1

    def agree(self, here: bool) -> bool:
        """Whether it is so in any of the processes, which all ask at the same place."""
        if self.size == 1:
            return here
        flag = torch.tensor(float(here), device="cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def rows(self, order_B: Tensor) -> Tensor:
        """Its part of a batch, never empty: of a batch with fewer images than processes some take the same image."""
        return order_B[self.rank % len(order_B) :: self.size]

    def average(self, tensors: list[Tensor], images: int) -> None:
        """Puts the mean over the processes, weighted by their `images`, into each of the tensors, in one message."""
        flat = torch.cat([tensor.flatten() for tensor in tensors] + [tensors[0].new_ones(1)]) * images
        torch.distributed.all_reduce(flat)
        flat = flat[:-1] / flat[-1]
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def of_first(self, value: T) -> T:
        """The value that process 0 passes, in all of the processes."""
        if self.size == 1:
            return value
        held = [value]
        torch.distributed.broadcast_object_list(held)
        return held[0]
