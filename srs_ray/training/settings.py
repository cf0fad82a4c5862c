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

    kind: Literal["phantom"] = Field(description="Gradient through the last evaluations at the equilibrium.")
    steps: int = Field(2, ge=1, description="How many evaluations.")


class ImplicitGradient(Settings):
    """The gradient by the implicit function theorem: a backward fixed-point solve, per sample."""

    kind: Literal["implicit"] = Field(description="Gradient by the implicit function theorem.")
    solver: SolverName = Field("anderson", description="Solver of the backward pass.")
    steps: int = Field(12, ge=1, description="Its largest number of steps.")
    tolerance: float | None = Field(1e-3, gt=0, description="Its relative residual; null: never stop early.")


class JacobianSettings(Settings):
    """Jacobian regularisation (Bai, Koltun, Kolter 2021), in the second phase."""

    weight: float = Field(0.0, ge=0, description="Weight of |J_f|^2 / D in the loss; 0: none.")
    every: int = Field(1, ge=1, description="Distance between two batches that have it.")
    last_epoch: int | None = Field(None, ge=1, description="Last epoch that has it; null: all.")


class IntermediateSettings(Settings):
    """Losses on random intermediate states (Yang et al. 2023), so that few steps suffice."""

    weight: float = Field(0.0, ge=0, description="Weight of the loss on intermediate states; 0: none.")
    states: int = Field(1, ge=1, description="Random intermediate states of a batch.")


class StartSettings(Settings):
    """A start that is trained with the weights: a few evaluations from it should predict what the equilibrium predicts.

    Every solve begins from it, one state for all inputs. It begins as the start of the weights that training goes on
    from, or as zero, and is written with them.
    """

    weight: float = Field(0.0, ge=0, description="Weight of the loss after a few evaluations from the start; 0: none.")
    steps: int = Field(1, ge=1, description="How many evaluations.")


class SerialSettings(Settings):
    """Trains for warm starts, as `srs` and `anchored` use them.

    One evaluation started at other noisy copies' equilibria should give the prediction of the copy's own equilibrium:
    the loss is the Kullback-Leibler divergence between the two. Other batches hold one noisy copy of each image.
    """

    weight: float = Field(0.0, ge=0, description="Weight of the Kullback-Leibler divergence; 0: none.")
    aim: Literal["chain", "anchor"] = Field(
        "chain",
        description="Start of the evaluation: another copy's equilibrium (`chain`), or the mean of the others' "
        "(`anchor`).",
    )
    copies: int = Field(2, ge=2, description="Noisy copies of an image.")
    every: int = Field(1, ge=1, description="Distance between two batches that have it.")
    first_epoch: int = Field(1, ge=1, description="First epoch that has it, in the second phase.")


class AdversarySettings(Settings):
    """SmoothAdv (Salman et al. 2019): projected gradient ascent on the smoothed loss moves the images.

    The noisy copies (those of the serial loss, if they are more) are then trained on.
    """

    steps: int = Field(0, ge=0, description="Steps of projected gradient ascent; 0: no adversary.")
    radius: float = Field(0.25, gt=0, description="l2 radius of the attack, in pixel units of [0, 1].")
    samples: int = Field(2, ge=1, description="Noisy copies over which the smoothed loss is taken.")
    warmup_epochs: int = Field(0, ge=0, description="Epochs in which the radius grows from 0.")


