"""The images of a training: in memory where they fit, else read as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from srs_ray.data import open_data, point_indices
from srs_ray.data.class_names import class_names_of
from srs_ray.data.points import PointDataset
from srs_ray.data.settings import DataSettings
from srs_ray.errors import DataError, PointError
from srs_ray.models.mdeq.config import MDEQConfig

IN_MEMORY_BYTES = 4 * 2**30
"""Images of more bytes than this, as float32, are read batch by batch."""
_BATCH = 128


@dataclass(frozen=True)
class _Points(Dataset[Any]):
    """The chosen points of a data set in their order; torch's loader asks for a batch of them at a time."""

    dataset: PointDataset
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, items: Sequence[int]) -> tuple[Tensor, Tensor] | str:
        """x_BCHW and y_B, or what is wrong with one of them: an error raised in a loader would lose its message."""
        try:
            rows = [self.rows[item] for item in items]
            y_B = torch.tensor([self.dataset.label(row) for row in rows], dtype=torch.int64)
            # Filled in place: a list of images to stack would hold everything twice. In the order of the file: some
            # are read forwards.
            x_BCHW = torch.empty(len(rows), *self.dataset.image(min(rows)).shape)
            for place in sorted(range(len(rows)), key=rows.__getitem__):
                x_BCHW[place] = self.dataset.image(rows[place])
        except PointError as error:
            return f"{error}; training needs every image: mend or remove this one"
        return x_BCHW, y_B


class Images:
    """Images with their classes that can be had in any order, on a device; `record` says what they are.

    The record (data set, digests, which points) names no path.
    """

    def __init__(
        self, section: DataSettings, config: MDEQConfig, device: torch.device, in_memory_bytes: int = IN_MEMORY_BYTES
    ) -> None:
        dataset = open_data(section, config.input_shape, config.classes)
        rows = point_indices(len(dataset), section.start, section.stop, section.every)
        self.device = device
        self.class_names = class_names_of(dataset)
        self.record: dict[str, Any] = {**dataset.identity, "start": rows.start, "stop": rows.stop, "every": rows.step}
        self._points = _Points(dataset, rows)
        self._loaded: tuple[Tensor, Tensor] | None = None
        if 4 * len(rows) * torch.Size(config.input_shape).numel() <= in_memory_bytes:
            self._loaded = self._delivered(self._points.__getitems__(range(len(rows))))

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
            collate_fn=_as_it_is,
            num_workers=loaders,
        )
        yield from map(self._delivered, loader)

    def spread(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `count` of the images, or of all there are, evenly spread over their order."""
        count = min(count, len(self))
        return self.batches(list((torch.arange(count) * len(self) // count).split(_BATCH)))

    def _delivered(self, batch: tuple[Tensor, Tensor] | str) -> tuple[Tensor, Tensor]:
        """What was read, on the device; DataError if it could not be read."""
        if isinstance(batch, str):
            raise DataError(batch)
        x_BCHW, y_B = batch
        return x_BCHW.to(self.device), y_B.to(self.device)


def _as_it_is(batch: Any) -> Any:
    return batch
