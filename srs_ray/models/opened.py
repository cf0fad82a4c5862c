"""A model that is ready to be certified, whatever it is: one flat state per sample, one function f, one head.

Shapes: B samples, C channels, H and W pixels, D elements of one sample's state, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from srs_ray.models.contents import modules_of
from srs_ray.models.protocols import EQUILIBRIUM_PARTS, Classifier, Equilibrium, Shape, State
from srs_ray.solvers.iteration import SolverSetting, solve

ONE_EVALUATION = SolverSetting.named("naive", 1)  # the base classifier of a model without an equilibrium
USUAL_REFERENCE = SolverSetting.named("anderson", 30, 1e-3)
PHANTOM_STEPS = 5  # evaluations through which the gradient of logits is taken at the equilibrium


class Flat(Protocol):
    """An equilibrium whose states are matrices (B, D)."""

    @property
    def state_shape(self) -> Shape: ...

    def inject(self, x_BCHW: Tensor) -> Tensor: ...

    def f(self, z_BD: Tensor, injection: Tensor) -> Tensor: ...

    def head(self, z_BD: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Opened:
    """A model on a device, its input, its classes, and the solver setting `reference` of its base classifier.

    `network` is what the model's author wrote, `flat` the same with one flat state per sample. `parts` names what a
    sampler may use besides the base classifier: inject, f and head of an equilibrium, nothing of another classifier.
    `dtype` is that of images, states and logits; `network_dtype` that in which the network computes. `stored_D` is the
    start that the weights hold, if they do: a constant state from which the base classifier may solve.
    """

    label: str
    network: Any
    flat: Flat
    parts: tuple[str, ...]
    input_shape: tuple[int, int, int]
    classes: int
    reference: SolverSetting
    device: torch.device
    dtype: torch.dtype = torch.float32
    network_dtype: torch.dtype = torch.float32
    class_names: tuple[str, ...] | None = None
    stored_D: Tensor | None = None

    def __repr__(self) -> str:
        of = f"reference {self.reference}, " if self.parts else ""
        return f"Opened({self.label}, input {self.input_shape}, {self.classes} classes, {of}{self.device})"

    @property
    def state_size(self) -> int:
        """D."""
        return prod(self.flat.state_shape)

    def inject(self, x_BCHW: Tensor) -> Tensor:
        """The part of a solve that is computed once for each image."""
        return self.flat.inject(x_BCHW)

    def f(self, z_BD: Tensor, injection: Tensor) -> Tensor:
        """One function evaluation."""
        return self.flat.f(z_BD, injection)

    def head(self, z_BD: Tensor) -> Tensor:
        """The logits, shape (B, K), read off a state."""
        return self.flat.head(z_BD)

    def zero_state(self, batch: int) -> Tensor:
        """The zero start, shape (B, D)."""
        return torch.zeros(batch, self.state_size, device=self.device, dtype=self.dtype)

    @property
    def start_D(self) -> Tensor | None:
        """Where the base classifier's solves begin; None: at zero."""
        return self.stored_D if self.reference.start == "stored" else None

    def start_state(self, batch: int) -> Tensor:
        """The start of the base classifier's solves, shape (B, D)."""
        return self.zero_state(batch) if self.start_D is None else self.start_D.expand(batch, -1).clone()

    def with_reference(self, reference: SolverSetting | None) -> Opened:
        """The same model with another base classifier (None: its own); ValueError where it has no stored start."""
        if reference is not None and reference.start == "stored" and self.stored_D is None:
            raise ValueError(lacking_start(self.label))
        return self if reference is None else replace(self, reference=reference)

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """The base classifier's logits, shape (B, K), of images in [0, 1].

        With derivatives, as attacks need them: those of an equilibrium are taken through its last PHANTOM_STEPS
        evaluations (Geng et al. 2021), and leave the logits as they are.
        """
        x_BCHW = x_BCHW.to(self.device, self.dtype)
        return equilibrium_logits(self, x_BCHW, self.reference, self.start_state(len(x_BCHW)))