class TrainingSettings(Settings):
    """Gaussian-augmented training: first unrolled, then at the equilibrium.

    Solves begin from zero, or from a `start` that is trained too. The second phase has random depth. In mixed precision
    weights, states between evaluations and losses stay in float32.
    """

    unrolled_epochs: int = Field(ge=0, description="Epochs of the first phase.")
    equilibrium_epochs: int = Field(ge=0, description="Epochs of the second phase.")
    unrolled_steps: int = Field(5, ge=1, description="Evaluations of the first phase, all with a gradient.")
    solver: SolverName | None = Field(None, description="Solver of the second phase; null: the architecture's.")
    solve_steps: tuple[Count, Count] = Field(
        (4, 8), description="Least and most solver steps without a gradient; each batch draws a number between them."
    )
    gradient: Annotated[PhantomGradient | ImplicitGradient, Field(discriminator="kind")] = Field(
        PhantomGradient(kind="phantom"), description="How the loss reaches the layer in the second phase."
    )
    jacobian: JacobianSettings = Field(JacobianSettings(), description="Jacobian regularisation.")
    intermediate: IntermediateSettings = Field(IntermediateSettings(), description="Losses on intermediate states.")
    start: StartSettings = Field(StartSettings(), description="A start that is trained with the weights.")
    serial: SerialSettings = Field(SerialSettings(), description="Loss for warm starts.")
    adversary: AdversarySettings = Field(AdversarySettings(), description="SmoothAdv.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Variational dropout: one mask per image and channel for all evaluations of a solve.",
    )
    batch: int = Field(96, ge=1, description="Images of a batch.")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="Optimiser.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate; a cosine takes it to 0.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")
    warmup: float = Field(
        0.0, ge=0, lt=1, description="Share of all batches in which the learning rate rises linearly."
    )
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the moving average of the weights, which is then evaluated and written; 0: none.",
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 is mixed precision.")
    augment: Literal["none", "flip", "crop-flip"] = Field("none", description="Augmentation of the images.")

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

    arch: Architecture = Field(description="Name of the architecture.")
    weights: PathOrName | None = Field(None, description="Weights to go on from; null: random ones.")


class EvaluationSettings(DataSettings):
    """The points that the model is measured on.

    After each epoch on `epoch_points` of them, spread evenly, and the chains' agreement on `epoch_agreement_points`;
    at the end on all of them, under `draws` draws of noise, and the agreement on `agreement_points`.
    """

    epoch_points: int = Field(500, ge=1, description="Points that are evaluated after each epoch.")
    epoch_agreement_points: int = Field(5, ge=0, description="Points on which chains are compared after each epoch.")
    draws: int = Field(5, ge=1, description="Draws of noise at the end.")
    agreement_points: int = Field(50, ge=1, description="Points on which chains are compared at the end.")


class TrainExecutionSettings(Settings):
    """Where a training runs, its seed, and how often, apart from each epoch's end, it keeps a checkpoint.

    More than one worker share each batch through Ray Train, each with `cpus_per_worker` threads and, on CUDA, a GPU. A
    single one runs in the process itself, with torch's own number of threads. Images that are not in memory are read by
    `cpus_per_worker` - 1 processes for each worker.
    """

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device.")
    workers: int = Field(1, ge=1, description="Processes that share each batch; above 1 through Ray Train.")
    cpus_per_worker: int = Field(1, ge=1, description="Threads of a process, and its readers of images plus one.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of weights, batches and noise.")
    checkpoint_minutes: float = Field(10.0, gt=0, description="Minutes between two checkpoints inside an epoch.")


class TrainNoiseSettings(Settings):
    """Gaussian training noise in pixel units of [0, 1]."""

    sigma: float = Field(gt=0, description="Standard deviation, in pixel units of [0, 1].")


class TrainJob(Settings):
    """A training, as `srs-ray train` runs it."""

    model: TrainModelSettings = Field(description="The architecture.")
    data: DataSettings = Field(description="The training images.")
    evaluation: EvaluationSettings = Field(description="The points to measure on.")
    noise: TrainNoiseSettings = Field(description="The training noise.")
    training: TrainingSettings = Field(description="The recipe.")
    execution: TrainExecutionSettings = Field(TrainExecutionSettings(), description="Where the training runs.")
    output: Annotated[PathOrName, Field(pattern=r"\.safetensors$"), AfterValidator(_local)] = Field(
        description="The safetensors file to write."
    )
    note: str | None = Field(None, description="Text for the card of the weights.")

    @model_validator(mode="after")
    def _names_its_split(self) -> TrainJob:
        if self.data.split is None and kind_named(self.data.kind).default_split is not None:
            raise ValueError("data.split is missing: name the split to train on; left out, it is the test split")
        return self
