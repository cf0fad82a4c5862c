"""A training from its job to its weights and their card; one that was stopped goes on from its checkpoint."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

import srs_ray
from srs_ray.errors import JobError, SrsRayError, WeightsError
from srs_ray.models.devices import device_name, use_exact_float32
from srs_ray.models.mdeq.architectures import architecture
from srs_ray.models.mdeq.checkpoints import build_model, random_weights, read_weights
from srs_ray.models.mdeq.weight_normalization import folded_tensors
from srs_ray.models.weights import Weights, write_card, write_weights
from srs_ray.runs.fingerprint import differences, not_compared
from srs_ray.training import checkpoint
from srs_ray.training.chain_agreement import ChainAgreement, chain_agreement
from srs_ray.training.checkpoint import Checkpoint
from srs_ray.training.evaluation import NoisyEvaluation, evaluate
from srs_ray.training.images import Images
from srs_ray.training.log import TrainingLog
from srs_ray.training.reports import REPORT_EVERY, EpochReport, StepReport
from srs_ray.training.settings import TrainingSettings, TrainJob
from srs_ray.training.share import Share
from srs_ray.training.trainer import Trainer

log = logging.getLogger(__name__)

_OF_THE_FIRST = ("command", "epochs", "hours", "recipe", "initial_weights")
_EPOCH_AGREEMENT = {"samples": 100, "chains": 10}


@dataclass(frozen=True)
class TrainingResult:
    """The weights as they were written to `path`, with what was measured on exactly these."""

    path: Path
    weights: Weights


class Training:
    """A training that has been opened: data, model and trainer, new or where it was left.

    Raises an SrsRayError where data, weights or device are not to be had, the output cannot be written or is another
    training's. `share` is this process' part of a data-parallel training, whose process 0 alone writes and reports.
    """

    def __init__(self, job: TrainJob, command: str | None = None, share: Share = Share()) -> None:
        use_exact_float32()
        self.job = job
        self.command = command
        self.share = share
        self.path = Path(job.output)
        if share.rank == 0:
            _writable(self.path)
        self.folder = training_folder(job)
        self.device = _device(job.execution.device)
        self.start = _initial_weights(job)
        config = architecture(job.model.arch)
        self.model = build_model(config.name, self.start, self.device)
        if job.training.start.weight == 0 and self.model.stored_D is not None:
            self.model.stored_D = None
            log.warning(
                "the start that the weights hold is not trained (training.start.weight is 0), and is not written with "
                "the new ones: `srs-ray weights calibrate` makes one for them"
            )
        self.data, self.evaluation = (Images(section, config, self.device) for section in (job.data, job.evaluation))
        self.fingerprint = self._fingerprint()
        self.batches = -(-len(self.data) // job.training.batch)
        self.trainer = Trainer(self.model, job.training, job.noise.sigma, job.execution.seed, self.batches, share)
        self.reports: list[EpochReport] = []
        self.epoch, self.batch, self.seconds = 1, 0, 0.0
        self._sums: defaultdict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        self._restore()

    def run(
        self,
        report: Callable[[StepReport | EpochReport], object] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> TrainingResult | None:
        """Trains to the end and writes weights and card; None if `stopped` became true, which keeps a checkpoint.

        The same job gives the same weights (on one kind of device, for one number of threads and one version of torch),
        however often it was stopped. Raises an SrsRayError if the training diverges or memory runs out.
        """
        try:
            return self._run(report, stopped)
        except torch.OutOfMemoryError as error:
            batch = self.job.training.batch
            raise SrsRayError(
                f"the GPU's memory is too small for a batch: make training.batch (now {batch}) smaller"
            ) from error

    def _run(
        self, report: Callable[[StepReport | EpochReport], object], stopped: Callable[[], bool]
    ) -> TrainingResult | None:
        if self.trained:
            return TrainingResult(self.path, read_weights(self.path)) if self.share.rank == 0 else None
        if self.share.rank == 0:
            try:
                self.folder.mkdir(exist_ok=True)
            except OSError as error:
                raise WeightsError(f"cannot make the folder {self.folder} for checkpoint and logs: {error}") from error
        with TrainingLog(self.folder, self.reports, self._step, enabled=self.share.rank == 0) as log:

            def tell(told: StepReport | EpochReport) -> None:
                if self.share.rank == 0:
                    log(told)
                    report(told)

            while self.epoch <= self.job.training.epochs:
                if not self._train_epoch(tell, stopped):
                    self._save()
                    return None
        return self._finish() if self.share.rank == 0 else None

    @property
    def _step(self) -> int:
        return (self.epoch - 1) * self.batches + self.batch

    def _train_epoch(self, tell: Callable[[StepReport | EpochReport], None], stopped: Callable[[], bool]) -> bool:
        """The rest of the current epoch; False if it was stopped on the way."""
        began = saved = time.monotonic()
        before = self.seconds
        size = self.job.training.batch
        order_N = self.trainer.order(self.epoch, len(self.data))
        shares = [self.share.rows(rows_B) for rows_B in order_N.split(size)[self.batch :]]
        waiting: list[dict[str, Tensor]] = []
        for x_BCHW, y_B in self.data.batches(shares, self.job.execution.cpus_per_worker - 1):
            waiting.append(self.trainer.step(self.epoch, self.batch, x_BCHW, y_B))
            self.batch += 1
            now = time.monotonic()
            self.seconds = before + now - began
            if self.batch % REPORT_EVERY == 0 or self.batch == self.batches:
                tell(self._gathered(waiting))
                waiting = []
            if self.batch < self.batches:
                if self.share.agree(stopped()):
                    if waiting:
                        tell(self._gathered(waiting))
                    return False
                if now - saved > 60 * self.job.execution.checkpoint_minutes and not waiting:
                    self._save()
                    saved = now
        if self.share.rank == 0:
            self._end_epoch(tell, began, before)
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        self._sums.clear()
        self._save()
        return self.epoch > self.job.training.epochs or not self.share.agree(stopped())

    def _end_epoch(self, tell: Callable[[StepReport | EpochReport], None], began: float, before: float) -> None:
        evaluation, agreement = self._measured()
        losses = {name: total / count for name, (total, count) in self._sums.items()}
        seconds = before + time.monotonic() - began
        epochs, phase = self.job.training.epochs, self.trainer.phase(self.epoch)
        done = EpochReport(self.epoch, epochs, phase, losses, evaluation, agreement, seconds)
        self.reports.append(done)
        tell(done)

    def _gathered(self, waiting: list[dict[str, Tensor]]) -> StepReport:
        """The means of the losses that nobody has looked at yet; SrsRayError where one is not finite."""
        losses: defaultdict[str, list[float]] = defaultdict(list)
        for step in waiting:
            for name, value in step.items():
                losses[name].append(float(value))
        for name, values in losses.items():
            if not all(map(torch.isfinite, torch.tensor(values))):
                raise self._diverged(name)
            total, count = self._sums[name]
            self._sums[name] = (total + sum(values), count + len(values))
        means = {name: sum(values) / len(values) for name, values in losses.items()}
        phase, rate = self.trainer.phase(self.epoch), self.trainer.optimizer.param_groups[0]["lr"]
        return StepReport(self.epoch, self.batch, self.batches, phase, means, rate)

    def _diverged(self, name: str) -> SrsRayError:
        settings = self.job.training
        return SrsRayError(
            f"training diverged: {name} is not finite in epoch {self.epoch} ({self.trainer.phase(self.epoch)}); try a "
            f"smaller training.learning_rate (now {settings.learning_rate:g}), a smaller training.clip (now "
            f"{settings.clip:g}) or more training.unrolled_epochs (now {settings.unrolled_epochs})"
        )

    def _measured(self) -> tuple[NoisyEvaluation, ChainAgreement | None]:
        """The model as it stands, on a few of the evaluation points."""
        section, sigma = self.job.evaluation, self.job.noise.sigma
        model = self.trainer.trained.eval()
        with parametrize.cached():
            points = self.evaluation.spread(section.epoch_points)
            evaluation = evaluate(model, points, sigma, self._evaluation_noise())
            if not section.epoch_agreement_points:
                return evaluation, None
            images = self._agreement_images(section.epoch_agreement_points)
            return evaluation, chain_agreement(model, images, sigma, self.job.execution.seed, **_EPOCH_AGREEMENT)

    def _agreement_images(self, count: int) -> Tensor:
        return torch.cat([x_BCHW for x_BCHW, _ in self.evaluation.spread(count)])

    def _finish(self) -> TrainingResult:
        """Measures what is written, on all evaluation points, and writes weights and card."""
        job, section = self.job, self.job.evaluation
        tensors = folded_tensors(self.trainer.trained)
        model = build_model(job.model.arch, Weights(tensors, {}), self.device)
        points = self.evaluation.spread(len(self.evaluation))
        final = evaluate(model, points, job.noise.sigma, self._evaluation_noise(), section.draws)
        agreement = chain_agreement(
            model, self._agreement_images(section.agreement_points), job.noise.sigma, job.execution.seed
        )
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        card = {
            "architecture": job.model.arch,
            **({} if self.data.class_names is None else {"classes": list(self.data.class_names)}),
            "sigma": job.noise.sigma,
            "note": job.note,
            "initial_weights": _origin(self.start),
            "data": self.data.record,
            "evaluation": self.evaluation.record,
            "epochs": job.training.epochs,
            "seed": job.execution.seed,
            "recipe": job.training.model_dump(mode="json"),
            "noisy_accuracy": _rounded(final.accuracy),
            **({"accuracy_from_start": _rounded(final.from_start)} if final.from_start else {}),
            "residual": float(f"{final.residual:.3g}"),
            "spectral_radius": float(f"{final.spectral_radius:.3g}"),
            "chain_agreement": asdict(agreement),
            "history": [report.flat() for report in self.reports],
            "hours": float(f"{sum(report.seconds for report in self.reports) / 3600:.3g}"),
            "device": f"{device_name(self.device)}{threads}, {job.execution.workers} workers",
            "command": self.command,
            "versions": {"srs-ray": srs_ray.__version__, "torch": torch.__version__},
            "fingerprint": self.fingerprint,
        }
        weights = Weights(tensors, {name: _text(value) for name, value in card.items()})
        write_card(weights, self.path)  # before the weights, which say that all is done
        write_weights(weights, self.path)
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        return TrainingResult(self.path, weights)

    def _save(self) -> None:
        if self.share.rank == 0:
            plain = [report.plain() for report in self.reports]
            state = self.trainer.state()
            kept = Checkpoint(self.fingerprint, self.epoch, self.batch, state, dict(self._sums), self.seconds, plain)
            checkpoint.save(kept, self.folder / "checkpoint.pt")

    def _restore(self) -> None:
        """Goes on where process 0 was left, which alone need reach the output."""
        found = None
        if self.share.rank == 0:
            # On the CPU: the other processes would get it on this one's device.
            path, cpu = self.folder / "checkpoint.pt", torch.device("cpu")
            found = self.fingerprint, self._is_trained(), checkpoint.load(path, self.fingerprint, cpu)
        first = self.share.of_first(found)
        assert first is not None
        fingerprint, self.trained, kept = first
        changed = [f"{name}: {was} there, {now} here" for name, was, now in differences(fingerprint, self.fingerprint)]
        if changed:
            raise JobError(
                f"process {self.share.rank} does not find what process 0 does ({'; '.join(changed)}): give every node "
                f"the same data, weights and kind of device"
            )
        if kept is not None:
            self.trainer.restore(kept.trainer)
            self.epoch, self.batch, self.seconds = kept.epoch, kept.batch, kept.seconds
            self._sums.update(kept.sums)
            self.reports = [EpochReport.of(plain) for plain in kept.reports]

    def _is_trained(self) -> bool:
        """Whether the output is this training's; SrsRayError if it is another's."""
        if not self.path.exists():
            return False
        found = read_weights(self.path).card.get("fingerprint", {})
        later = not_compared(found, self.fingerprint)
        changed = [each for each in differences(found, self.fingerprint) if each[0] not in later]
        if changed:
            named = "; ".join(f"{name}: {was} there, {now} here" for name, was, now in changed[:4])
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise WeightsError(
                f"{self.path} holds other weights ({named}{more}): give another output, or remove it first"
            )
        return True

    def _fingerprint(self) -> dict[str, Any]:
        """All that decides what comes out, but for the machine."""
        job = self.job
        sections = {
            "model": {"arch": job.model.arch, "weights": self.start.digest},
            "data": self.data.record,
            "evaluation": self.evaluation.record
            | job.evaluation.model_dump(
                include={"epoch_points", "epoch_agreement_points", "draws", "agreement_points"}
            ),
            "noise": job.noise.model_dump(),
            "training": _as_before(job.training),
            "execution": {"device": self.device.type, "workers": job.execution.workers, "seed": job.execution.seed},
        }
        return dict(_flat("", sections))

    def _evaluation_noise(self) -> torch.Generator:
        """The same noise after every epoch, so that epochs can be compared; not that of the training."""
        return torch.Generator(self.device).manual_seed(self.job.execution.seed + 1)


def train(
    job: TrainJob,
    report: Callable[[StepReport | EpochReport], object] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    command: str | None = None,
) -> TrainingResult | None:
    """Trains as the job says, in this process: `Training(job).run(...)`."""
    return Training(job, command).run(report, stopped)


def training_folder(job: TrainJob) -> Path:
    """Where checkpoint and logs of a training lie: beside its output."""
    return Path(job.output).with_suffix(".training")


def _initial_weights(job: TrainJob) -> Weights:
    if job.model.weights is None:
        return random_weights(job.model.arch, job.execution.seed)
    return read_weights(job.model.weights)


def _origin(weights: Weights) -> object:
    """How the weights came to be that a training began with."""
    card = weights.card
    if "training" in card:
        return card["training"]
    return {"digest": weights.digest} | {name: card[name] for name in _OF_THE_FIRST if name in card}


def _as_before(settings: TrainingSettings) -> dict[str, Any]:
    """The settings without those that are newer than some trainings and say what these did."""
    plain = settings.model_dump(mode="json")
    if settings.start.weight == 0:
        del plain["start"]
    if settings.serial.aim == "chain":
        del plain["serial"]["aim"]
    return plain


def _rounded(shares: dict[int, float]) -> dict[int, float]:
    return {steps: round(share, 4) for steps, share in shares.items()}


def _flat(prefix: str, values: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        pairs += _flat(f"{prefix}{name}.", value) if isinstance(value, dict) else [(prefix + name, value)]
    return pairs


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise JobError("execution.device is cuda, but torch finds no CUDA device here: use cpu, or a machine with one")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _writable(path: Path) -> None:
    """SrsRayError if it is not: found out before the training and not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot write weights to {path}: {error}") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        found = "it is a folder" if path.is_dir() else "no permission"
        raise WeightsError(f"cannot write weights to {path}: {found}; give another output")
