"""What a solver does between two evaluations of f: naive, Anderson and Broyden as values, and what they remember.

Shapes: B samples of a batch, D elements of one flattened state, M entries of a solver's memory.
Sources: Anderson (1965) and Broyden (1965, the "good" method), as MDEQ uses them (Bai, Koltun, Kolter, NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from srs_ray.models import cpu_loops

COMPILED_FOR = 16  # entries of Broyden's memory, or a multiple of them: the loop is compiled for each number


def by_loops(z_BD: Tensor) -> bool:
    """Whether what is done with such states is done by compiled loops."""
    return z_BD.device.type == "cpu"


def _array(x: Tensor) -> cpu_loops.Array:
    """What loops take; the same memory, if that is in one piece."""
    return x.detach().contiguous().numpy()


def _dot_products(entries: Sequence[Tensor], x_BD: Tensor) -> Tensor:
    """The dot products of each sample with the entries of its memory, (B, M): on a CPU far faster than `bmm`."""
    return torch.stack([torch.linalg.vecdot(entry_BD, x_BD) for entry_BD in entries], dim=1)


def _weighted_sum(entries: Sequence[Tensor], weights_BM: Tensor) -> Tensor:
    """The sum of a memory's entries, from the first to the last, by each sample's weights."""
    weights = weights_BM.split(1, dim=1)
    sum_BD = entries[0] * weights[0]
    for entry_BD, weight_B1 in zip(entries[1:], weights[1:], strict=True):
        sum_BD.addcmul_(entry_BD, weight_B1)
    return sum_BD


def all_finite(z_BD: Tensor) -> Tensor:
    """Which samples' values are all finite; one whose sum overflows counts as not finite. It reads z only once."""
    return torch.isfinite(z_BD.sum(dim=1))


def _residual(g_BD: Tensor, fz_BD: Tensor) -> Tensor:
    """The relative residual, of `g = f(z) - z`."""
    return relative_residual(torch.linalg.vector_norm(g_BD, dim=1), torch.linalg.vector_norm(fz_BD, dim=1))


def relative_residual(difference_B: Tensor, size_B: Tensor) -> Tensor:
    """`|f(z) - z| / (|f(z)| + 1e-8)`, from the two norms."""
    return difference_B / (size_B + 1e-8)


class SolverMemory(Protocol):
    """What a solver remembers between the steps of one batch of solves, which may have begun at different ones."""

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The next iterate after z, given f(z); z's relative residual, if it is watched; and which samples fell back.

        No mask of fallbacks to the naive step means that there were none. `k_B` counts the steps each sample has taken
        before this one. f(z) may be kept and is not to be changed.
        """
        ...

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        """Has these samples start another solve; `finite` says of which of them all values were finite until now."""
        ...


class Solver(Protocol):
    """A solver's hyperparameters; `remember` starts its memory for a batch of solves.

    Solves that are not `watched` all advance together, from their first step to their last, and have no residuals.
    """

    name: ClassVar[str]
    letter: ClassVar[str]

    def remember(self, z_BD: Tensor, steps: int, *, watched: bool = True) -> SolverMemory: ...


@dataclass(frozen=True)
class Naive:
    """Picard iteration, `z_{k+1} = f(z_k)`."""

    name: ClassVar[str] = "naive"
    letter: ClassVar[str] = "N"

    def remember(self, z_BD: Tensor, steps: int, *, watched: bool = True) -> SolverMemory:
        return _NaiveMemory(watched)


class _NaiveMemory:
    def __init__(self, watched: bool) -> None:
        self.watched = watched

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return fz_BD, _residual(fz_BD - z_BD, fz_BD) if self.watched else None, None

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        pass


@dataclass(frozen=True)
class Anderson:
    """Anderson acceleration with mixing 1: `z_k = sum_i a_i f(z_i)` over the last `memory` iterates.

    `a` minimises `|sum_i a_i g_i|^2 + ridge |a|^2` subject to `sum_i a_i = 1`. A sample whose `a` is not finite, or
    has an entry beyond `largest_weight`, takes the naive step instead.
    """

    memory: int = 6
    ridge: float = 1e-4
    largest_weight: float = 1e4
    name: ClassVar[str] = "anderson"
    letter: ClassVar[str] = "A"

    def remember(self, z_BD: Tensor, steps: int, *, watched: bool = True) -> SolverMemory:
        if min(self.memory, steps) == 1:
            return _NaiveMemory(watched)
        kind = _AndersonMemoryOnCPU if by_loops(z_BD) else _AndersonMemory
        return kind(self, z_BD, watched)

    def weights(self, gram_BMM: Tensor, filled_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Solves `[[0, 1'], [1, G G' + ridge I]] [., a] = [1, 0]` over the entries that are filled.

        Returns a, 0 elsewhere, and which samples' a are stable.
        """
        batch, memory = filled_BM.shape
        both_BMM = filled_BM.unsqueeze(1) & filled_BM.unsqueeze(2)
        ones_BM = filled_BM.to(gram_BMM.dtype)
        system = gram_BMM.new_zeros(batch, memory + 1, memory + 1)
        system[:, 0, 1:] = ones_BM
        system[:, 1:, 0] = ones_BM
        system[:, 1:, 1:] = torch.where(both_BMM, gram_BMM, 0.0)
        system[:, 1:, 1:] += torch.diag_embed(torch.where(filled_BM, self.ridge, 1.0))
        right = gram_BMM.new_zeros(batch, memory + 1)
        right[:, 0] = 1.0
        solution, _ = torch.linalg.solve_ex(system, right)
        a_BM = torch.where(filled_BM, solution[:, 1:], 0.0)
        return a_BM, torch.isfinite(a_BM).all(dim=1) & (a_BM.abs().amax(dim=1) <= self.largest_weight)


