"""Python's door: certify and predict images of any classifier, in this process, without Ray."""

from __future__ import annotations

import hashlib
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from rich.progress import track
from torch import Tensor

from srs_ray.data.images import image_tensor
from srs_ray.data.points import class_label
from srs_ray.data.rounding import rounded
from srs_ray.errors import PointError
from srs_ray.models.as_opened import as_opened
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.models.opened import Opened, refuse_training
from srs_ray.smoothing.batch_size import default_batch
from srs_ray.smoothing.bounds import BOUNDS
from srs_ray.smoothing.certificate import CERTIFICATES
from srs_ray.smoothing.judge import SmoothingJudge
from srs_ray.smoothing.noise import noise_generator
from srs_ray.smoothing.predict import Prediction, predict_point
from srs_ray.smoothing.row import PointRow
from srs_ray.smoothing.samplers import SAMPLINGS, Looks
from srs_ray.smoothing.smoothing import certificate_defaults, sampling_defaults, smoothing_of
from srs_ray.solvers.iteration import SolverSetting

if TYPE_CHECKING:
    from srs_ray.job import Job

Picture = Tensor | np.ndarray[Any, Any] | Image.Image
_OF_CERTIFICATES = frozenset(name for section in CERTIFICATES for name in section.model_fields) - {"kind"}
_OF_SAMPLINGS = frozenset(name for kind in SAMPLINGS.values() for name in kind.model_fields) - {"method", "reference"}
_UNNAMED: dict[tuple[int, str, int], str] = {}  # the image that each seed's noise was used for where no index was given


def open_model(job: Mapping[str, Any] | str | Path | Job, device: str = "cpu", dtype: str | None = None) -> Opened:
    """The model of a job or a job file, with the base classifier that the job asks for (`sampling.reference` and
    `execution.dtype`); or that of a section `model` alone, such as {"import": "my_models.py:net", ...}.

    `dtype` takes the place of the job's. The class `Opened` gives logits of images in [0, 1] when it is called. Raises
    JobError and WeightsError as `srs-ray certify` does, for a model that depends on the other images of a batch too.
    """
    from srs_ray.job import Job, completed, open_job_model
    from srs_ray.job_file import load_job, load_model_section
    from srs_ray.models.opening import read_model

    if isinstance(job, Mapping):
        dtype = dtype or "float32"
        return read_model(load_model_section(job), dtype).open(device, dtype)
    job = job if isinstance(job, Job) else load_job(job)
    if dtype is not None:
        job = job.model_copy(update={"execution": job.execution.model_copy(update={"dtype": dtype})})
    source = read_model(job.model, job.execution.dtype)
    return open_job_model(completed(job, source), source, device)


def certify_point(
    model: Any,
    image: Picture,
    *,
    sigma: float,
    method: str | None = None,
    certificate: str | None = None,
    looks: Looks | Sequence[float] | None = None,
    reference: SolverSetting | None = None,
    index: int | None = None,
    label: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    noise: str = "auto",
    round_pixels: bool = False,
    **settings: Any,
) -> PointRow:
    """Certifies one image in this process; the row has the columns of a run directory.

    With probability at least 1 - alpha over the sampling, the base classifier smoothed by noise `sigma` predicts
    `row.predicted` everywhere within l2 distance `row.radius` of the image (-1: it abstains).

    `model` is any torch module that gives logits, an equilibrium model with state_shape, inject, f and head, or what
    `load_model` or `open_model` returns. `image` is a tensor, an array or a PIL image: floating-point pixels lie in
    [0, 1], 8-bit pixels are divided by 255, and an array whose last dimension is the channels is taken as such.
    `method` is srs, standard, anchored or auto, by default srs for an equilibrium, else standard. `looks`, target radii
    such as [0, 0.25] or `Looks`, end sampling early. `settings` are those of a job's sections `sampling` and
    `certificate` by their names: n, n0, steps, chains, alpha, audit, ... Those that the method does not have are
    ignored.

    Noise lies on the image grid, so pixels must be whole 255ths, as those of image files are. `round_pixels` rounds
    others to the grid, and `noise="philox4x64"` takes float noise, whose certificates are for real arithmetic only.

    `index` is the image's number; it keys the noise. It may be left out for one image: a second one with the same seed
    needs it, because certificates of different images must not share their noise.

    Raises ValueError for settings that are out of range or do not go together, for something other than an image in
    [0, 1], for a label that is no class, and for a model in training mode; PointError where more than a share
    `max_nonfinite` of the samples of a stage have no finite logits.
    """
    shape = _shape_of(image) if not isinstance(model, Opened | MDEQ) else None
    ready = as_opened(model, shape).with_reference(reference)
    x_CHW = _as_image(image, ready.input_shape, round_pixels)
    judge = _judge(ready, sigma, method, certificate, looks, seed, batch, noise, settings)
    fault = judge.generator.fault(x_CHW)
    if fault is not None:
        raise ValueError(f"the image: {fault}")
    if label is not None:
        label = _as_label(label, ready.classes)
    if index is None:
        index = _index_of_the_only_image(seed, judge.generator.name, x_CHW)
    return judge.certify(x_CHW, _as_index(index), label)


