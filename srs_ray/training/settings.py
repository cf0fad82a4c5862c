"""Every setting of a training with its type, its default and its check; `srs_ray.job_file` reads the files."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from srs_ray.data.registry import kind_named
from srs_ray.data.settings import DataSettings
from srs_ray.models.settings import Architecture
from srs_ray.settings import PathOrName, Settings
from srs_ray.solvers.settings import SolverName

Count = Annotated[int, Field(ge=1)]


def _local(path: str) -> str:
    if "://" in path:
        raise ValueError("weights are written to a local or shared file system, not to a URI")
    return os.path.expanduser(path)


class PhantomGradient(Settings):
    """The gradient of the last `steps` evaluations, made at the equilibrium (Geng et al. 2021; 1: Fung et al. 2021)."""

    kind: Literal["phantom"]
    steps: int = Field(2, ge=1)


class ImplicitGradient(Settings):
    """The gradient by the implicit function theorem: a backward fixed-point solve, per sample."""

    kind: Literal["implicit"]
    solver: SolverName = "anderson"
    steps: int = Field(12, ge=1)
    tolerance: float | None = Field(1e-3, gt=0)


class JacobianSettings(Settings):
    """Jacobian regularisation (Bai, Koltun, Kolter 2021): `weight` times |J_f|^2 / D in every `every`-th batch.

    It is part of the second phase, and ends after the epoch `last_epoch` (null: never).
    """

    weight: float = Field(0.0, ge=0)
    every: int = Field(1, ge=1)
    last_epoch: int | None = Field(None, ge=1)


class IntermediateSettings(Settings):
    """Losses on random intermediate states (Yang et al. 2023): `weight` times the loss on `states` of them."""

    weight: float = Field(0.0, ge=0)
    states: int = Field(1, ge=1)


class StartSettings(Settings):
    """A start that is trained with the weights, from which a few evaluations are to say what the equilibrium says.

    Every solve begins from it, one state for all inputs, and `weight` times the loss after the first `steps`
    evaluations is added. It begins as the start of the weights that training goes on from, or as zero, and is written
    with them.
    """

    weight: float = Field(0.0, ge=0)
    steps: int = Field(1, ge=1)


class SerialSettings(Settings):
    """What serialized and anchored sampling ask of a layer, trained for directly.

    Of each image `copies` noisy copies are solved; one evaluation that starts from another copy's equilibrium, as in a
    chain (`aim: chain`), or from the mean of all others' (`anchor`), is to say what the copy's own equilibrium says:
    `weight` times the Kullback-Leibler divergence between them. It is part of every `every`-th batch, and begins with
    the epoch `first_epoch` (from 1), or with the second phase if that is later. Other batches hold one noisy copy of
    each image.
    """

    weight: float = Field(0.0, ge=0)
    aim: Literal["chain", "anchor"] = "chain"
    copies: int = Field(2, ge=2)
    every: int = Field(1, ge=1)
    first_epoch: int = Field(1, ge=1)


class AdversarySettings(Settings):
    """SmoothAdv (Salman et al. 2019): images are moved by `steps` of projected gradient ascent on the smoothed loss.

    `radius` is in l2, pixel units of [0, 1], and grows from 0 over the first `warmup_epochs`. The smoothed loss is
    taken over `samples` noisy copies of the image (those of the serial loss, if they are more), which are then trained
    on. No steps: no adversary.
    """

    steps: int = Field(0, ge=0)
    radius: float = Field(0.25, gt=0)
    samples: int = Field(2, ge=1)
    warmup_epochs: int = Field(0, ge=0)


class TrainingSettings(Settings):
    """Gaussian-augmented training: first unrolled, then at the equilibrium.

    Solves begin from zero, or from a `start` that is trained too.
    `unrolled_steps`: evaluations of the first phase, all with their gradient. In the second one a random number of
    steps by `solver` (null: the architecture's), `solve_steps[0]` to `solve_steps[1]`, is made without a gradient
    (random depth), and `gradient` says how the loss reaches the layer from there.
    `dropout` is variational: one mask per image and channel for all evaluations of a solve.
    `learning_rate` is the peak: a linear rise over the first share `warmup` of all batches, then a cosine down to 0.
    `clip` bounds the gradient's norm. `ema`, above 0, is the decay of the exponential moving average of the weights,
    which is then what is evaluated and written.
    `precision`: bfloat16 is mixed precision; weights, states between evaluations and losses stay in float32.
    """

    unrolled_epochs: int = Field(ge=0)
    equilibrium_epochs: int = Field(ge=0)
    unrolled_steps: int = Field(5, ge=1)
    solver: SolverName | None = None
    solve_steps: tuple[Count, Count] = (4, 8)
    gradient: Annotated[PhantomGradient | ImplicitGradient, Field(discriminator="kind")] = PhantomGradient(
        kind="phantom"
    )
    jacobian: JacobianSettings = JacobianSettings()
    intermediate: IntermediateSettings = IntermediateSettings()
    start: StartSettings = StartSettings()
    serial: SerialSettings = SerialSettings()
    adversary: AdversarySettings = AdversarySettings()
    dropout: float = Field(0.0, ge=0, lt=1)
    batch: int = Field(96, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    ema: float = Field(0.0, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    augment: Literal["none", "flip", "crop-flip"] = "none"

    @property
    def epochs(self) -> int:
        """Of both phases."""
        return self.unrolled_epochs + self.equilibrium_epochs

    def is_serial(self, epoch: int, batch: int = 0) -> bool:
        """Whether that batch (from 0) of that epoch (from 1) has the serial loss."""
        begun = epoch >= max(self.serial.first_epoch, self.unrolled_epochs + 1)
        return self.serial.weight > 0 and begun and batch % self.serial.every == 0

    def is_regularised(self, epoch: int, batch: int = 0) -> bool:
        """Whether that batch (from 0) of that epoch (from 1) has the Jacobian's regularisation."""
        ended = self.jacobian.last_epoch is not None and epoch > self.jacobian.last_epoch
        begun = epoch > self.unrolled_epochs
        return self.jacobian.weight > 0 and begun and not ended and batch % self.jacobian.every == 0

    def copies(self, epoch: int, batch: int = 0) -> int:
        """How many noisy copies of an image that batch (from 0) of that epoch (from 1) holds."""
        serial = self.serial.copies if self.is_serial(epoch, batch) else 1
        return max(serial, self.attacked_copies)

    @property
    def attacked_copies(self) -> int:
        """How many noisy copies SmoothAdv asks for."""
        return self.adversary.samples if self.adversary.steps > 0 else 1

    @model_validator(mode="after")
    def _trains(self) -> TrainingSettings:
        if self.epochs == 0:
            raise ValueError("unrolled_epochs and equilibrium_epochs are both 0; expected at least one epoch in all")
        if self.solve_steps[0] > self.solve_steps[1]:
            raise ValueError(f"solve_steps is {list(self.solve_steps)}; expected [least, most]")
        last = range(self.unrolled_epochs + 1, self.epochs + 1)
        if self.serial.weight > 0 and not any(self.is_serial(epoch) for epoch in last):
            raise ValueError(
                "serial.weight is set, but no epoch has the serial loss: it needs equilibrium_epochs, and "
                f"a serial.first_epoch of at most {self.epochs}"
            )
        if self.jacobian.weight > 0 and not any(self.is_regularised(epoch) for epoch in last):
            raise ValueError(
                "jacobian.weight is set, but no epoch is regularised: it needs equilibrium_epochs, and a "
                f"jacobian.last_epoch above unrolled_epochs, {self.unrolled_epochs}"
            )
        if self.start.weight > 0 and self.unrolled_epochs and self.start.steps >= self.unrolled_steps:
            raise ValueError(
                f"start.steps is {self.start.steps}; expected fewer than unrolled_steps, {self.unrolled_steps}, which "
                "begin from the start too"
            )
        between = self.unrolled_steps - (self.start.steps if self.start.weight > 0 else 0) - 1
        if self.intermediate.weight > 0 and not between and not self.equilibrium_epochs:
            raise ValueError(
                f"intermediate.weight is set, but with unrolled_steps {self.unrolled_steps} no state is intermediate"
            )
        if self.serial.weight > 0 and self.serial.aim == "anchor" and max(self.serial.copies, self.attacked_copies) < 3:
            raise ValueError("serial.aim anchor is the mean of the other copies: it needs serial.copies of at least 3")
        return self


class TrainModelSettings(Settings):
    """The architecture that is trained, from random weights or from `weights`."""

    arch: Architecture
    weights: PathOrName | None = None


class EvaluationSettings(DataSettings):
    """The points that the model is measured on.

    After each epoch on `epoch_points` of them, spread evenly, and the chains' agreement on `epoch_agreement_points`;
    at the end on all of them, under `draws` draws of noise, and the agreement on `agreement_points`.
    """

    epoch_points: int = Field(500, ge=1)
    epoch_agreement_points: int = Field(5, ge=0)
    draws: int = Field(5, ge=1)
    agreement_points: int = Field(50, ge=1)


class TrainExecutionSettings(Settings):
    """Where a training runs, its seed, and how often, apart from each epoch's end, it keeps a checkpoint.

    More than one worker share each batch through Ray Train, each with `cpus_per_worker` threads and, on CUDA, a GPU. A
    single one runs in the process itself, with torch's own number of threads. Images that are not in memory are read by
    `cpus_per_worker` - 1 processes for each worker.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(1, ge=1)
    cpus_per_worker: int = Field(1, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    checkpoint_minutes: float = Field(10.0, gt=0)


class TrainNoiseSettings(Settings):
    """Gaussian training noise in pixel units of [0, 1]."""

    sigma: float = Field(gt=0)


class TrainJob(Settings):
    """A training, as `srs-ray train` runs it; `output` is the safetensors file that it writes.

    `note` goes into the card: what a reader of the figures should know.
    """

    model: TrainModelSettings
    data: DataSettings
    evaluation: EvaluationSettings
    noise: TrainNoiseSettings
    training: TrainingSettings
    execution: TrainExecutionSettings = TrainExecutionSettings()
    output: Annotated[PathOrName, Field(pattern=r"\.safetensors$"), AfterValidator(_local)]
    note: str | None = None

    @model_validator(mode="after")
    def _names_its_split(self) -> TrainJob:
        if self.data.split is None and kind_named(self.data.kind).default_split is not None:
            raise ValueError("data.split is missing: name the split to train on; left out, it is the test split")
        return self
