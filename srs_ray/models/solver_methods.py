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

from srs_ray.models import cpu_loops


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
    """The sum of a memory's entries, from the first to the last, by each sample's weights (of as many, or of more)."""
    weights = weights_BM.split(1, dim=1)
    sum_BD = entries[0] * weights[0]
    for entry_BD, weight_B1 in zip(entries[1:], weights[1:], strict=False):
        sum_BD.addcmul_(entry_BD, weight_B1)
    return sum_BD


def all_finite(z_BD: Tensor) -> Tensor:
    """Which samples' values are all finite; one whose sum overflows counts as not finite. It reads z only once."""
    return torch.isfinite(z_BD.sum(dim=1))


def _difference(z_BD: Tensor, fz_BD: Tensor) -> tuple[Tensor, Tensor]:
    """`g = f(z) - z` and the relative residual, (B,)."""
    g_BD = fz_BD - z_BD
    return g_BD, relative_residual(torch.linalg.vector_norm(g_BD, dim=1), torch.linalg.vector_norm(fz_BD, dim=1))


def relative_residual(difference_B: Tensor, size_B: Tensor) -> Tensor:
    """`|f(z) - z| / (|f(z)| + 1e-8)`, from the two norms."""
    return difference_B / (size_B + 1e-8)


class SolverMemory(Protocol):
    """What a solver remembers between the steps of one batch of solves."""

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The next iterate after z, given f(z); z's relative residual; which samples fell back to the naive step.

        No mask of fallbacks means that there were none. `k_B` counts the steps each sample has taken before this one.
        """
        ...

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        """Has these samples start another solve; `finite` says of which of them all values were finite until now."""
        ...


class SharedMemory(Protocol):
    """What a solver remembers between the steps of solves that all advance together, from their first step on."""

    def step(self, z_BD: Tensor, fz_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        """The next iterate after z, given f(z); and which samples fell back to the naive step (None: none)."""
        ...


class Solver(Protocol):
    """A solver's hyperparameters; `remember` and `remember_together` start its memory for one batch."""

    name: ClassVar[str]
    letter: ClassVar[str]

    def remember(self, z_BD: Tensor, steps: int) -> SolverMemory: ...

    def remember_together(self, z_BD: Tensor, steps: int) -> SharedMemory: ...


@dataclass(frozen=True)
class Naive:
    """Picard iteration, `z_{k+1} = f(z_k)`."""

    name: ClassVar[str] = "naive"
    letter: ClassVar[str] = "N"

    def remember(self, z_BD: Tensor, steps: int) -> SolverMemory:
        return _NaiveMemory()

    def remember_together(self, z_BD: Tensor, steps: int) -> SharedMemory:
        return _NaiveTogether()


