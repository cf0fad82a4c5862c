from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from srs_ray.training.augmentation import augment


def images() -> Tensor:
    return torch.rand(400, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def windows_BNCHW(x_BCHW: Tensor) -> Tensor:
    """All 25 crops of each image padded by 2."""
    padded = F.pad(x_BCHW, (2, 2, 2, 2))
    return torch.stack([padded[:, :, i : i + 16, j : j + 16] for i in range(5) for j in range(5)], dim=1)


def matches_BN(windows: Tensor, x_BCHW: Tensor) -> Tensor:
    return (windows == x_BCHW.unsqueeze(1)).all(dim=(2, 3, 4))


def test_crop_flip_takes_a_window_of_the_padded_image_and_mirrors_about_half_of_them() -> None:
    x_BCHW = images()
    augmented_BCHW = augment(x_BCHW, "crop-flip", torch.Generator().manual_seed(1))
    windows = windows_BNCHW(x_BCHW)
    straight_BN, mirrored_BN = matches_BN(windows, augmented_BCHW), matches_BN(windows, augmented_BCHW.flip(3))
    assert (straight_BN.sum(dim=1) + mirrored_BN.sum(dim=1) == 1).all()
    assert (straight_BN | mirrored_BN).any(dim=0).all()  # every window occurs
    assert 150 < int(mirrored_BN.sum()) < 250  # five standard deviations of 400 fair coins


def test_no_augmentation_leaves_the_images_as_they_are() -> None:
    x_BCHW = images()
    assert torch.equal(augment(x_BCHW, "none", torch.Generator()), x_BCHW)


def test_flip_mirrors_about_half_of_the_images_and_moves_none() -> None:
    x_BCHW = images()
    augmented_BCHW = augment(x_BCHW, "flip", torch.Generator().manual_seed(1))
    straight_B = (augmented_BCHW == x_BCHW).all(dim=(1, 2, 3))
    mirrored_B = (augmented_BCHW == x_BCHW.flip(3)).all(dim=(1, 2, 3))
    assert (straight_B ^ mirrored_B).all()
    assert 150 < int(mirrored_B.sum()) < 250