def certify_points(
    model: Any,
    images: Any,
    labels: Sequence[int] | Tensor | None = None,
    *,
    sigma: float,
    method: str | None = None,
    certificate: str | None = None,
    looks: Looks | Sequence[float] | None = None,
    reference: SolverSetting | None = None,
    indices: Sequence[int] | None = None,
    first: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    noise: str = "auto",
    round_pixels: bool = False,
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    """Certifies several images in this process, one row each; settings are those of `certify_point`.

    `images` is a batch (N, C, H, W), a list of images, or a data set: anything with a length whose items are images or
    pairs (image, label). `labels` are their classes, if the items do not bring them. An image's position is its index,
    which keys its noise; `indices` picks some positions. Where images come in several calls, `first` is the index of
    the first image of this one: without it, other images at positions that this seed has had are refused. A point that
    cannot be certified (no image in [0, 1], a label that is no class) becomes a row with status `error`, and the others
    go on. `progress` draws a bar on stderr.
    """
    offset = 0 if first is None else _as_index(first, "first")
    positions = range(len(images)) if indices is None else [_as_index(index) for index in indices]
    beyond = [index for index in positions if index >= len(images)]
    if beyond:
        raise ValueError(f"indices: there is no image {beyond[0]} among {len(images)}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"there are {len(images)} images and {len(labels)} labels: give as many")
    if not len(positions):
        raise ValueError("no images to certify")
    shape = None if isinstance(model, Opened | MDEQ) else _shape_of_the_first(images, labels, positions)
    ready = as_opened(model, shape).with_reference(reference)
    judge = _judge(ready, sigma, method, certificate, looks, seed, batch, noise, settings)
    rows = []
    for index in _shown(positions, progress):
        label: int | None = None
        try:
            try:
                image, given = _item(images, labels, index)
            except PointError:
                raise
            except Exception as error:  # the data set is the user's code
                raise PointError(f"image {index}: {type(error).__name__}: {error}") from error
            if given is not None:
                label = class_label(given, ready.classes, f"image {index}")
            x_CHW = image_tensor(image, ready.input_shape, f"image {index}")
            x_CHW = rounded(x_CHW) if round_pixels else x_CHW
            if first is None:
                _refuse_shared_noise(seed, judge.generator.name, index, x_CHW)
            rows.append(judge.certify(x_CHW, index + offset, label))
        except PointError as error:
            line = " ".join(str(error).split())
            rows.append(PointRow(index + offset, label, status="error", error=line, sigma=sigma))
    failed = sum(row.status == "error" for row in rows)
    if failed:
        warnings.warn(f"{failed} of {len(rows)} images ended in error: see the column error", stacklevel=2)
    return pd.DataFrame([asdict(row) for row in rows]).astype({"label": "Int64", "predicted": "Int64"})


def predict(
    model: Any,
    image: Picture,
    *,
    sigma: float,
    n: int = 1000,
    alpha: float = 0.001,
    reference: SolverSetting | None = None,
    index: int = 0,
    seed: int = 0,
    batch: int | None = None,
    noise: str = "auto",
    round_pixels: bool = False,
) -> Prediction:
    """The smoothed classifier's class of an image, or abstention (PREDICT of Cohen et al. 2019), for any classifier.

    With probability at least 1 - alpha over the n noisy copies, `predicted` is the class that the base classifier
    smoothed by noise `sigma` gives this image, or -1, an abstention. It says nothing of other images: that is
    `certify_point`'s. Raises ValueError as `certify_point` does.
    """
    ready = as_opened(model, _shape_of(image) if not isinstance(model, Opened | MDEQ) else None)
    ready = ready.with_reference(reference)
    refuse_training(ready.network)
    x_CHW = _as_image(image, ready.input_shape, round_pixels)
    size = _batch(ready, batch)
    return predict_point(ready, x_CHW, sigma, n, alpha, seed, index, size, noise_generator(noise, ready.device))


def _judge(
    ready: Opened,
    sigma: float,
    method: str | None,
    certificate: str | None,
    looks: Looks | Sequence[float] | None,
    seed: int,
    batch: int | None,
    noise: str,
    settings: Mapping[str, Any],
) -> SmoothingJudge:
    refuse_training(ready.network)
    unknown = sorted(set(settings) - _OF_SAMPLINGS - _OF_CERTIFICATES)
    if unknown:
        known = ", ".join(sorted(_OF_SAMPLINGS | _OF_CERTIFICATES))
        raise TypeError(f"no setting {', '.join(unknown)}; there are {known}")
    method = method or ("srs" if ready.parts else "standard")
    kind = SAMPLINGS.get(method)
    if kind is None:
        raise ValueError(f"no sampling method {method!r}; there are {', '.join(SAMPLINGS)}")
    own = kind.model_fields.keys() - set(kind.former)
    sampling = {"method": method, **{name: value for name, value in settings.items() if name in own}}
    sampling |= _looks(looks)
    reference = {"solver": ready.reference.solver.name, "steps": ready.reference.steps}
    sampling = sampling_defaults(sampling, {**reference, "tolerance": ready.reference.tolerance})
    audits = {name: settings[name] for name in _OF_CERTIFICATES if name in settings}
    bound = BOUNDS.get(certificate or "")
    if not kind.audited or (bound is not None and not bound.audited):
        audits = {name: value for name, value in audits.items() if name not in ("audit", "audit_share")}
    elif sampling.get("target_radii") is not None:
        audits = {name: value for name, value in audits.items() if name not in ("audit", "miss_share")}
        if kind.default_audit_share is None:
            audits.pop("audit_share", None)
    else:
        audits.pop("audit_share", None)
    given = {} if certificate is None else {"kind": certificate}
    smoothing = smoothing_of(sigma, sampling, certificate_defaults(sampling, {**given, **audits}))
    generator = noise_generator(noise, ready.device)
    return SmoothingJudge(ready, smoothing, generator, seed, _batch(ready, batch))


def _looks(looks: Looks | Sequence[float] | None) -> dict[str, Any]:
    """Looks as settings of a section `sampling`."""
    if looks is None:
        return {}
    if not isinstance(looks, Looks):
        return {"target_radii": tuple(looks)}
    return {"target_radii": looks.target_radii, "looks": looks.model_dump(exclude={"target_radii"})}


def _batch(ready: Opened, batch: int | None) -> int:
    return default_batch(ready.state_size, ready.input_shape, ready.device.type) if batch is None else batch


def _as_image(image: Picture, input_shape: tuple[int, int, int], round_pixels: bool) -> Tensor:
    try:
        x_CHW = image_tensor(image, input_shape, "the image")
        return rounded(x_CHW) if round_pixels else x_CHW
    except PointError as error:
        raise ValueError(str(error)) from error


def _as_label(label: int, classes: int) -> int:
    try:
        return class_label(label, classes, "the image")
    except PointError as error:
        raise ValueError(str(error)) from error


def _shape_of(image: Picture) -> tuple[int, int, int]:
    """The (channels, height, width) that an image shows by itself; ValueError where it could be read in two ways."""
    if isinstance(image, Image.Image):
        return (1 if image.mode in ("1", "L") else 3, image.height, image.width)
    shape = tuple(image.shape)
    if len(shape) == 2:
        return (1, *shape)
    if len(shape) != 3:
        raise ValueError(f"an image has the shape (channels, height, width), found {shape}")
    first, last = shape[0] in (1, 3), shape[2] in (1, 3)
    if isinstance(image, np.ndarray) and last and not first:
        return (shape[2], shape[0], shape[1])
    if isinstance(image, np.ndarray) and last and first:
        raise ValueError(f"an array of shape {shape} can be read as channels first or last: give a tensor (C, H, W)")
    return (shape[0], shape[1], shape[2])


def _item(images: Any, labels: Any, index: int) -> tuple[Any, Any]:
    """An image and its label, if it has one."""
    if hasattr(images, "image") and hasattr(images, "label"):  # a data set of a job
        return images.image(index), images.label(index)
    item = images[index]
    image, label = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
    return image, label if labels is None else labels[index]


def _index_of_the_only_image(seed: int, generator: str, x_CHW: Tensor) -> int:
    """0, for the one image that this seed's noise is used for without a number of its own."""
    _refuse_shared_noise(seed, generator, 0, x_CHW)
    return 0


def _refuse_shared_noise(seed: int, generator: str, index: int, x_CHW: Tensor) -> None:
    """ValueError where another image had this seed's noise of that index, and nobody chose that it should."""
    digest = hashlib.sha256(x_CHW.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    if _UNNAMED.setdefault((seed, generator, index), digest) != digest:
        raise ValueError(
            f"another image was certified with seed {seed} and index {index}, and this one would share its noise: give "
            "each image its own index, or another seed (certify_points: first=..., the index of its first image)"
        )


def _as_index(index: Any, name: str = "index") -> int:
    """A whole number from 0 on; TypeError or ValueError for anything else."""
    if isinstance(index, bool) or (number := operator.index(index)) < 0:
        raise ValueError(f"{name} is {index}, expected a whole number from 0 on")
    return number


def _shape_of_the_first(images: Any, labels: Any, positions: Sequence[int]) -> tuple[int, int, int]:
    """The shape of the first image that has one."""
    for index in positions:
        with suppress(Exception):  # it will be an error row
            return _shape_of(_item(images, labels, index)[0])
    raise ValueError("none of the images can be had: see that they are tensors, arrays or PIL images")


def _shown(positions: Sequence[int], progress: bool) -> Iterator[int]:
    if not progress:
        yield from positions
        return
    from rich.console import Console

    yield from track(positions, description="certifying", console=Console(stderr=True), transient=True)
