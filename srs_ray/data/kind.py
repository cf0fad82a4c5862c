"""What a kind of data declares about itself: what a job must say of it, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from srs_ray.data.points import PointDataset
from srs_ray.errors import DataError
from srs_ray.settings import home_expanded

if TYPE_CHECKING:
    from srs_ray.data.settings import DataSettings


class Opener(Protocol):
    """Opens a job's data for a model with this input (channels, height, width) and this many classes (None: any).

    `download` is only ever true for a kind that declares `downloads`. Raises DataError if there is no such data set, or
    it is not what was asked for. It imports the kind's library (torchvision, scikit-learn, pyarrow) itself, so that the
    library is only loaded where the kind is used.
    """

    def __call__(
        self, section: DataSettings, input_shape: tuple[int, int, int], class_count: int | None, download: bool
    ) -> PointDataset: ...


@dataclass(frozen=True)
class Kind:
    """A kind of data, as its file declares it to `srs_ray.data.registry`.

    `needs` and `takes` are the settings of the section `data`, beside kind, start, stop and every, that a job must and
    may give. `splits` are the splits there are (empty: the opener knows); `default_split` is taken where a job names
    none. `channels` are the numbers of input channels that the images can be given for (None: any).
    """

    name: str
    open: Opener
    needs: tuple[str, ...] = ("path",)
    takes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    default_split: str | None = None
    channels: tuple[int, ...] | None = (1, 3)
    downloads: bool = False

    def path_of(self, section: DataSettings) -> Path:
        """The section's path, with the user's folder for ~. Raises DataError if it has none."""
        if section.path is None:
            raise DataError(f"data kind {self.name} needs a path: say where the data lies")
        return home_expanded(section.path, DataError)

    def split_of(self, section: DataSettings) -> str:
        """The section's split, else the kind's own, else ''. Raises DataError for one that there is not."""
        split = section.split or self.default_split or ""
        if self.splits and split not in self.splits:
            raise DataError(f"split is {split!r}, but {self.name} has {' and '.join(self.splits)}: choose one of them")
        return split
