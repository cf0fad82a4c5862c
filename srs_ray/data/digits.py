"""The digits that come with scikit-learn: 1,797 images of 8x8, nothing to download; for the demo and for tests."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from srs_ray.data.kind import Kind
from srs_ray.data.points import class_label, class_list_digest, digest

if TYPE_CHECKING:
    from torch import Tensor

    from srs_ray.data.settings import DataSettings

TRAINING_POINTS = 1437
SPLITS = {"train": slice(0, TRAINING_POINTS), "test": slice(TRAINING_POINTS, None)}


class Digits:
    """scikit-learn's `load_digits`, each image enlarged bilinearly to the input size, gray repeated over the channels.

    train is the first 1,437 images, test the last 360. The file goes writer by writer (each begins the same series of
    digits anew), so the test digits are by other people than the training digits, but for the one writer whom the cut
    divides (training images 1,415 to 1,436, the first 108 of the test images).
    """

    def __init__(self, split: str, input_shape: tuple[int, int, int]) -> None:
        from sklearn.datasets import load_digits

        self._split = split
        self._input_shape = input_shape
        digits = load_digits()
        self._images_NHW = digits.images[SPLITS[split]].astype(np.uint8)  # whole numbers, 0 to 16
        self._labels_N = digits.target[SPLITS[split]].astype(np.int64)

    def __len__(self) -> int:
        return len(self._labels_N)

    @property
    def class_count(self) -> int:
        """Ten digits."""
        return 10

    @property
    def class_names(self) -> tuple[str, ...]:
        """0 to 9."""
        return tuple(map(str, range(10)))

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """See `PointDataset.identity`; the content digest is over images and labels."""
        _, height, width = self._input_shape
        return {
            "kind": "digits",
            "split": self._split,
            "points": len(self),
            "classes": class_list_digest(map(str, range(10))),
            "content": digest([self._images_NHW.tobytes(), self._labels_N.astype("<i8").tobytes()]),
            "preprocessing": f"gray / 16, bilinear 8x8 to {width}x{height}",
        }

    def label(self, index: int) -> int:
        """The digit."""
        return class_label(self._labels_N[index], self.class_count, self.name(index))

    def image(self, index: int) -> Tensor:
        """x_CHW, float32 in [0, 1]; 1 is ink."""
        import torch
        from torch.nn.functional import interpolate

        small_BCHW = torch.from_numpy(self._images_NHW[index]).float().div(16)[None, None]
        large_BCHW = interpolate(small_BCHW, size=self._input_shape[1:], mode="bilinear", align_corners=False)
        return large_BCHW[0].clamp(0, 1).expand(self._input_shape).contiguous()

    def name(self, index: int) -> str:
        """Such as 'digits test image 17'."""
        return f"digits {self._split} image {index}"


def _open(section: DataSettings, input_shape: tuple[int, int, int], class_count: int | None, download: bool) -> Digits:
    return Digits(KIND.split_of(section), input_shape)


KIND = Kind("digits", _open, needs=(), takes=("path", "split"), splits=tuple(SPLITS), default_split="test")
