"""What a model can be: capabilities, not families.

Shapes: B images, C channels, H and W pixels; S is the shape of one sample's state, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

Shape = tuple[int, ...]
State = Tensor | tuple[Tensor, ...]
EQUILIBRIUM_PARTS = ("inject", "f", "head")


@runtime_checkable
class Classifier(Protocol):
    """Any torch module that gives logits, shape (B, K), of images in [0, 1]; each sample for itself."""

    def __call__(self, x_BCHW: Tensor) -> Tensor: ...


@runtime_checkable
class Equilibrium(Protocol):
    """A model whose logits are read off a fixed point of f: z = f(z, inject(x)); logits are head(z).

    `state_shape` is the shape of one sample's state, or a sequence of shapes where the state is several tensors; f and
    head then take a tuple of tensors, and f returns one. The injection, computed once for an image, is a tensor or a
    tuple of tensors whose first dimension is B. It may have a `stored_start` too, one state without the batch: a
    constant from which the base classifier can solve.
    """

    state_shape: Shape | Sequence[Shape]

    def inject(self, x_BCHW: Tensor) -> State: ...

    def f(self, z: State, injection: State) -> State: ...

    def head(self, z: State) -> Tensor: ...


@runtime_checkable
class Lipschitz(Equilibrium, Protocol):
    """An equilibrium of which it is proved how fast its logits change, and how far any state is from the fixed point.

    It holds for the exact fixed point in real arithmetic; the rounding of what is computed here is in the bounds.
    """

    def lipschitz(self) -> Tensor:
        """(K, K): at most how much the difference of two logits changes per l2 of pixels."""
        ...

    def proved_logits(self, state_BD: Tensor, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of states, and at most how far the difference of two of them is off, (B, K, K)."""
        ...
