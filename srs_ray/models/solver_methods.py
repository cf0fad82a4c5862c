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


class SolverMemory(Protocol):
    """What a solver remembers between the steps of one batch of solves."""

    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """The next iterate after z, given f(z) and g = f(z) - z; and which samples fell back to the naive step.

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

    def remember_together(self, steps: int) -> SharedMemory: ...


@dataclass(frozen=True)
class Naive:
    """Picard iteration, `z_{k+1} = f(z_k)`."""

    name: ClassVar[str] = "naive"
    letter: ClassVar[str] = "N"

    def remember(self, z_BD: Tensor, steps: int) -> SolverMemory:
        return _NaiveMemory()

    def remember_together(self, steps: int) -> SharedMemory:
        return _NaiveTogether()


class _NaiveTogether:
    def step(self, z_BD: Tensor, fz_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        return fz_BD, None


class _NaiveMemory:
    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        return fz_BD, None

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
        return _AndersonMemory(self, z_BD, min(self.memory, steps))

    def remember_together(self, steps: int) -> SharedMemory:
        return _AndersonTogether(self, min(self.memory, steps))

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

    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.memory == 1:
            return fz_BD, None
        entry_B = k_B % self.memory
        self.f_MBD[entry_B, self.rows_B] = fz_BD
        self.g_MBD[entry_B, self.rows_B] = g_BD
        filled = self.filled = min(self.memory, self.filled + 1)
        products_BM = _dot_products(self.g_MBD[:filled].unbind(), g_BD)
        self.gram_BMM[self.rows_B, entry_B, :filled] = products_BM
        self.gram_BMM[self.rows_B, :filled, entry_B] = products_BM
        a_BM, stable_B = self.solver.weights(self.gram_BMM, self.entries_M <= k_B.unsqueeze(1))
        naive_BM = (self.entries_M == entry_B.unsqueeze(1)).to(a_BM.dtype)
        a_BM = torch.where(stable_B.unsqueeze(1), a_BM, naive_BM)
        return _weighted_sum(self.f_MBD[:filled].unbind(), a_BM), ~stable_B

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        """Old entries have the weight 0 until they are overwritten; only what times 0 is not 0 must be cleared."""
        if not bool(finite.all()):
            self.f_MBD[:, slots[~finite]] = 0.0


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
        g_BD = fz_BD - z_BD
        self.f, self.g = [*self.f, fz_BD][-self.memory :], [*self.g, g_BD][-self.memory :]
        products_BM = _dot_products(self.g, g_BD)
        before_BMM, kept = self.gram_BMM, len(self.g) - 1
        gram_BMM = self.gram_BMM = products_BM.new_empty(len(z_BD), len(self.g), len(self.g))
        gram_BMM[:, -1, :] = gram_BMM[:, :, -1] = products_BM
        if before_BMM is None:
            return fz_BD, None
        gram_BMM[:, :kept, :kept] = before_BMM[:, -kept:, -kept:]
        a_BM, stable_B = self.solver.weights(gram_BMM, torch.ones_like(products_BM, dtype=torch.bool))
        naive_M = torch.arange(len(self.f), device=z_BD.device) == kept
        return _weighted_sum(self.f, torch.where(stable_B.unsqueeze(1), a_BM, naive_M.to(a_BM.dtype))), ~stable_B


@dataclass(frozen=True)
class Broyden:
    """Broyden's good method without line search, on `g = f(z) - z`; all updates are kept.

    The inverse Jacobian starts from -I, so that the first step is the naive one. A sample whose update has a zero or
    non-finite denominator skips that update.
    """

    name: ClassVar[str] = "broyden"
    letter: ClassVar[str] = "B"

    def remember(self, z_BD: Tensor, steps: int) -> SolverMemory:
        return _BroydenMemory(z_BD, steps - 1)

    def remember_together(self, steps: int) -> SharedMemory:
        return _BroydenTogether(steps)


class _BroydenMemory:
    """The inverse Jacobian as `-I + sum_m u_m v_m'`; updates that a sample has not made take part with the weight 0."""

    def __init__(self, z_BD: Tensor, updates: int) -> None:
        batch, size = z_BD.shape
        self.u_MBD = z_BD.new_zeros(updates, batch, size)
        self.v_MBD = z_BD.new_zeros(updates, batch, size)
        self.rows_B = torch.arange(batch, device=z_BD.device)
        self.entries_M = torch.arange(updates, device=z_BD.device)
        self.previous_z_BD = self.previous_g_BD = torch.zeros_like(z_BD)
        self.most = -1  # updates that any sample can have made

    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        if not len(self.entries_M):
            return fz_BD, None
        self._update(z_BD - self.previous_z_BD, g_BD - self.previous_g_BD, (k_B - 1).clamp(min=0))
        self.most = min(len(self.entries_M), self.most + 1)
        self.previous_z_BD, self.previous_g_BD = z_BD, g_BD
        return z_BD - self._apply(g_BD, self.u_MBD, self.v_MBD, k_B), None

    def _update(self, dz_BD: Tensor, dg_BD: Tensor, made_B: Tensor) -> None:
        """A sample that takes its first step writes what its second one will write over, and nobody reads."""
        v_BD = self._apply(dz_BD, self.v_MBD, self.u_MBD, made_B)
        j_dg_BD = self._apply(dg_BD, self.u_MBD, self.v_MBD, made_B)
        entry_B = made_B.clamp(max=len(self.entries_M) - 1)
        self.u_MBD[entry_B, self.rows_B], self.v_MBD[entry_B, self.rows_B] = _update(dz_BD, dg_BD, v_BD, j_dg_BD)

    def _apply(self, x_BD: Tensor, left_MBD: Tensor, right_MBD: Tensor, made_B: Tensor) -> Tensor:
        most = max(0, self.most)
        made_BM = self.entries_M[:most] < made_B.unsqueeze(1)
        return _apply(x_BD, left_MBD[:most].unbind(), right_MBD[:most].unbind(), made_BM)

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        """As for Anderson's memory: only what times 0 is not 0 must be cleared."""
        if not bool(finite.all()):
            self.u_MBD[:, slots[~finite]] = 0.0
            self.v_MBD[:, slots[~finite]] = 0.0


