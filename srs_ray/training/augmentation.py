"""Random crops and flips, image by image, for a batch in memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["none", "flip", "crop-flip"]
PADDED_PART = 8


def augment(x_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """`none`: the images as they are. `flip`: mirrored left to right with probability 1/2. `crop-flip`, the custom on
    CIFAR: before that a random crop of each image, padded with zeros by an eighth of its size on each side.
    """
    if augmentation == "none":
        return x_BCHW
    if augmentation == "crop-flip":
        x_BCHW = _random_crop(x_BCHW, generator)
    mirrored_B = torch.randint(0, 2, (len(x_BCHW),), generator=generator, device=x_BCHW.device).bool()
    return torch.where(mirrored_B.view(-1, 1, 1, 1), x_BCHW.flip(3), x_BCHW)


def _random_crop(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    batch, _, height, width = x_BCHW.shape
    device = x_BCHW.device
    pad_h, pad_w = height // PADDED_PART, width // PADDED_PART
    padded_BHWC = F.pad(x_BCHW, (pad_w, pad_w, pad_h, pad_h)).permute(0, 2, 3, 1)
    top_B11 = torch.randint(0, 2 * pad_h + 1, (batch, 1, 1), generator=generator, device=device)
    left_B11 = torch.randint(0, 2 * pad_w + 1, (batch, 1, 1), generator=generator, device=device)
    rows_BH1 = top_B11 + torch.arange(height, device=device).view(1, -1, 1)
    columns_B1W = left_B11 + torch.arange(width, device=device).view(1, 1, -1)
    images_B11 = torch.arange(batch, device=device).view(-1, 1, 1)
    return padded_BHWC[images_B11, rows_BH1, columns_B1W].permute(0, 3, 1, 2).contiguous()
