"""From a job to what its run needs: weights read, data opened, device and batch resolved, the fingerprint made."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from srs_ray.data import PointDataset, point_indices
from srs_ray.job import Job
from srs_ray.models.mdeq.architectures import architecture
from srs_ray.models.weights import Weights, build_model, read_weights
from srs_ray.runner.worker import SAMPLING_VERSION, WorkerSpec, open_job_data
from srs_ray.smoothing.batch_size import default_batch
from srs_ray.smoothing.noise import noise_generator, resolve_generator, self_check

# Settings of sampling by looks, which are in the fingerprint where they are set.
_OF_LOOKS = ("target_radii", "looks", "audit_share")
_RECORDED_PACKAGES = ("srs-ray", "torch", "torchvision", "numpy", "scipy", "pillow", "pyarrow", "ray")


@dataclass(frozen=True)
class JobInputs:
    """All that a job names, read and checked, before anything is started."""

    job: Job
    weights: Weights
    data_path: str | None
    dataset: PointDataset
    indices: range

    @staticmethod
    def read(job: Job, download: bool = False) -> JobInputs:
        """Raises WeightsError or DataError for what is missing or does not fit."""
        weights = read_weights(job.model.weights)
        build_model(job.model.arch, weights)
        path = None if job.data.path is None else str(Path(job.data.path).expanduser().absolute())
        dataset = open_job_data(job, path, download)
        indices = point_indices(len(dataset), job.data.start, job.data.stop, job.data.every)
        return JobInputs(job, weights, path, dataset, indices)

    @property
    def points(self) -> dict[str, int]:
        """The points asked for, as run.json keeps them."""
        return {"start": self.indices.start, "stop": self.indices.stop, "every": self.indices.step}

    def resolve(self, device: str) -> WorkerSpec:
        """What workers on that kind of device, `cpu` or `cuda`, need to know."""
        generator = resolve_generator(self.job.noise.generator, device)
        batch = self.job.execution.batch
        return WorkerSpec(
            job=self.job,
            data_path=self.data_path,
            device=device,
            batch=default_batch(architecture(self.job.model.arch), device) if batch == "auto" else batch,
            data_identity=self.dataset.identity,
            generator=generator,
            noise_check=self_check(noise_generator(generator, "cpu")),
            sampling_version=SAMPLING_VERSION,
        )


def session_record(spec: WorkerSpec, workers: int) -> dict[str, Any]:
    """What run.json records of a start, beside the job: none of it changes a count beyond rounding."""
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions()}
    packages = {name: installed[name] for name in _RECORDED_PACKAGES if name in installed}
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **packages},
        "device": spec.device,
        "batch": spec.batch,
        "workers": workers,
    }


def fingerprint_of(spec: WorkerSpec, weights: Weights) -> dict[str, Any]:
    """Everything that can change a count or a bound, by the dotted name of its setting."""
    job = spec.job
    fingerprint: dict[str, Any] = {
        "model.arch": job.model.arch,
        "model.weights.digest": weights.digest,
        "noise.sigma": job.noise.sigma,
        "noise.generator": noise_generator(spec.generator, "cpu").name,
        "noise.check": spec.noise_check,
        "execution.dtype": job.execution.dtype,
        "execution.seed": job.execution.seed,
        "sampling.version": spec.sampling_version,
    }
    for section in ("sampling", "certificate"):
        settings = getattr(job, section).model_dump()
        unset = [name for name in _OF_LOOKS if name in settings and settings[name] is None]
        fingerprint |= _flat(section, {name: value for name, value in settings.items() if name not in unset})
    return fingerprint | {f"data.{key}": value for key, value in spec.data_identity.items()}


def _flat(prefix: str, settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(f"{prefix}.{key}", value)
        else:
            flat[f"{prefix}.{key}"] = value
    return flat
