"""Gaussian-augmented training (Cohen et al. 2019) of an MDEQ, an epoch at a time, on images that are in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize

from srs_ray.errors import SrsRayError
from srs_ray.job import TrainingSettings
from srs_ray.models.mdeq import MDEQ
from srs_ray.models.solvers import SolverSetting, solve
from srs_ray.training.augmentation import augment
from srs_ray.training.gradients import unroll
from srs_ray.training.jacobian import jacobian_energy
from srs_ray.training.weight_normalization import add_weight_normalization

Phase = Literal["unrolled", "equilibrium"]


@dataclass(frozen=True)
class EpochLosses:
    """Means over an epoch's batches: cross-entropy, and the Jacobian's `|J|_F^2 / D` where it was regularised."""

    phase: Phase
    loss: float
    jacobian: float | None


class Trainer:
    """A model in training: its weights under weight normalisation, the optimiser, the schedule, all randomness.

    `sigma` is in pixel units of [0, 1]. Every random number (order, crops, noise, steps, probes) is drawn from one
    generator on the model's device, seeded with `seed`.
    """

    def __init__(self, model: MDEQ, settings: TrainingSettings, sigma: float, seed: int, points: int) -> None:
        self.model = model
        self.settings = settings
        self.sigma = sigma
        self.generator = torch.Generator(model.device).manual_seed(seed)
        self.epoch = 0
        add_weight_normalization(model)
        model.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        batches = settings.epochs * math.ceil(points / settings.batch)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, batches)

    def train_epoch(self, x_NCHW: Tensor, y_N: Tensor) -> EpochLosses:
        """One pass over the images (in [0, 1]) in random order; SrsRayError if a loss or a gradient is not finite."""
        self.epoch += 1
        phase: Phase = "unrolled" if self.epoch <= self.settings.unrolled_epochs else "equilibrium"
        self.model.train()
        order_N = torch.randperm(len(x_NCHW), generator=self.generator, device=x_NCHW.device)
        losses, energies, norms = [], [], []
        for batch, rows_B in enumerate(order_N.split(self.settings.batch)):
            regularised = phase == "equilibrium" and self._is_regularised(batch)
            x_BCHW = self._noisy(augment(x_NCHW[rows_B], self.settings.augment, self.generator))
            logits_BK, energy = self._logits(x_BCHW, phase, regularised)
            loss = F.cross_entropy(logits_BK, y_N[rows_B])
            losses.append(loss.detach())
            if energy is not None:
                energies.append(energy.detach())
                loss = loss + self.settings.jacobian.weight * energy
            norms.append(self._descend(loss))
        if not torch.isfinite(torch.stack(losses + norms)).all():
            raise SrsRayError(
                f"training diverged: loss or gradient is not finite in epoch {self.epoch} ({phase}); try a smaller "
                f"training.learning_rate (now {self.settings.learning_rate:g}), a smaller training.clip (now "
                f"{self.settings.clip:g}) or more training.unrolled_epochs (now {self.settings.unrolled_epochs})"
            )
        return EpochLosses(phase, _mean(losses), _mean(energies) if energies else None)

    def _is_regularised(self, batch: int) -> bool:
        jacobian = self.settings.jacobian
        return jacobian.weight > 0 and batch % jacobian.every == 0

    def _noisy(self, x_BCHW: Tensor) -> Tensor:
        noise_BCHW = torch.randn(x_BCHW.shape, generator=self.generator, device=x_BCHW.device)
        return x_BCHW + self.sigma * noise_BCHW

    def _logits(self, x_BCHW: Tensor, phase: Phase, regularised: bool) -> tuple[Tensor, Tensor | None]:
        """Logits with their gradient, and the Jacobian's energy if it is asked for.

        The normalised weights are computed once per `cached` block; a block without gradient must not be shared with
        one that needs it.
        """
        model, settings = self.model, self.settings
        injection_BCHW = model.inject(x_BCHW)
        start_BD = model.zero_state(len(x_BCHW))

        def f(z_BD: Tensor) -> Tensor:
            return model.f(z_BD, injection_BCHW)

        if phase == "unrolled":
            with parametrize.cached():
                return model.head(unroll(f, start_BD, settings.unrolled_steps)), None
        with parametrize.cached():
            start_BD = solve(f, start_BD, self._solver_setting()).z_BD.detach().requires_grad_(regularised)
        with parametrize.cached():
            first_BD = f(start_BD)
            energy = jacobian_energy(first_BD, start_BD, self.generator) if regularised else None
            return model.head(unroll(f, first_BD, settings.gradient_steps - 1)), energy

    def _solver_setting(self) -> SolverSetting:
        """The architecture's solver with a random number of steps, so that no one number is trained for."""
        least, most = self.settings.solve_steps
        device = self.generator.device
        steps = int(torch.randint(least, most + 1, (), generator=self.generator, device=device))
        return SolverSetting(self.model.config.reference.solver, steps)

    def _descend(self, loss: Tensor) -> Tensor:
        """One step of the optimiser; the gradient's norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.schedule.step()
        return norm


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())
