"""What a training tells while it goes: after batches, and after each epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from srs_ray.training.chain_agreement import ChainAgreement
from srs_ray.training.evaluation import NoisyEvaluation
from srs_ray.training.trainer import Phase

REPORT_EVERY = 20
"""Batches between two reports; between them nothing waits for the device."""


@dataclass(frozen=True)
class StepReport:
    """After `batch` of `batches` in an epoch (both from 1): the means of the losses since the last such report."""

    epoch: int
    batch: int
    batches: int
    phase: Phase
    losses: dict[str, float]
    rate: float

    @property
    def step(self) -> int:
        """Batches since the training began."""
        return (self.epoch - 1) * self.batches + self.batch


@dataclass(frozen=True)
class EpochReport:
    """What an epoch (1 to `epochs`) brought: its mean losses, the model on evaluation points, the wall time of both."""

    epoch: int
    epochs: int
    phase: Phase
    losses: dict[str, float]
    evaluation: NoisyEvaluation
    agreement: ChainAgreement | None
    seconds: float

    def __str__(self) -> str:
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items() if name != "gradient")
        accuracy = ", ".join(f"{share:.1%} ({steps})" for steps, share in self.evaluation.accuracy.items())
        for steps, share in self.evaluation.from_start.items():
            accuracy += f", {share:.1%} (start + {steps})"
        agreement = ""
        if self.agreement is not None:
            agreement = "; false c " + ", ".join(
                f"{share:.2%} (SRS-{steps})" for steps, share in self.agreement.false_mean.items()
            )
        return (
            f"epoch {self.epoch}/{self.epochs} {self.phase}: {losses}; noisy accuracy (steps) {accuracy}; "
            f"residual {self.evaluation.residual:.1e}, spectral radius {self.evaluation.spectral_radius:.2f}"
            f"{agreement}; {self.seconds:.1f} s"
        )

    def flat(self) -> dict[str, Any]:
        """One row of the log: every figure by a dotted name."""
        row: dict[str, Any] = {"epoch": self.epoch, "phase": self.phase, "seconds": self.seconds}
        row |= {f"loss.{name}" if name != "loss" else "loss": value for name, value in self.losses.items()}
        row |= {f"accuracy.{steps}": share for steps, share in self.evaluation.accuracy.items()}
        row |= {f"accuracy.start.{steps}": share for steps, share in self.evaluation.from_start.items()}
        row |= {"residual": self.evaluation.residual, "spectral_radius": self.evaluation.spectral_radius}
        if self.agreement is not None:
            row |= {f"false.{steps}": share for steps, share in self.agreement.false_mean.items()}
        return row

    def plain(self) -> dict[str, Any]:
        """All of it in plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> EpochReport:
        """The report that `plain` came from."""
        agreement = plain["agreement"]
        return cls(
            **plain
            | {
                "evaluation": NoisyEvaluation(**plain["evaluation"]),
                "agreement": None if agreement is None else ChainAgreement(**agreement),
            }
        )
