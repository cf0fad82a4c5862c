"""Anderson acceleration (Anderson 1965), as MDEQ uses it (Bai, Koltun, Kolter, NeurIPS 2020).

Shapes: B samples of a batch, D elements of one flattened state, M entries of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from srs_ray.solvers import loops
from srs_ray.solvers.memory import SolverMemory, array_of, as_many, by_loops, relative_residual
from srs_ray.solvers.naive import NaiveMemory


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
            return NaiveMemory(watched)
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
        g = as_many(self.solver.memory, self.g)
        loops.enter_difference(*map(array_of, (z_BD, fz_BD, k_B)), g, array_of(products_BM), array_of(size_B))
        return products_BM, relative_residual(products_BM[:, -1].sqrt(), size_B)

    def _sum(self, weight_BM: Tensor, k_B: Tensor) -> Tensor:
        next_BD = self.f[-1].new_empty(self.f[-1].shape)
        loops.sum_entries(as_many(self.solver.memory, self.f), *map(array_of, (weight_BM, k_B, next_BD)))
        return next_BD

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        pass


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
