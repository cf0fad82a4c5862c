"""The images of a training: in memory where they fit, else read as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from srs_ray.data import open_dataset, point_indices
from srs_ray.data.points import PointDataset
from srs_ray.errors import DataError, PointError
from srs_ray.job import DataSettings
from srs_ray.models.mdeq import MDEQConfig

IN_MEMORY_BYTES = 4 * 2**30
"""Images of more bytes than this, as float32, are read batch by batch."""


@dataclass(frozen=True)
class _Selected(Dataset[tuple[Tensor, int]]):
    """The chosen points of a data set, in their order, as torch's loader reads them."""

    dataset: PointDataset
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        row = self.rows[item]
        return self.dataset.image(row), self.dataset.label(row)


class Images:
    """Images with their classes that can be had in any order, on a device; `record` says what they are.

    The record (data set, digests, which points) names no path.
    """

    def __init__(
        self, section: DataSettings, config: MDEQConfig, device: torch.device, in_memory_bytes: int = IN_MEMORY_BYTES
    ) -> None:
        dataset = open_dataset(
            section.kind, section.path, section.split, config.input_shape, class_count=config.classes
        )
        rows = point_indices(len(dataset), section.start, section.stop, section.every)
        self.device = device
        self.record: dict[str, Any] = {**dataset.identity, "start": rows.start, "stop": rows.stop, "every": rows.step}
        self._points = _Selected(dataset, rows)
        self._loaded: tuple[Tensor, Tensor] | None = None
        if 4 * len(rows) * torch.Size(config.input_shape).numel() <= in_memory_bytes:
            self._loaded = self._read(torch.arange(len(rows)))

    def __len__(self) -> int:
        return len(self._points)

    def batches(self, orders: list[Tensor], loaders: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """x_BCHW (float32 in [0, 1]) and y_B of each order in turn; `loaders` processes read ahead.

        Raises DataError where an image cannot be read: a training needs every image.
        """
        if self._loaded is not None:
            x_NCHW, y_N = self._loaded
            for order_B in orders:
                here_B = order_B.to(self.device)
                yield x_NCHW[here_B], y_N[here_B]
            return
        loader = DataLoader(
            self._points,
            batch_sampler=[order_B.tolist() for order_B in orders],
            num_workers=loaders,
            pin_memory=self.device.type == "cuda",
        )
        try:
            for x_BCHW, y_B in loader:
                yield x_BCHW.to(self.device, non_blocking=True), y_B.to(self.device, non_blocking=True)
        except PointError as error:
            raise _unreadable(error) from error

    def points(self, order_N: Tensor) -> tuple[Tensor, Tensor]:
        """x_NCHW and y_N of these points, on the device."""
        if self._loaded is None:
            return self._read(order_N)
        here_N = order_N.to(self.device)
        return self._loaded[0][here_N], self._loaded[1][here_N]

    def spread(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` of the images, or all there are, evenly spread over their order."""
        return self.points(torch.arange(0, len(self), max(1, len(self) // count))[:count])

    def _read(self, order_N: Tensor) -> tuple[Tensor, Tensor]:
        # Filled in place: a list of images to stack would hold everything twice.
        first_CHW, _ = self._at(int(order_N[0]))
        x_NCHW, y_N = torch.empty(len(order_N), *first_CHW.shape), torch.empty(len(order_N), dtype=torch.int64)
        for place, item in enumerate(order_N.tolist()):
            x_NCHW[place], y_N[place] = self._at(item)
        return x_NCHW.to(self.device), y_N.to(self.device)

    def _at(self, item: int) -> tuple[Tensor, int]:
        try:
            return self._points[item]
        except PointError as error:
            raise _unreadable(error) from error


def _unreadable(error: PointError) -> DataError:
    return DataError(f"{error}; training needs every image: mend or remove this one")