class _AndersonMemory:
    """The last f(z_i) and g_i, oldest first, as they came, and the Gram matrix of the g_i.

    Of a sample's entries those that its solve has made count, k + 1 or all. The others have the weight 0, and entries
    keep their places, from the last one back, so that a sample's rounding does not depend on how far others are.
    """

    def __init__(self, solver: Anderson, z_BD: Tensor, watched: bool) -> None:
        self.solver, self.watched = solver, watched
        self.f: list[Tensor] = []
        self.g: list[Tensor] = []
        self.gram_BMM = z_BD.new_zeros(len(z_BD), solver.memory, solver.memory)
        self.age_M = torch.arange(solver.memory - 1, -1, -1, device=z_BD.device)

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        kept = self.solver.memory - 1
        self.f, self.g = [*self.f[-kept:], fz_BD], self.g[-kept:]
        products_BM, residual_B = self._enter_difference(z_BD, fz_BD, k_B)
        gram_BMM = torch.empty_like(self.gram_BMM)
        gram_BMM[:, :kept, :kept] = self.gram_BMM[:, 1:, 1:]
        gram_BMM[:, -1, :] = gram_BMM[:, :, -1] = products_BM
        self.gram_BMM = gram_BMM
        if len(self.f) == 1:  # the first step of all
            return fz_BD, residual_B, None
        a_BM, stable_B = self.solver.weights(gram_BMM, self.age_M <= k_B.unsqueeze(1))
        a_BM = torch.where(stable_B.unsqueeze(1), a_BM, (self.age_M == 0).to(a_BM.dtype))
        return self._sum(a_BM, k_B), residual_B, ~stable_B

    def _enter_difference(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Enters g, and gives its dot products with all entries, itself included, and the relative residual."""
        self.g.append(fz_BD - z_BD)
        products_BM = F.pad(_dot_products(self.g, self.g[-1]), (self.solver.memory - len(self.g), 0))
        if not self.watched:
            return products_BM, None
        size_B = torch.linalg.vector_norm(fz_BD, dim=1)
        return products_BM, relative_residual(products_BM[:, -1].sqrt(), size_B)

    def _sum(self, weight_BM: Tensor, k_B: Tensor) -> Tensor:
        return _weighted_sum(self.f, weight_BM[:, -len(self.f) :])

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        """Old entries have the weight 0; only what times 0 is not 0 must be cleared."""
        if not bool(finite.all()):
            for f_BD in self.f:
                f_BD[slots[~finite]] = 0.0


class _AndersonMemoryOnCPU(_AndersonMemory):
    """The same by loops that read of each sample's memory what counts, once."""

    def _enter_difference(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        self.g.append(fz_BD.new_empty(fz_BD.shape))
        products_BM, size_B = torch.zeros_like(self.gram_BMM[:, 0]), fz_BD.new_empty(len(fz_BD))
        g = _as_many(self.solver.memory, self.g)
        cpu_loops.enter_difference(*map(_array, (z_BD, fz_BD, k_B)), g, _array(products_BM), _array(size_B))
        return products_BM, relative_residual(products_BM[:, -1].sqrt(), size_B)

    def _sum(self, weight_BM: Tensor, k_B: Tensor) -> Tensor:
        next_BD = self.f[-1].new_empty(self.f[-1].shape)
        cpu_loops.sum_entries(_as_many(self.solver.memory, self.f), *map(_array, (weight_BM, k_B, next_BD)))
        return next_BD

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        pass


def _as_many(entries: int, made: list[Tensor]) -> tuple[cpu_loops.Array, ...]:
    """The entries that have been made, as loops take them: always as many, or each number would be compiled for."""
    arrays = [_array(entry_BD) for entry_BD in made]
    return (*arrays[:1] * (entries - len(arrays)), *arrays)


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
            return _NaiveMemory(watched)
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
        residual_B = _residual(s_BD, fz_BD) if self.watched else None
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
        cpu_loops.broyden_step(
            *map(_array, (z_BD, fz_BD, k_B)),
            _as_many(len(self.weight_MB), self.s or [s_BD]),
            *map(_array, (self.weight_MB, s_BD, weight_B, next_BD, difference_B, size_B)),
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