class _BroydenTogether:
    """The inverse Jacobian by the updates that were made, in order."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.u: list[Tensor] = []
        self.v: list[Tensor] = []
        self.previous: tuple[Tensor, Tensor] | None = None

    def step(self, z_BD: Tensor, fz_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.steps == 1:
            return fz_BD, None
        g_BD = fz_BD - z_BD
        previous, self.previous = self.previous, (z_BD, g_BD)
        if previous is None:
            return fz_BD, None
        dz_BD, dg_BD = z_BD - previous[0], g_BD - previous[1]
        u_BD, v_BD = _update(dz_BD, dg_BD, _apply(dz_BD, self.v, self.u), _apply(dg_BD, self.u, self.v))
        self.u.append(u_BD)
        self.v.append(v_BD)
        return z_BD - _apply(g_BD, self.u, self.v), None


def _apply(x_BD: Tensor, left: Sequence[Tensor], right: Sequence[Tensor], made_BM: Tensor | None = None) -> Tensor:
    """`(-I + sum_m left_m right_m') x`: with (u, v) this is `J x`, with (v, u) it is `(x' J)'`.

    Updates that a sample has not made (`made_BM`; None: all were) have the weight 0.
    """
    if not left:
        return -x_BD
    weights_BM = _dot_products(right, x_BD)
    if made_BM is not None:
        weights_BM.masked_fill_(~made_BM, 0.0)
    return _weighted_sum(left, weights_BM).sub_(x_BD)


def _update(dz_BD: Tensor, dg_BD: Tensor, v_BD: Tensor, j_dg_BD: Tensor) -> tuple[Tensor, Tensor]:
    """u and v of `J += (dz - J dg)(dz' J) / (dz' J dg)`, given v = (dz' J)'; 0 for samples that skip the update."""
    denominator_B = torch.linalg.vecdot(v_BD, dg_BD)
    u_BD = (dz_BD - j_dg_BD).div_(denominator_B.unsqueeze(1))
    usable_B = (denominator_B != 0) & torch.isfinite(denominator_B) & all_finite(u_BD)
    skipped_B1 = ~usable_B.unsqueeze(1)
    return u_BD.masked_fill_(skipped_B1, 0.0), v_BD.masked_fill_(skipped_B1, 0.0)
