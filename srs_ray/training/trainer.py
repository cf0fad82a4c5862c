"""A model in training, a batch at a time: losses, gradients, optimiser, schedule and all randomness.

Shapes: B images of a batch, M noisy copies of each, N = M B noisy images, D elements of a state, K classes.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from srs_ray.models.mdeq.dropout import variational_dropout
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.models.mdeq.weight_normalization import add_weight_normalization
from srs_ray.solvers.gradients import implicit, unroll
from srs_ray.solvers.iteration import FixedPointIteration, FixedPointMap, SolverSetting
from srs_ray.training.adversary import attack
from srs_ray.training.augmentation import augment
from srs_ray.training.jacobian import jacobian_energy
from srs_ray.training.settings import ImplicitGradient, TrainingSettings
from srs_ray.training.share import Share

Phase = Literal["unrolled", "equilibrium"]
_ORDER, _BATCH = 0, 1  # domains of the seeds


@dataclass(frozen=True)
class _Extras:
    """The losses of a batch beside that at the equilibrium: on so many random `intermediate` states, the Jacobian's
    energy, and the serial loss among so many copies of each image (0: none).
    """

    intermediate: int = 0
    regularised: bool = False
    serial: int = 0


@dataclass(frozen=True)
class _States:
    """What a batch was solved to, and what is read off it: `final_ND` counts as the answer."""

    final_ND: Tensor
    intermediate: tuple[Tensor, ...] = ()
    early_ND: Tensor | None = None
    serial_ND: Tensor | None = None
    energy: Tensor | None = None


class Trainer:
    """A model under weight normalisation with its optimiser, schedule and moving average.

    `sigma` is in pixel units of [0, 1]; `batches` counts those of an epoch. All random numbers of a batch (crops,
    noise, steps, probes, masks) are a function of (seed, epoch, batch, rank): a training can go on from any batch.
    """

    def __init__(
        self, model: MDEQ, settings: TrainingSettings, sigma: float, seed: int, batches: int, share: Share = Share()
    ) -> None:
        self.model = model
        self.settings = settings
        self.sigma = sigma
        self.seed = seed
        self.batches = batches
        self.share = share
        self.generator = torch.Generator(model.device)
        add_weight_normalization(model)
        if settings.start.weight > 0:
            train_start(model)
        model.requires_grad_(True)
        self.optimizer = _optimizer(model, settings)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.average: AveragedModel | None = None
        if settings.ema > 0:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)

    @property
    def trained(self) -> MDEQ:
        """The model as it is evaluated and written: the moving average where there is one."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, MDEQ)
        return model

    def order(self, epoch: int, points: int) -> Tensor:
        """The images of an epoch (from 1) in random order, on the CPU; the same for every share."""
        generator = torch.Generator().manual_seed(_seed(self.seed, _ORDER, epoch))
        return torch.randperm(points, generator=generator)

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch (from 1)."""
        return "unrolled" if epoch <= self.settings.unrolled_epochs else "equilibrium"

    def step(self, epoch: int, batch: int, x_BCHW: Tensor, y_B: Tensor) -> dict[str, Tensor]:
        """Trains on this share's images (in [0, 1]) of a batch (from 0) of an epoch (from 1).

        What comes back is not waited for: the losses by name, `loss` first, and the norm of the `gradient` before
        clipping; `jacobian` (|J|_F^2 / D), `intermediate`, `start` and `serial` where the recipe has them.
        """
        self.generator.manual_seed(_seed(self.seed, _BATCH, epoch, batch, self.share.rank))
        self.model.train()
        settings, phase = self.settings, self.phase(epoch)
        copies = settings.copies(epoch, batch)
        x_BCHW = augment(x_BCHW, settings.augment, self.generator)
        noise_MBCHW = self.sigma * self._normal(copies, *x_BCHW.shape)
        with variational_dropout(self.model, settings.dropout, copies * len(x_BCHW), self.generator):
            if self._attacks:
                x_BCHW = self._attacked(x_BCHW, y_B, noise_MBCHW, epoch)
            extras = _Extras(
                intermediate=settings.intermediate.states if settings.intermediate.weight > 0 else 0,
                regularised=settings.is_regularised(epoch, batch),
                serial=copies if settings.is_serial(epoch, batch) else 0,
            )
            states = self._solve((x_BCHW + noise_MBCHW).flatten(0, 1), phase, extras)
            losses = self._losses(states, y_B.repeat(copies))
        weights = {
            "loss": 1.0,
            "intermediate": settings.intermediate.weight,
            "start": settings.start.weight,
            "serial": settings.serial.weight,
            "jacobian": settings.jacobian.weight,
        }
        total = sum((weights[name] * loss for name, loss in losses.items()), start=torch.zeros((), device=y_B.device))
        return {name: loss.detach() for name, loss in losses.items()} | {"gradient": self._descend(total, len(x_BCHW))}

    def state(self) -> dict[str, Any]:
        """All that a training which goes on needs, in tensors and plain values."""
        average = None if self.average is None else self.average.state_dict()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": average,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    @property
    def _attacks(self) -> bool:
        return self.settings.adversary.steps > 0

    def _rate(self, step: int) -> float:
        """The learning rate's share of its peak: a linear rise, then a cosine's half wave down to 0."""
        total = self.settings.epochs * self.batches
        rise = self.settings.warmup * total
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device)

    def _integer(self, least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=self.generator, device=self.generator.device))

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(
            self.model.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bfloat16"
        )

    def _map(self, injection_NCHW: Tensor) -> FixedPointMap:
        def f(z_ND: Tensor) -> Tensor:
            with self._precision():
                return self.model.f(z_ND, injection_NCHW).float()

        return f

    def _inject(self, x_NCHW: Tensor) -> Tensor:
        with self._precision():
            return self.model.inject(x_NCHW)

    def _head(self, z_ND: Tensor) -> Tensor:
        with self._precision():
            return self.model.head(z_ND).float()

    def _solve(self, x_NCHW: Tensor, phase: Phase, extras: _Extras) -> _States:
        """The states of a batch with their gradient.

        The normalised weights are computed once per `cached` block; a block without gradient must not be shared with
        one that needs it.
        """
        settings = self.settings
        f = self._map(self._inject(x_NCHW))
        with parametrize.cached():
            begun_ND, early_ND = self._begun(f, len(x_NCHW))
            if phase == "unrolled":
                return self._unrolled(f, begun_ND, early_ND, extras.intermediate)
        with parametrize.cached(), torch.no_grad():
            solved_ND, passed = self._solved(f, begun_ND, extras.intermediate)
        solved_ND = solved_ND.detach().requires_grad_(extras.regularised)
        with parametrize.cached():
            first_ND: Tensor | None = None
            if extras.regularised or not isinstance(settings.gradient, ImplicitGradient):
                first_ND = f(solved_ND)
            energy = (
                jacobian_energy(first_ND, solved_ND, self.generator)
                if extras.regularised and first_ND is not None
                else None
            )
            if isinstance(settings.gradient, ImplicitGradient):
                backward = settings.gradient
                setting = SolverSetting.named(backward.solver, backward.steps, backward.tolerance)
                final_ND = implicit(f, solved_ND, setting)
            else:
                assert first_ND is not None
                final_ND = unroll(f, first_ND, settings.gradient.steps - 1)
            intermediate = tuple(f(z_ND) for z_ND in passed)
            serial_ND = None
            if extras.serial:
                serial_ND = f(self._of_other_copies(solved_ND.detach(), extras.serial))
        return _States(final_ND, intermediate, early_ND, serial_ND, energy)

    def _begun(self, f: FixedPointMap, samples: int) -> tuple[Tensor, Tensor | None]:
        """Where solves begin: zero; or the state that the first evaluations from a trained start come to.

        That state, with its gradient, is the second. It comes before all others in the solve.
        """
        if not self.settings.start.weight:
            return self.model.zero_state(samples), None
        start_D = self.model.stored_state()
        assert start_D is not None
        early_ND = unroll(f, start_D.expand(samples, -1), self.settings.start.steps)
        return early_ND, early_ND

    def _of_other_copies(self, solved_ND: Tensor, copies: int) -> Tensor:
        """For each copy of an image the next one's state, or the mean of all others'."""
        solved_MBD = solved_ND.unflatten(0, (copies, -1))
        if self.settings.serial.aim == "chain":
            return solved_MBD.roll(1, dims=0).flatten(0, 1)
        return ((solved_MBD.sum(dim=0) - solved_MBD) / (copies - 1)).flatten(0, 1)

    def _unrolled(self, f: FixedPointMap, begun_ND: Tensor, early_ND: Tensor | None, marked: int) -> _States:
        """All evaluations with their gradient; random ones of their states get an intermediate loss."""
        steps = self.settings.unrolled_steps - (0 if early_ND is None else self.settings.start.steps)
        chosen = self._chosen(steps - 1, marked)
        z_ND, intermediate = begun_ND, []
        for step in range(steps):
            z_ND = f(z_ND)
            if step in chosen:
                intermediate.append(z_ND)
        return _States(z_ND, tuple(intermediate), early_ND)

    def _solved(self, f: FixedPointMap, begun_ND: Tensor, marked: int) -> tuple[Tensor, list[Tensor]]:
        """The state after a random number of solver steps, and random ones that it passed through."""
        steps = self._integer(*self.settings.solve_steps)
        chosen = self._chosen(steps, marked)
        solver = self.settings.solver or self.model.config.reference.solver.name
        iteration = FixedPointIteration(f, begun_ND.detach(), SolverSetting.named(solver, steps))
        passed = []
        for step in range(steps):
            if step in chosen:
                passed.append(iteration.z_BD)
            iteration.advance()
        return iteration.z_BD, passed

    def _chosen(self, states: int, marked: int) -> set[int]:
        """Which `marked` of the states 0, 1, ... before the last get a loss."""
        order = torch.randperm(states, generator=self.generator, device=self.generator.device)
        return set(order[:marked].tolist())

    def _losses(self, states: _States, y_N: Tensor) -> dict[str, Tensor]:
        """All states go through the head at once, so that its batch statistics are those of the mixture."""
        early = () if states.early_ND is None else (states.early_ND,)
        serial = () if states.serial_ND is None else (states.serial_ND,)
        read = (states.final_ND, *states.intermediate, *early, *serial)
        final_NK, *others = self._head(torch.cat(read)).chunk(len(read))
        losses = {"loss": F.cross_entropy(final_NK, y_N)}
        if states.intermediate:
            passed = others[: len(states.intermediate)]
            losses["intermediate"] = torch.stack([F.cross_entropy(logits_NK, y_N) for logits_NK in passed]).mean()
        if early:
            losses["start"] = F.cross_entropy(others[len(states.intermediate)], y_N)
        if serial:
            losses["serial"] = F.kl_div(
                F.log_softmax(others[-1], dim=1),
                F.log_softmax(final_NK.detach(), dim=1),
                reduction="batchmean",
                log_target=True,
            )
        if states.energy is not None:
            losses["jacobian"] = states.energy
        return losses

    def _attacked(self, x_BCHW: Tensor, y_B: Tensor, noise_MBCHW: Tensor, epoch: int) -> Tensor:
        """The images moved by SmoothAdv, by a model that does not learn from it."""
        adversary, phase = self.settings.adversary, self.phase(epoch)
        radius = adversary.radius * min(1.0, epoch / (adversary.warmup_epochs + 1))

        def logits_of(x_NCHW: Tensor) -> Tensor:
            return self._head(self._solve(x_NCHW, phase, _Extras()).final_ND)

        self.model.eval().requires_grad_(False)
        try:
            return attack(logits_of, x_BCHW, y_B, noise_MBCHW, radius, adversary.steps)
        finally:
            self.model.train().requires_grad_(True)

    def _descend(self, loss: Tensor, images: int) -> Tensor:
        """One step of the optimiser; the gradient's norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.share.size > 1:
            # Not DistributedDataParallel: it follows one forward pass of one module, and here the layer is called many
            # times, and differentiated twice.
            averaged = [p.grad for p in self.model.parameters() if p.grad is not None]
            averaged += [b for name, b in self.model.named_buffers() if name.endswith(("running_mean", "running_var"))]
            self.share.average(averaged, images)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return norm


def train_start(model: MDEQ) -> None:
    """Makes the start that a model holds, or zero, one of its parameters."""
    start_D = model.stored_D
    del model.stored_D
    zero_D = torch.zeros(model.config.state_size, device=model.device)
    model.stored_D = nn.Parameter(zero_D if start_D is None else start_D.to(model.device, copy=True))


def _optimizer(model: MDEQ, settings: TrainingSettings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), rate, momentum=settings.momentum, weight_decay=decay, nesterov=settings.momentum > 0
        )
    return torch.optim.AdamW(model.parameters(), rate, weight_decay=decay)


def _seed(*place: int) -> int:
    """A seed of its own for each place in the training."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))
