"""A training from its job to its weights file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

import srs_ray
from srs_ray.data import load_all, open_dataset, point_indices
from srs_ray.errors import DataError, JobError, PointError, WeightsError
from srs_ray.job import DataSettings, TrainJob
from srs_ray.models.architectures import architecture
from srs_ray.models.mdeq import MDEQ, MDEQConfig
from srs_ray.models.weights import Weights, build_model, random_weights, read_weights, write_weights
from srs_ray.training.chain_agreement import ChainAgreement, chain_agreement
from srs_ray.training.evaluation import NoisyEvaluation, evaluate
from srs_ray.training.trainer import EpochLosses, Trainer
from srs_ray.training.weight_normalization import folded_tensors

FINAL_DRAWS = 5
AGREEMENT_POINTS = 20


@dataclass(frozen=True)
class EpochReport:
    """What an epoch (1 to `epochs`) brought: its losses, the model on the evaluation points, the wall time of both."""

    epoch: int
    epochs: int
    losses: EpochLosses
    evaluation: NoisyEvaluation
    seconds: float

    def __str__(self) -> str:
        jacobian = "" if self.losses.jacobian is None else f", jacobian {self.losses.jacobian:.4f}"
        accuracy = ", ".join(f"{share:.1%} ({steps})" for steps, share in self.evaluation.accuracy.items())
        return (
            f"epoch {self.epoch}/{self.epochs} {self.losses.phase}: loss {self.losses.loss:.3f}{jacobian}; "
            f"noisy accuracy (steps) {accuracy}; residual {self.evaluation.residual:.1e}; {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class TrainingResult:
    """The weights as they were written to `path`, and what was measured on exactly these."""

    path: Path
    weights: Weights
    epochs: tuple[EpochReport, ...]
    evaluation: NoisyEvaluation
    agreement: ChainAgreement


@dataclass(frozen=True)
class _Images:
    """Images in memory, their classes, and what they are (data set, digests, which points)."""

    x_NCHW: Tensor
    y_N: Tensor
    record: dict[str, Any]

    @property
    def points(self) -> tuple[Tensor, Tensor]:
        return self.x_NCHW, self.y_N


def train(job: TrainJob, report: Callable[[EpochReport], object] = lambda _: None) -> TrainingResult:
    """Trains as the job says, calls `report` after every epoch, and writes the weights with how they came to be.

    On a CPU the same job gives the same weights (for one number of threads and one version of torch). Raises an
    SrsRayError where data, weights or device are not to be had, the output cannot be written, or training diverges.
    """
    config = architecture(job.model.arch)
    path = _writable(Path(job.output))
    device = _device(job.execution.device)
    data, evaluation = (_images(section, config, device) for section in (job.data, job.evaluation))
    start = _initial_weights(job)
    model = build_model(config.name, start, device)
    reports = tuple(_epochs(job, model, data, evaluation, report))

    trained = Weights(folded_tensors(model), {})
    model = build_model(config.name, trained, device)
    final = evaluate(model, *evaluation.points, job.noise.sigma, _evaluation_noise(job, device), FINAL_DRAWS)
    apart = max(1, len(evaluation.y_N) // AGREEMENT_POINTS)
    agreed_NCHW = evaluation.x_NCHW[::apart][:AGREEMENT_POINTS]
    agreement = chain_agreement(model, agreed_NCHW, job.noise.sigma, job.execution.seed)

    metadata = {
        "architecture": config.name,
        "initial_weights": start.metadata.get("training", start.digest),
        **_as_json(
            data=data.record,
            evaluation=evaluation.record,
            sigma=job.noise.sigma,
            epochs=job.training.epochs,
            seed=job.execution.seed,
            recipe=job.training.model_dump(),
            noisy_accuracy={steps: round(share, 4) for steps, share in final.accuracy.items()},
            residual=float(f"{final.residual:.3g}"),
            chain_agreement=asdict(agreement),
            versions={"srs-ray": srs_ray.__version__, "torch": torch.__version__},
        ),
    }
    weights = Weights(trained.tensors, metadata)
    write_weights(weights, path)
    return TrainingResult(path, weights, reports, final, agreement)


def _epochs(
    job: TrainJob, model: MDEQ, data: _Images, evaluation: _Images, report: Callable[[EpochReport], object]
) -> Iterator[EpochReport]:
    """Trains the model, and reports each epoch as it ends."""
    trainer = Trainer(model, job.training, job.noise.sigma, job.execution.seed, len(data.y_N))
    for epoch in range(1, job.training.epochs + 1):
        began = time.monotonic()
        losses = trainer.train_epoch(*data.points)
        model.eval()
        noise = _evaluation_noise(job, model.device)
        with parametrize.cached():
            reached = evaluate(model, *evaluation.points, job.noise.sigma, noise)
        done = EpochReport(epoch, job.training.epochs, losses, reached, time.monotonic() - began)
        report(done)
        yield done


def _initial_weights(job: TrainJob) -> Weights:
    if job.model.weights is None:
        return random_weights(job.model.arch, job.execution.seed)
    return read_weights(job.model.weights)


def _as_json(**values: object) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in values.items()}


def _evaluation_noise(job: TrainJob, device: torch.device) -> torch.Generator:
    """The same noise after every epoch, so that epochs can be compared; not that of the training."""
    return torch.Generator(device).manual_seed(job.execution.seed + 1)


def _images(section: DataSettings, config: MDEQConfig, device: torch.device) -> _Images:
    """The images that a section of the job asks for, in memory; their record names no path."""
    shape, classes = config.input_shape, config.classes
    dataset = open_dataset(section.kind, section.path, section.split, shape, class_count=classes)
    rows = point_indices(len(dataset), section.start, section.stop, section.every)
    try:
        x_NCHW, y_N = load_all(dataset)
    except PointError as error:
        raise DataError(f"{error}; training needs every image: mend or remove this one") from error
    chosen = slice(rows.start, rows.stop, rows.step)
    record = {**dataset.identity, "start": rows.start, "stop": rows.stop, "every": rows.step}
    return _Images(x_NCHW[chosen].to(device), y_N[chosen].to(device), record)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise JobError("execution.device is cuda, but torch finds no CUDA device here: use cpu, or a machine with one")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _writable(path: Path) -> Path:
    """Found out before the training and not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot write weights to {path}: {error}") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        found = "it is a folder" if path.is_dir() else "no permission"
        raise WeightsError(f"cannot write weights to {path}: {found}; give another output")
    return path