class _NaiveTogether:
    def step(self, z_BD: Tensor, fz_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        return fz_BD, None


class _NaiveMemory:
    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return fz_BD, _difference(z_BD, fz_BD)[1], None

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

    def remember(self, z_BD: Tensor, steps: int) -> SolverMemory:
        kind = _AndersonMemoryOnCPU if by_loops(z_BD) else _AndersonMemory
        return kind(self, z_BD, min(self.memory, steps))

    def remember_together(self, z_BD: Tensor, steps: int) -> SharedMemory:
        kind = _AndersonTogetherOnCPU if by_loops(z_BD) else _AndersonTogether
        return kind(self, min(self.memory, steps))

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
    """Ring buffers of f(z_i) and g_i, and the Gram matrix of the g_i, of which each step renews one row.

    Entries that a sample has not yet filled have the weight 0, and every sum over entries goes from the first to the
    last, so that a sample's rounding does not depend on how far its neighbours are.
    """

    def __init__(self, solver: Anderson, z_BD: Tensor, memory: int) -> None:
        batch, size = z_BD.shape
        self.solver = solver
        self.memory = memory
        self.f_MBD = z_BD.new_zeros(memory, batch, size)
        self.g_MBD = z_BD.new_zeros(memory, batch, size)
        self.gram_BMM = z_BD.new_zeros(batch, memory, memory)
        self.rows_B = torch.arange(batch, device=z_BD.device)
        self.entries_M = torch.arange(memory, device=z_BD.device)
        self.filled = 0  # entries, by any sample at most

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.memory == 1:
            return fz_BD, _difference(z_BD, fz_BD)[1], None
        entry_B = k_B % self.memory
        products_BM, residual_B = self._remember(z_BD, fz_BD, k_B, entry_B)
        filled = products_BM.shape[1]
        self.gram_BMM[self.rows_B, entry_B, :filled] = products_BM
        self.gram_BMM[self.rows_B, :filled, entry_B] = products_BM
        a_BM, stable_B = self.solver.weights(self.gram_BMM, self.entries_M <= k_B.unsqueeze(1))
        naive_BM = (self.entries_M == entry_B.unsqueeze(1)).to(a_BM.dtype)
        a_BM = torch.where(stable_B.unsqueeze(1), a_BM, naive_BM)
        return self._sum(a_BM, k_B), residual_B, ~stable_B

    def _remember(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor, entry_B: Tensor) -> tuple[Tensor, Tensor]:
        """The dot products of g with the memory's entries, itself included, and the relative residual."""
        g_BD, residual_B = _difference(z_BD, fz_BD)
        self.f_MBD[entry_B, self.rows_B] = fz_BD
        self.g_MBD[entry_B, self.rows_B] = g_BD
        self.filled = min(self.memory, self.filled + 1)
        return _dot_products(self.g_MBD[: self.filled].unbind(), g_BD), residual_B

    def _sum(self, weight_BM: Tensor, k_B: Tensor) -> Tensor:
        return _weighted_sum(self.f_MBD[: self.filled].unbind(), weight_BM)

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        """Old entries have the weight 0 until they are overwritten; only what times 0 is not 0 must be cleared."""
        if not bool(finite.all()):
            self.f_MBD[:, slots[~finite]] = 0.0


class _AndersonMemoryOnCPU(_AndersonMemory):
    """The same by loops that read of each sample's memory what it has filled, once."""

    def _remember(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor, entry_B: Tensor) -> tuple[Tensor, Tensor]:
        batch = len(z_BD)
        products_BM, size_B = z_BD.new_empty(batch, self.memory), z_BD.new_empty(batch)
        arrays = (z_BD, fz_BD, entry_B, self._filled(k_B), self.f_MBD, self.g_MBD, products_BM, size_B)
        cpu_loops.remember_step(*map(_array, arrays))
        difference_B = products_BM[self.rows_B, entry_B].sqrt()
        return products_BM, relative_residual(difference_B, size_B)

    def _sum(self, weight_BM: Tensor, k_B: Tensor) -> Tensor:
        next_BD = self.f_MBD.new_empty(self.f_MBD.shape[1:])
        f = _as_many(self.solver.memory, list(self.f_MBD.unbind()))
        cpu_loops.sum_entries(f, *map(_array, (weight_BM, self._filled(k_B), next_BD)))
        return next_BD

    def _filled(self, k_B: Tensor) -> Tensor:
        return (k_B + 1).clamp(max=self.memory)

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        pass


class _AndersonTogether:
    """The last f(z_i) and g_i, oldest first, as they came out of f, and the Gram matrix of the g_i."""

    def __init__(self, solver: Anderson, memory: int) -> None:
        self.solver, self.memory = solver, memory
        self.f: list[Tensor] = []
        self.g: list[Tensor] = []
        self.gram_BMM: Tensor | None = None

    def step(self, z_BD: Tensor, fz_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.memory == 1:
            return fz_BD, None
        self.f, self.g = [*self.f, fz_BD][-self.memory :], self.g[-self.memory + 1 :]
        products_BM = self._enter_difference(z_BD, fz_BD)
        before_BMM, kept = self.gram_BMM, len(self.g) - 1
        gram_BMM = self.gram_BMM = products_BM.new_empty(len(z_BD), len(self.g), len(self.g))
        gram_BMM[:, -1, :] = gram_BMM[:, :, -1] = products_BM
        if before_BMM is None:
            return fz_BD, None
        gram_BMM[:, :kept, :kept] = before_BMM[:, -kept:, -kept:]
        a_BM, stable_B = self.solver.weights(gram_BMM, torch.ones_like(products_BM, dtype=torch.bool))
        naive_M = torch.arange(len(self.f), device=z_BD.device) == kept
        return self._sum(torch.where(stable_B.unsqueeze(1), a_BM, naive_M.to(a_BM.dtype))), ~stable_B

    def _enter_difference(self, z_BD: Tensor, fz_BD: Tensor) -> Tensor:
        """Enters g into its entries, and gives its dot products with them."""
        self.g.append(fz_BD - z_BD)
        return _dot_products(self.g, self.g[-1])

    def _sum(self, weight_BM: Tensor) -> Tensor:
        return _weighted_sum(self.f, weight_BM)


class _AndersonTogetherOnCPU(_AndersonTogether):
    """The same by loops that read each entry of a sample's memory once."""

    def _enter_difference(self, z_BD: Tensor, fz_BD: Tensor) -> Tensor:
        self.g.append(fz_BD.new_empty(fz_BD.shape))
        products_BM = fz_BD.new_empty(len(fz_BD), len(self.g))
        g = _as_many(self.solver.memory, self.g)
        cpu_loops.subtract(_array(z_BD), _array(fz_BD), g, len(self.g), _array(products_BM))
        return products_BM

    def _sum(self, weight_BM: Tensor) -> Tensor:
        next_BD, filled_B = self.f[0].new_empty(self.f[0].shape), torch.full((len(weight_BM),), len(self.f))
        cpu_loops.sum_entries(_as_many(self.solver.memory, self.f), *map(_array, (weight_BM, filled_B, next_BD)))
        return next_BD


def _as_many(entries: int, filled: list[Tensor]) -> tuple[cpu_loops.Array, ...]:
    """The filled entries as loops take them: always as many, or else each number would be compiled for."""
    arrays = [_array(entry_BD) for entry_BD in filled]
    return (*arrays, *arrays[-1:] * (entries - len(arrays)))


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

    def remember(self, z_BD: Tensor, steps: int) -> SolverMemory:
        kind = _BroydenMemoryOnCPU if by_loops(z_BD) else _BroydenMemory
        return kind(z_BD, steps - 1)

    def remember_together(self, z_BD: Tensor, steps: int) -> SharedMemory:
        return _BroydenTogether(steps)


class _BroydenMemory:
    """The steps s_i of each sample and the weights 1 / |s_i|^2, of which it reads those that its solve has written.

    All that is written is finite, so that what the solve before left there does no harm with the weight 0.
    """

    def __init__(self, z_BD: Tensor, entries: int) -> None:
        self.s_MBD = z_BD.new_zeros(entries, *z_BD.shape)
        self.weight_MB = z_BD.new_zeros(entries, len(z_BD))
        self.rows_B = torch.arange(len(z_BD), device=z_BD.device)
        self.filled = 0  # entries, by any sample at most

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        g_BD, residual_B = _difference(z_BD, fz_BD)
        if not len(self.s_MBD):
            return fz_BD, residual_B, None
        s_BD, last_B, s_MBD = g_BD, torch.zeros_like(self.weight_MB[0]), self.s_MBD[: self.filled].unbind()
        for i in range(self.filled):
            share_B = torch.linalg.vecdot(s_MBD[i], s_BD) * self.weight_MB[i]
            last_B = torch.where(k_B == i + 1, share_B, last_B)
            if i + 1 < self.filled:
                s_BD.addcmul_(s_MBD[i + 1], torch.where(k_B > i + 1, share_B, 0.0).unsqueeze(1))
        factor_B, usable_B = _stretch(last_B)
        s_BD.mul_(factor_B.unsqueeze(1))
        # A sample that has stopped writes over entries that nobody will read, and so does one at its last step.
        latest = len(self.s_MBD) - 1
        self.weight_MB[(k_B - 1).clamp(0, latest), self.rows_B] *= usable_B
        weight_B, finite_B = _inverse_square(s_BD)
        next_BD = z_BD + s_BD
        if s_BD.device.type != "cpu" or not bool(finite_B.all()):  # to ask, a GPU would have to be waited for
            s_BD = s_BD.masked_fill(~finite_B.unsqueeze(1), 0.0)
        entry_B = k_B.clamp(max=latest)
        self.s_MBD[entry_B, self.rows_B], self.weight_MB[entry_B, self.rows_B] = s_BD, weight_B
        self.filled = min(len(self.s_MBD), self.filled + 1)
        return next_BD, residual_B, None

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        pass


class _BroydenMemoryOnCPU:
    """The same by a loop that reads of each sample's memory what it has filled, once."""

    def __init__(self, z_BD: Tensor, entries: int) -> None:
        self.s_MBD = z_BD.new_empty(entries, *z_BD.shape)
        self.weight_MB = z_BD.new_empty(entries, len(z_BD))

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if not len(self.s_MBD):
            return fz_BD, _difference(z_BD, fz_BD)[1], None
        next_BD = torch.empty_like(fz_BD, memory_format=torch.contiguous_format)
        difference_B, size_B = next_BD.new_empty(2, len(fz_BD))
        arrays = (z_BD, fz_BD, k_B, self.s_MBD, self.weight_MB, next_BD, difference_B, size_B)
        cpu_loops.broyden_step(*map(_array, arrays))
        return next_BD, relative_residual(difference_B, size_B), None

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        pass


class _BroydenTogether:
    """The steps s_i that were taken, in order, and the weights 1 / |s_i|^2."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.s: list[Tensor] = []
        self.weights: list[Tensor] = []

    def step(self, z_BD: Tensor, fz_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.steps == 1:
            return fz_BD, None
        s_BD, k = fz_BD - z_BD, len(self.s)
        next_BD = fz_BD
        if k:
            for i in range(k - 1):
                share_B = torch.linalg.vecdot(self.s[i], s_BD) * self.weights[i]
                s_BD.addcmul_(self.s[i + 1], share_B.unsqueeze(1))
            factor_B, usable_B = _stretch(torch.linalg.vecdot(self.s[-1], s_BD) * self.weights[-1])
            self.weights[-1] = self.weights[-1] * usable_B
            if k + 1 == self.steps:
                return torch.addcmul(z_BD, s_BD, factor_B.unsqueeze(1)), None
            next_BD = z_BD + s_BD.mul_(factor_B.unsqueeze(1))
        self.s.append(s_BD)
        self.weights.append(_inverse_square(s_BD)[0])
        return next_BD, None


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