class Solvable(Protocol):
    """All that samplers use of a model: where it is, what it computes in, and its parts."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def inject(self, x_BCHW: Tensor) -> Tensor: ...

    def f(self, z_BD: Tensor, injection: Tensor) -> Tensor: ...

    def head(self, z_BD: Tensor) -> Tensor: ...

    def zero_state(self, batch: int) -> Tensor: ...


def lacking_start(label: str) -> str:
    """Why a base classifier cannot solve from a stored start, and what can be done."""
    return (
        f"sampling.reference.start is stored, and the weights of {label} hold no start: `srs-ray weights calibrate` "
        "computes one (an equilibrium of your own holds it as `stored_start`), or take start: zero"
    )


def equilibrium_logits(
    model: Solvable, x_BCHW: Tensor, setting: SolverSetting, start_BD: Tensor | None = None
) -> Tensor:
    """Logits, shape (B, K), read off a solve (None: from zero); differentiable where gradients are enabled."""
    injection = model.inject(x_BCHW)
    start_BD = model.zero_state(len(x_BCHW)) if start_BD is None else start_BD
    with torch.no_grad():
        z_BD = solve(lambda z: model.f(z, injection), start_BD, setting).z_BD
    if torch.is_grad_enabled():
        moved_BD = z_BD
        for _ in range(min(PHANTOM_STEPS, setting.steps)):
            moved_BD = model.f(moved_BD, injection)
        z_BD = z_BD + (moved_BD - moved_BD.detach())  # the value of the solve, the derivative of the evaluations
    return model.head(z_BD)


class FeedForward:
    """Any classifier as an equilibrium: f ignores the state and gives the logits, which one plain step arrives at."""

    def __init__(self, network: Classifier, classes: int, dtype: torch.dtype, network_dtype: torch.dtype) -> None:
        self.network, self.dtype, self.network_dtype = network, dtype, network_dtype
        self.state_shape: Shape = (classes,)

    def inject(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW

    def f(self, z_BD: Tensor, injection: Tensor) -> Tensor:
        logits: Any = self.network(injection.to(self.network_dtype))
        return logits.to(self.dtype) if isinstance(logits, Tensor) else logits  # `try_out` refuses what is none

    def head(self, z_BD: Tensor) -> Tensor:
        return z_BD


class Flattened:
    """An equilibrium with a state of any shape, or of several tensors, as one with a flat state."""

    def __init__(self, network: Equilibrium, dtype: torch.dtype, network_dtype: torch.dtype) -> None:
        self.network, self.dtype, self.network_dtype = network, dtype, network_dtype
        self.several, self.shapes = state_shapes(network.state_shape)
        self.state_shape: Shape = (sum(map(prod, self.shapes)),)
        self.injected: tuple[bool, list[Shape]] | None = None  # whether it is several tensors, and their shapes

    def inject(self, x_BCHW: Tensor) -> Tensor:
        injection = self.network.inject(x_BCHW.to(self.network_dtype))
        if isinstance(injection, Tensor):
            self.injected = (False, [tuple(injection.shape[1:])])
            return injection
        self.injected = (True, [tuple(part.shape[1:]) for part in injection])
        return joined(injection)

    def f(self, z_BD: Tensor, injection: Tensor) -> Tensor:
        assert self.injected is not None
        several, shapes = self.injected
        given: State = split(injection, shapes) if several else injection
        value = self.network.f(self._state(z_BD.contiguous()), given)
        return joined([value] if isinstance(value, Tensor) else value).to(self.dtype)

    def head(self, z_BD: Tensor) -> Tensor:
        return self.network.head(self._state(z_BD)).to(self.dtype)

    def _state(self, z_BD: Tensor) -> State:
        parts = split(z_BD.to(self.network_dtype), self.shapes)
        return parts if self.several else parts[0]


def state_shapes(state_shape: Shape | Sequence[Shape]) -> tuple[bool, list[Shape]]:
    """Whether a state is several tensors, and their shapes."""
    if all(isinstance(size, int) for size in state_shape):
        return False, [tuple(cast(Shape, state_shape))]
    return True, [tuple(shape) for shape in cast(Sequence[Shape], state_shape)]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Several tensors (B, ...) as one matrix."""
    return parts[0].flatten(1) if len(parts) == 1 else torch.cat([part.flatten(1) for part in parts], dim=1)


def split(z_BD: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
    """What `joined` made one, as tensors of these shapes."""
    ends = list(accumulate(map(prod, shapes)))
    starts = [0, *ends[:-1]]
    return tuple(
        z_BD[:, start:end].reshape(len(z_BD), *shape) for start, end, shape in zip(starts, ends, shapes, strict=True)
    )


def is_equilibrium(network: object) -> bool:
    """Whether it has all that an Equilibrium has."""
    return all(hasattr(network, name) for name in ("state_shape", *EQUILIBRIUM_PARTS))


def training_modules(network: object) -> list[str]:
    """The names of the submodules in training mode ('the model itself' for the root), in order."""
    return [
        f"{name or 'the model itself'}: {type(module).__name__}"
        for name, module in modules_of(network)
        if module.training
    ]


def opened(
    network: Any,
    *,
    label: str,
    input_shape: tuple[int, int, int],
    classes: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    reference: SolverSetting | None = None,
    class_names: Sequence[str] | None = None,
) -> Opened:
    """A network that is on its device, ready to be certified; with dtype bfloat16 states and logits stay float32."""
    outer = torch.float32 if dtype == torch.bfloat16 else dtype
    flat: Flat
    parts: tuple[str, ...]
    stored_D = None
    if is_equilibrium(network):
        flat = Flattened(network, outer, dtype)
        parts, reference = EQUILIBRIUM_PARTS, reference or USUAL_REFERENCE
        stored_D = stored_start_of(network, device, outer)
    else:
        flat, parts, reference = FeedForward(network, classes, outer, dtype), (), ONE_EVALUATION
    names = None if class_names is None else tuple(class_names)
    return Opened(label, network, flat, parts, input_shape, classes, reference, device, outer, dtype, names, stored_D)


def stored_start_of(network: Any, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """The `stored_start` of an equilibrium as a flat state, shape (D,); None without one.

    Raises ValueError for one of another shape than a state.
    """
    stored = getattr(network, "stored_start", None)
    if stored is None:
        return None
    parts = [stored] if isinstance(stored, Tensor) else list(stored)
    _, shapes = state_shapes(network.state_shape)
    found = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    if found != shapes:
        raise ValueError(f"stored_start has {found}, and state_shape says {shapes}: it is one state without the batch")
    return torch.cat([part.detach().to(device, dtype).flatten() for part in parts])


def refuse_training(model: Any) -> None:
    """Raise ValueError for a model in training mode, in which samples depend on each other."""
    training = training_modules(model)
    if training:
        raise ValueError(
            f"the model is in training mode ({training[0]}), in which samples depend on each other: call model.eval()"
        )
