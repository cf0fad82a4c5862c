"""From a job to what its run needs: weights read, data opened, device and batch resolved, the fingerprint made."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Any

from srs_ray.data import PointDataset, point_indices
from srs_ray.errors import DataError, JobError, PointError, ShapeError
from srs_ray.job import AnyJob, Job, LipschitzJob, completed
from srs_ray.lipschitz.settings import LIPSCHITZ_VERSION
from srs_ray.models import user_files
from srs_ray.models.opening import ModelSource, read_model
from srs_ray.runner.worker import Cargo, WorkerSpec, open_job_data
from srs_ray.runs import RunDirectory
from srs_ray.settings import home_expanded
from srs_ray.smoothing.batch_size import default_batch
from srs_ray.smoothing.noise import USUAL, NoiseGenerator, generator_named, noise_generator, self_check
from srs_ray.smoothing.version import sampling_version

SIZES_TRIED = 4  # points whose images are read before anything starts
_RECORDED_PACKAGES = ("srs-ray", "torch", "torchvision", "numpy", "scipy", "pillow", "pyarrow", "ray")


@dataclass(frozen=True)
class JobInputs:
    """All that a job names, read and checked, before anything is started."""

    job: AnyJob
    source: ModelSource
    data_path: str | None
    dataset: PointDataset
    indices: range

    @staticmethod
    def read(job: AnyJob, download: bool = False) -> JobInputs:
        """Raises WeightsError or DataError for what is missing or does not fit."""
        user_files.forget()  # the files of another job in this process
        source = read_model(job.model, job.execution.dtype)
        if isinstance(job, Job):
            job = completed(job, source)
        else:
            _refuse_without_constants(source)
        path = None if job.data.path is None else str(home_expanded(job.data.path, DataError).absolute())
        dataset = open_job_data(job, source, path, download)
        if isinstance(job, Job):
            _refuse_data_of_the_start(job, source, dataset)
        indices = point_indices(len(dataset), job.data.start, job.data.stop, job.data.every)
        _refuse_other_size(dataset, indices, source)
        return JobInputs(job, source, path, dataset, indices)

    @property
    def cargo(self) -> Cargo:
        """What workers get: an object of the user's own goes along, other data are opened where the worker is."""
        return Cargo(self.source, self.dataset if self.job.data.import_ is not None else None)

    @property
    def points(self) -> dict[str, int]:
        """The points asked for, as run.json keeps them."""
        return {"start": self.indices.start, "stop": self.indices.stop, "every": self.indices.step}

    def resolve(self, device: str, begun_with: str | None = None) -> WorkerSpec:
        """What workers on that kind of device, `cpu` or `cuda`, need to know.

        `begun_with` is the noise generator of the run that is continued, which a job that names none goes on with.
        Raises JobError for a sigma that cannot be drawn, DataError where no noise can be drawn for any of the first
        points asked for.
        """
        if isinstance(self.job, LipschitzJob):
            return WorkerSpec(
                job=self.job,
                data_path=self.data_path,
                device=device,
                batch=1,
                data_identity=self.dataset.identity,
                generator="",
                noise_check="",
                sampling_version=LIPSCHITZ_VERSION,
            )
        asked = self.job.noise.generator
        generator = (begun_with or USUAL) if asked == "auto" else asked
        drawn = noise_generator(generator, "cpu")
        try:
            drawn.law(self.job.noise.sigma, prod(self.source.input_shape))
        except ValueError as error:
            raise JobError(f"noise.sigma: {error}") from error
        self._refuse_other_pixels(drawn)
        batch = self.job.execution.batch
        return WorkerSpec(
            job=self.job,
            data_path=self.data_path,
            device=device,
            batch=default_batch(self.source.state_size, self.source.input_shape, device) if batch == "auto" else batch,
            data_identity=self.dataset.identity,
            generator=generator,
            noise_check=self_check(drawn),
            sampling_version=sampling_version(generator, self.job.sampling.version),
        )

    def _refuse_other_pixels(self, generator: NoiseGenerator) -> None:
        """Raises DataError where the generator can draw no noise for any of the first points asked for."""
        fault = None
        for index in self.indices[:SIZES_TRIED]:
            try:
                fault = generator.fault(self.dataset.image(index))
            except PointError:
                return  # a point that is broken says nothing of the others
            if fault is None:
                return
            fault = f"{self.dataset.name(index)}: {fault}"
        if fault is not None:
            raise DataError(fault)


