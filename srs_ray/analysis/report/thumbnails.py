"""Small pictures of certified images, of data that are still those of the run."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from srs_ray.errors import PointError, SrsRayError, UserCodeError

if TYPE_CHECKING:
    from torch import Tensor

    from srs_ray.data import PointDataset
    from srs_ray.job import AnyJob

KEPT_WHOLE = 64  # pixels of the longer side up to which an image is shown as it is, losslessly
LONGER_SIDE = 96
QUALITY = 80  # of JPEG
MOST_BYTES = 2_400_000  # of all pictures of a report, as text


class Images:
    """The pictures of a run's points. `missing` says in words why there are none, '' where there are.

    A picture is shown only where the image is the certified one: by its row's digest of the pixels, or, with
    `by_identity`, which is for runs of older programs, by the fingerprint's digest of all data. `budget` is how many
    characters pictures may take.
    """

    def __init__(
        self,
        dataset: PointDataset | None = None,
        missing: str = "",
        fingerprint: Mapping[str, Any] | None = None,
        budget: int = MOST_BYTES,
        by_identity: bool = False,
    ) -> None:
        self._dataset = dataset
        self._fingerprint = fingerprint or {}
        self._budget = budget
        self.by_identity = by_identity
        self._same: bool | None = None
        self.missing = missing
        self.shown = 0
        self.other = 0  # images that are not those that were certified
        self.unreadable = 0
        self.too_many = 0

    @property
    def class_names(self) -> Sequence[str] | None:
        """As the open data name them."""
        return None if self._dataset is None else self._dataset.class_names

    @property
    def notes(self) -> list[str]:
        """What was left out, in words."""
        if self.missing:
            return [f"Pictures are missing: {self.missing}."]
        counted = {
            "the images at hand are not those that were certified": self.other,
            "the images cannot be read": self.unreadable,
            "the report would become too large": self.too_many,
        }
        return [f"Pictures are missing ({count:,}): {why}." for why, count in counted.items() if count]

    def thumbnail(self, index: int, pixels: str | None) -> Markup | None:
        """A data URI of the point's image, None where it cannot be shown; `pixels` is its row's digest."""
        if self._dataset is None:
            return None
        if self._budget <= 0:
            self.too_many += 1
            return None
        from srs_ray.smoothing.row import pixel_digest

        try:
            if not 0 <= index < len(self._dataset):
                raise PointError(f"there is no point {index}")
            x_CHW = self._dataset.image(index)
        except (PointError, UserCodeError, SrsRayError, OSError):
            self.unreadable += 1
            return None
        if not (self._same_data() if pixels is None else pixel_digest(x_CHW) == pixels):
            self.other += 1
            return None
        uri = encoded(x_CHW)
        if uri is None:
            self.unreadable += 1
            return None
        self._budget -= len(uri)
        self.shown += 1
        return uri

    def _same_data(self) -> bool:
        if not self.by_identity:
            return False
        if self._same is None and self._dataset is not None:
            identity = self._dataset.identity
            self._same = "content" in identity and all(
                self._fingerprint.get(f"data.{name}") == value for name, value in identity.items()
            )
        return bool(self._same)


def open_images(
    job: AnyJob,
    fingerprint: Mapping[str, Any],
    data: str | None,
    run_code: bool,
    budget: int = MOST_BYTES,
    by_identity: bool = False,
) -> Images:
    """The run's data as its job names them, at `data` where that is given.

    Code that the job names is not run unless `run_code` says so. Whatever keeps the data from being opened becomes
    `Images.missing`.
    """
    from pathlib import Path

    from srs_ray.data import open_data
    from srs_ray.models.families import family_of

    if job.data.import_ is not None and not run_code:
        return Images(missing=f"the data are code ({job.data.import_}), which a report runs only by --run-code")
    if data is not None and job.data.path is None:
        return Images(missing="the run's data have no path that another could take the place of")
    section = job.data if data is None else job.data.model_copy(update={"path": data})
    try:
        if section.path is not None:
            section = section.model_copy(update={"path": str(Path(section.path).expanduser().absolute())})
        arch = getattr(job.model, "arch", None)
        shape, classes = (
            family_of(arch).input_of(arch) if arch is not None else (job.model.input_shape, job.model.classes)  # type: ignore[union-attr]
        )
        return Images(open_data(section, shape, classes), "", fingerprint, budget, by_identity)
    except (SrsRayError, OSError, RuntimeError, ValueError) as error:
        return Images(missing=f"the data cannot be opened ({error})")


def encoded(x_CHW: Tensor) -> Markup | None:
    """A data URI of an image in [0, 1] with one or three channels, as PNG where it is small, else as JPEG; None for
    other channels."""
    from PIL import Image

    if x_CHW.ndim != 3 or x_CHW.shape[0] not in (1, 3):
        return None
    pixels_CHW = (x_CHW.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    image = Image.fromarray(pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.transpose(1, 2, 0).copy())
    text = io.BytesIO()
    if max(image.size) <= KEPT_WHOLE:
        image.save(text, "png", optimize=True)
        kind = "png"
    else:
        image.thumbnail((LONGER_SIDE, LONGER_SIDE))
        image.save(text, "jpeg", quality=QUALITY, optimize=True)
        kind = "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(text.getvalue()).decode()}")
