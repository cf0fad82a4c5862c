"""Pixels rounded to the image grid, as part of the preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srs_ray.data.points import PointDataset, modified_at

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 255


def rounded(x_CHW: Tensor) -> Tensor:
    """The nearest image whose pixels are whole 255ths, as float32 has them; of two as near, the even one."""
    return (x_CHW.double() * LEVELS).round().float().div(LEVELS)


@dataclass(frozen=True)
class RoundedPixels:
    """A data set whose images are rounded to whole 255ths: another image than the data's is then what is certified."""

    dataset: PointDataset

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def class_count(self) -> int:
        """See `PointDataset`."""
        return self.dataset.class_count

    @property
    def class_names(self) -> Sequence[str] | None:
        """See `PointDataset`."""
        return self.dataset.class_names

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the data, and that they are rounded."""
        return {**self.dataset.identity, "pixels": "rounded to whole 255ths"}

    @property
    def built(self) -> object:
        """What the user's own code gave, where it did, so that it can go along to workers; else None."""
        return getattr(self.dataset, "built", None)

    def modified_at(self, index: int) -> float | None:
        """See `srs_ray.data.points.modified_at`."""
        return modified_at(self.dataset, index)

    def label(self, index: int) -> int:
        """See `PointDataset`."""
        return self.dataset.label(index)

    def image(self, index: int) -> Tensor:
        """See `PointDataset`."""
        return rounded(self.dataset.image(index))

    def name(self, index: int) -> str:
        """See `PointDataset`."""
        return self.dataset.name(index)
