"""Broyden's good method (Broyden 1965), as MDEQ uses it (Bai, Koltun, Kolter, NeurIPS 2020).

Shapes: B samples of a batch, D elements of one flattened state, M entries of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from srs_ray.solvers import loops
from srs_ray.solvers.memory import SolverMemory, array_of, as_many, by_loops, relative_residual, residual_of
from srs_ray.solvers.naive import NaiveMemory

COMPILED_FOR = 16  # entries of the memory, or a multiple of them: the loop is compiled for each number


@dataclass(frozen=True)
class Broyden:
    """Broyden's good method without line search, on `g = f(z) - z`; all updates are kept.

    The inverse Jacobian starts from -I, so that the first step is the naive one. A sample whose update has a zero or
    non-finite denominator skips that update.

    With s_i the step that was taken from z_i, the inverse Jacobian of `-g` at z_{i+1} is `I + s_{i+1} s_i' / |s_i|^2`
    times that at z_i, so that the steps are all that has to be kept (Kelley, Iterative Methods for Linear and
    Nonlinear Equations, SIAM 1995, section 7.3).
    """

    name: ClassVar[str] = "broyden"
    letter: ClassVar[str] = "B"

    def remember(self, z_BD: Tensor, steps: int, *, watched: bool = True) -> SolverMemory:
        if steps == 1:
            return NaiveMemory(watched)
        kind = _BroydenMemoryOnCPU if by_loops(z_BD) else _BroydenMemory
        return kind(z_BD, steps - 1, watched)


class _BroydenMemory:
    """The last steps s_i, oldest first, and the weights 1 / |s_i|^2; of a sample's entries the last k count.

    All that is kept from one solve to the next is finite, so that it does no harm with the weight 0.
    """

    def __init__(self, z_BD: Tensor, entries: int, watched: bool) -> None:
        self.entries, self.watched = entries, watched
        self.s: list[Tensor] = []
        self.weight_MB = z_BD.new_zeros(entries, len(z_BD))

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        s_BD = fz_BD - z_BD
        residual_B = residual_of(s_BD, fz_BD) if self.watched else None
        next_BD, made = fz_BD, len(self.s)
        if made:
            share_B = self.weight_MB[-1]
            for age in range(made, 0, -1):
                share_B = torch.linalg.vecdot(self.s[-age], s_BD) * self.weight_MB[-age]
                share_B = torch.where(k_B >= age, share_B, 0.0)
                if age > 1:
                    s_BD.addcmul_(self.s[1 - age], share_B.unsqueeze(1))
            factor_B, usable_B = _stretch(share_B)
            if not self.watched and made == self.entries:  # the last step of all
                return torch.addcmul(z_BD, s_BD, factor_B.unsqueeze(1)), None, None
            self.weight_MB[-1] *= usable_B
            next_BD = z_BD + s_BD.mul_(factor_B.unsqueeze(1))
        weight_B, finite_B = _inverse_square(s_BD)
        self._enter(s_BD.masked_fill(~finite_B.unsqueeze(1), 0.0) if self.watched else s_BD, weight_B)
        return next_BD, residual_B, None

    def _enter(self, s_BD: Tensor, weight_B: Tensor) -> None:
        self.s = [*self.s, s_BD][-self.entries :]
        self.weight_MB = torch.cat([self.weight_MB[1:], weight_B.unsqueeze(0)])

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        pass


class _BroydenMemoryOnCPU(_BroydenMemory):
    """The same by a loop that reads of each sample's memory what counts, once."""

    def __init__(self, z_BD: Tensor, entries: int, watched: bool) -> None:
        super().__init__(z_BD, entries, watched)
        self.weight_MB = z_BD.new_zeros(-(-entries // COMPILED_FOR) * COMPILED_FOR, len(z_BD))

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        s_BD, next_BD = fz_BD.new_empty(fz_BD.shape), fz_BD.new_empty(fz_BD.shape)
        weight_B, difference_B, size_B = fz_BD.new_empty(3, len(fz_BD))
        loops.broyden_step(
            *map(array_of, (z_BD, fz_BD, k_B)),
            as_many(len(self.weight_MB), self.s or [s_BD]),
            *map(array_of, (self.weight_MB, s_BD, weight_B, next_BD, difference_B, size_B)),
        )
        self._enter(s_BD, weight_B)
        return next_BD, relative_residual(difference_B, size_B), None


def _stretch(share_B: Tensor) -> tuple[Tensor, Tensor]:
    """The factor `1 / (1 - s_i' s / |s_i|^2)` of a sample's next step; 1 for samples that skip the update."""
    denominator_B = 1.0 - share_B
    factor_B = denominator_B.reciprocal()
    usable_B = torch.isfinite(denominator_B) & torch.isfinite(factor_B)
    return torch.where(usable_B, factor_B, 1.0), usable_B


def _inverse_square(s_BD: Tensor) -> tuple[Tensor, Tensor]:
    """`1 / |s|^2`, or 0 where that is not finite; and where s is."""
    square_B = torch.linalg.vecdot(s_BD, s_BD)
    inverse_B = square_B.reciprocal()
    return torch.where(torch.isfinite(inverse_B), inverse_B, 0.0), torch.isfinite(square_B)
