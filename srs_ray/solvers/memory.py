"""What a solver does between two evaluations of f: the protocols, and what the methods share.

Shapes: B samples of a batch, D elements of one flattened state, M entries of a solver's memory.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from srs_ray.solvers.compiling import Array


class SolverMemory(Protocol):
    """What a solver remembers between the steps of one batch of solves, which may have begun at different ones."""

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The next iterate after z, given f(z); z's relative residual, if it is watched; and which samples fell back.

        No mask of fallbacks to the naive step means that there were none. `k_B` counts the steps each sample has taken
        before this one. f(z) may be kept and is not to be changed.
        """
        ...

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        """Has these samples start another solve; `finite` marks those whose values were all finite until now."""
        ...


class Solver(Protocol):
    """A solver's hyperparameters; `remember` starts its memory for a batch of solves.

    Solves that are not `watched` all advance together, from their first step to their last, and have no residuals.
    """

    name: ClassVar[str]
    letter: ClassVar[str]

    def remember(self, z_BD: Tensor, steps: int, *, watched: bool = True) -> SolverMemory: ...


def by_loops(z_BD: Tensor) -> bool:
    """Whether what is done with such states is done by compiled loops."""
    return z_BD.device.type == "cpu"


def array_of(x: Tensor) -> Array:
    """What loops take; the same memory, if that is in one piece."""
    return x.detach().contiguous().numpy()


def as_many(entries: int, made: list[Tensor]) -> tuple[Array, ...]:
    """The entries that have been made, as loops take them: always as many, or each number would be compiled for."""
    arrays = [array_of(entry_BD) for entry_BD in made]
    return (*arrays[:1] * (entries - len(arrays)), *arrays)


def all_finite(z_BD: Tensor) -> Tensor:
    """Which samples' values are all finite; one whose sum overflows counts as not finite. It reads z only once."""
    return torch.isfinite(z_BD.sum(dim=1))


def residual_of(g_BD: Tensor, fz_BD: Tensor) -> Tensor:
    """The relative residual, of `g = f(z) - z`."""
    return relative_residual(torch.linalg.vector_norm(g_BD, dim=1), torch.linalg.vector_norm(fz_BD, dim=1))


def relative_residual(difference_B: Tensor, size_B: Tensor) -> Tensor:
    """`|f(z) - z| / (|f(z)| + 1e-8)`, from the two norms."""
    return difference_B / (size_B + 1e-8)