def begun_with(output: str) -> str | None:
    """The noise generator that the run at this path was begun with; None where there is no run, or an unknown one."""
    run = RunDirectory.find(output)
    return None if run is None else generator_named(str(run.fingerprint.get("noise.generator")))


def _refuse_data_of_the_start(job: Job, source: ModelSource, dataset: PointDataset) -> None:
    """Raises JobError where the very images that made the stored start would be certified by it."""
    reference = job.sampling.reference
    made = source.card.get("start")
    of = made.get("data") if isinstance(made, Mapping) else None
    if reference is None or reference.start is None or not isinstance(of, Mapping):
        return
    content = dataset.identity.get("content")
    if content is not None and of.get("content") == content:
        raise JobError(
            "the stored start and its steps were chosen by these very images (`srs-ray weights calibrate`), and a "
            "point that chose its classifier cannot be certified: calibrate on training images, or certify others"
        )


def _refuse_without_constants(source: ModelSource) -> None:
    """Raises JobError for a model of which no Lipschitz constants are proved."""
    from srs_ray.lipschitz.judge import is_lipschitz, lacking_constants

    if not is_lipschitz(source.open("cpu", "float64")):
        raise JobError(lacking_constants(source.label))


def _refuse_other_size(dataset: PointDataset, indices: range, source: ModelSource) -> None:
    """Raises DataError where all of the first points asked for have another size than the model takes."""
    misfits = []
    for index in indices[:SIZES_TRIED]:
        try:
            dataset.image(index)
        except ShapeError as error:
            misfits.append(str(error))
        except PointError:
            return  # a point that is broken otherwise says nothing of the size
        else:
            return
    setting = "model.input_shape" if source.built is not None else f"the input of {source.label}"
    raise DataError(
        f"{misfits[0]}: so it is with each of the first {len(misfits)} points asked for, and {setting} is "
        f"{list(source.input_shape)}: choose data of that size"
        + (", or set model.input_shape to that of the data" if source.built is not None else "")
    )


def session_record(spec: WorkerSpec, workers: int, accelerators: Sequence[str] = ()) -> dict[str, Any]:
    """What run.json records of a start, beside the job: none of it changes a count beyond rounding."""
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions()}
    packages = {name: installed[name] for name in _RECORDED_PACKAGES if name in installed}
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **packages},
        "device": spec.device,
        "batch": spec.batch,
        "workers": workers,
        **({"accelerators": list(accelerators)} if accelerators else {}),
        **({"command": command} if (command := command_line(sys.argv)) else {}),
    }


def command_line(arguments: Sequence[str]) -> str | None:
    """This process' command as one types it, from its `arguments`; None where the process is not our command line."""
    name = Path(arguments[0]).name if arguments else ""
    ours = name == "srs-ray" or (name in ("__main__.py", "cli.py") and Path(arguments[0]).parent.name == "srs_ray")
    return shlex.join(["srs-ray", *arguments[1:]]) if ours else None


def fingerprint_of(spec: WorkerSpec, source: ModelSource) -> dict[str, Any]:
    """Everything that can change a count or a bound, by the dotted name of its setting."""
    job = spec.job
    data = {f"data.{key}": value for key, value in spec.data_identity.items()}
    if isinstance(job, LipschitzJob):
        return {**source.identity, **job.certificate.fingerprint(), **data}
    fingerprint: dict[str, Any] = {
        **source.identity,
        **job.smoothing.fingerprint(),
        "noise.generator": noise_generator(spec.generator, "cpu").name,
        "noise.check": spec.noise_check,
        **_deviation_of(spec, job, source),
        "execution.dtype": job.execution.dtype,
        "execution.seed": job.execution.seed,
        "sampling.version": spec.sampling_version,
    }
    return fingerprint | data


def _deviation_of(spec: WorkerSpec, job: Job, source: ModelSource) -> dict[str, float]:
    """How far noise on the image grid is from its law, which bounds are lowered by; float noise has none of it."""
    deviation = noise_generator(spec.generator, "cpu").law(job.noise.sigma, prod(source.input_shape)).deviation
    return {"noise.deviation": deviation} if deviation else {}
