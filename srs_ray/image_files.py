"""PREDICT for image files: the smoothed classifier's class of each, by the model, noise and seed of a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from srs_ray.data.images import LARGEST_FILE, decode
from srs_ray.errors import JobError, PointError, UserCodeError
from srs_ray.interface import open_model, predict
from srs_ray.job import Job
from srs_ray.models import user_files
from srs_ray.models.devices import use_exact_float32
from srs_ray.models.opened import Opened
from srs_ray.regular_files import read_regular
from srs_ray.runner.backend import device_here
from srs_ray.smoothing.noise import noise_generator
from srs_ray.smoothing.predict import Prediction


@dataclass(frozen=True)
class FilePrediction:
    """What came of one image file: a prediction, or an error in words. `index` is the number that keys its noise."""

    file: str
    index: int
    prediction: Prediction | None = None
    error: str | None = None


def open_job_here(job: Job) -> Opened:
    """The job's model, with its base classifier, on its kind of device. Raises JobError and WeightsError."""
    user_files.forget()  # the files of another job in this process
    use_exact_float32()
    model = open_model(job, device_here(job.execution))
    try:
        noise_generator(job.noise.generator, model.device).law(job.noise.sigma, prod(model.input_shape))
    except ValueError as error:
        raise JobError(f"noise.sigma: {error}") from error
    return model


def predict_files(model: Opened, job: Job, files: Sequence[str], n: int, alpha: float) -> Iterator[FilePrediction]:
    """One prediction per file from n noisy copies, as `srs_ray.predict` makes it with the job's sigma and seed.

    An image's position in `files` keys its noise: no two images share any. A file that cannot be read as an image of
    the model's input, and one on which the user's model raises, becomes an error; the others go on.
    """
    batch = job.execution.batch
    for index, file in enumerate(files):
        try:
            prediction = predict(
                model,
                _image(file, model.input_shape),
                sigma=job.noise.sigma,
                n=n,
                alpha=alpha,
                index=index,
                seed=job.execution.seed,
                batch=None if batch == "auto" else batch,
                noise=job.noise.generator,
            )
            yield FilePrediction(file, index, prediction)
        except (PointError, UserCodeError) as error:
            yield FilePrediction(file, index, error=" ".join(str(error).split()))


def _image(file: str, input_shape: tuple[int, int, int]) -> Tensor:
    """The file as data images are decoded: x_CHW in [0, 1]. Raises PointError."""
    try:
        encoded = read_regular(Path(file).expanduser(), LARGEST_FILE)
    except (OSError, RuntimeError) as error:  # RuntimeError: a home directory that there is not
        reason = getattr(error, "strerror", None) or error
        raise PointError(f"{file}: cannot be read: {reason}") from error
    return decode(encoded, input_shape, file)
