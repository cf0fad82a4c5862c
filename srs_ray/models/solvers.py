"""Fixed-point solvers: naive, Anderson and Broyden as values, one loop and one per-sample stopping rule for all.

Shapes: B samples of a batch, D elements of one flattened state, M entries of a solver's memory.
Sources: Anderson (1965) and Broyden (1965, the "good" method), as MDEQ uses them (Bai, Koltun, Kolter, NeurIPS 2020).
k steps cost k evaluations of f: an iterate's residual is known when f has been evaluated there to take the next step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

FixedPointMap = Callable[[Tensor], Tensor]


class SolverMemory(Protocol):
    """What a solver remembers between the steps of one batch of solves."""

    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """The next iterate after z, given f(z) and g = f(z) - z; and which samples fell back to the naive step.

        No mask of fallbacks means that there were none. `k_B` counts the steps each sample has taken before this one.
        """
        ...

    def forget(self, slots: Tensor) -> None:
        """Clears the memory of these samples, which start another solve."""
        ...


class Solver(Protocol):
    """A solver's hyperparameters; `remember` starts its memory for one batch."""

    name: ClassVar[str]
    letter: ClassVar[str]

    def remember(self, z_BD: Tensor, steps: int) -> SolverMemory: ...


@dataclass(frozen=True)
class Naive:
    """Picard iteration, `z_{k+1} = f(z_k)`."""

    name: ClassVar[str] = "naive"
    letter: ClassVar[str] = "N"

    def remember(self, z_BD: Tensor, steps: int) -> SolverMemory:
        return _NaiveMemory()


class _NaiveMemory:
    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        return fz_BD, None

    def forget(self, slots: Tensor) -> None:
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


class _AndersonMemory:
    """Ring buffers of f(z_i) and g_i, and the Gram matrix of the g_i, of which each step renews one row.

    All of the memory takes part in every step, entries not yet filled with the weight 0: the kernels see one shape,
    so that a sample's rounding does not depend on how far its neighbours are.
    """

    def __init__(self, solver: Anderson, z_BD: Tensor, memory: int) -> None:
        batch, size = z_BD.shape
        self.solver = solver
        self.memory = memory
        self.f_BMD = z_BD.new_zeros(batch, memory, size)
        self.g_BMD = z_BD.new_zeros(batch, memory, size)
        self.gram_BMM = z_BD.new_zeros(batch, memory, memory)
        self.rows_B = torch.arange(batch, device=z_BD.device)

    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.memory == 1:
            return fz_BD, None
        entry_B = k_B % self.memory
        self.f_BMD[self.rows_B, entry_B] = fz_BD
        self.g_BMD[self.rows_B, entry_B] = g_BD
        products_BM = torch.bmm(self.g_BMD, g_BD.unsqueeze(2)).squeeze(2)
        self.gram_BMM[self.rows_B, entry_B, :] = products_BM
        self.gram_BMM[self.rows_B, :, entry_B] = products_BM
        a_BM = self._weights(k_B)
        stable_B = torch.isfinite(a_BM).all(dim=1) & (a_BM.abs().amax(dim=1) <= self.solver.largest_weight)
        mixed_BD = torch.bmm(a_BM.unsqueeze(1), self.f_BMD).squeeze(1)
        return torch.where(stable_B.unsqueeze(1), mixed_BD, fz_BD), ~stable_B

    def _weights(self, k_B: Tensor) -> Tensor:
        """Solves `[[0, 1'], [1, G G' + ridge I]] [., a] = [1, 0]` over the entries that are filled."""
        filled_BM = torch.arange(self.memory, device=k_B.device) <= k_B.unsqueeze(1)
        both_BMM = filled_BM.unsqueeze(1) & filled_BM.unsqueeze(2)
        ones_BM = filled_BM.to(self.gram_BMM.dtype)
        system = self.gram_BMM.new_zeros(len(k_B), self.memory + 1, self.memory + 1)
        system[:, 0, 1:] = ones_BM
        system[:, 1:, 0] = ones_BM
        system[:, 1:, 1:] = torch.where(both_BMM, self.gram_BMM, 0.0)
        system[:, 1:, 1:] += torch.diag_embed(torch.where(filled_BM, self.solver.ridge, 1.0))
        right = self.gram_BMM.new_zeros(len(k_B), self.memory + 1)
        right[:, 0] = 1.0
        solution, _ = torch.linalg.solve_ex(system, right)
        return torch.where(filled_BM, solution[:, 1:], 0.0)

    def forget(self, slots: Tensor) -> None:
        self.f_BMD[slots] = 0.0
        self.g_BMD[slots] = 0.0
        self.gram_BMM[slots] = 0.0


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


class _BroydenMemory:
    """The inverse Jacobian as `-I + sum_m u_m v_m'`; updates not yet made are zero (one shape for all, as above)."""

    def __init__(self, z_BD: Tensor, updates: int) -> None:
        batch, size = z_BD.shape
        self.u_BMD = z_BD.new_zeros(batch, updates, size)
        self.v_BMD = z_BD.new_zeros(batch, updates, size)
        self.rows_B = torch.arange(batch, device=z_BD.device)
        self.previous_z_BD = self.previous_g_BD = torch.zeros_like(z_BD)

    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.u_BMD.shape[1] == 0:
            return fz_BD, None
        self._update(z_BD - self.previous_z_BD, g_BD - self.previous_g_BD, k_B)
        self.previous_z_BD, self.previous_g_BD = z_BD, g_BD
        next_BD = z_BD - self._apply(g_BD, self.u_BMD, self.v_BMD)
        return torch.where((k_B == 0).unsqueeze(1), fz_BD, next_BD), None

    def _update(self, dz_BD: Tensor, dg_BD: Tensor, k_B: Tensor) -> None:
        """`J += (dz - J dg)(dz' J) / (dz' J dg)` for the samples that have taken a step before."""
        v_BD = self._apply(dz_BD, self.v_BMD, self.u_BMD)
        denominator_B1 = (v_BD * dg_BD).sum(dim=1, keepdim=True)
        u_BD = (dz_BD - self._apply(dg_BD, self.u_BMD, self.v_BMD)) / denominator_B1
        usable_B1 = (denominator_B1 != 0) & torch.isfinite(denominator_B1) & (k_B > 0).unsqueeze(1)
        usable_B1 = usable_B1 & torch.isfinite(u_BD).all(dim=1, keepdim=True)
        entry_B = (k_B - 1).clamp(0, self.u_BMD.shape[1] - 1)
        self.u_BMD[self.rows_B, entry_B] = torch.where(usable_B1, u_BD, 0.0)
        self.v_BMD[self.rows_B, entry_B] = torch.where(usable_B1, v_BD, 0.0)

    @staticmethod
    def _apply(x_BD: Tensor, left_BMD: Tensor, right_BMD: Tensor) -> Tensor:
        """`(-I + sum_m left_m right_m') x`: with (u, v) this is `J x`, with (v, u) it is `(x' J)'`."""
        weights_BM1 = torch.bmm(right_BMD, x_BD.unsqueeze(2))
        return torch.bmm(weights_BM1.transpose(1, 2), left_BMD).squeeze(1) - x_BD

    def forget(self, slots: Tensor) -> None:
        self.u_BMD[slots] = 0.0
        self.v_BMD[slots] = 0.0


SOLVERS: dict[str, type[Naive] | type[Anderson] | type[Broyden]] = {s.name: s for s in (Naive, Anderson, Broyden)}


@dataclass(frozen=True)
class SolverSetting:
    """A solver, its steps, and the relative residual below which a sample stops early (None: never).

    Written as in the literature, by steps and the solver's letter: 1N, 3A, 14B.
    """

    solver: Solver
    steps: int
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a solver takes at least 1 step, not {self.steps}")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"a tolerance is above 0, not {self.tolerance}")

    @classmethod
    def named(cls, solver: str, steps: int, tolerance: float | None = None) -> SolverSetting:
        """The setting by the solver's name: naive, anderson or broyden."""
        if solver not in SOLVERS:
            raise ValueError(f"no solver {solver!r}; there are {', '.join(SOLVERS)}")
        return cls(SOLVERS[solver](), steps, tolerance)

    def __str__(self) -> str:
        return f"{self.steps}{self.solver.letter}"


@dataclass(frozen=True)
class Solution:
    """Where each sample of a batch ended, and why.

    `evaluations_B` counts calls of f per sample; `residual_B` is the last relative residual that was seen, `|f(z) -
    z| / (|f(z)| + 1e-8)` of the iterate before the last; `converged_B` says that it fell under the tolerance;
    `fell_back_B` that Anderson took a naive step at least once; `finite_B` that no value was infinite or NaN.
    """

    z_BD: Tensor
    evaluations_B: Tensor
    residual_B: Tensor
    converged_B: Tensor
    fell_back_B: Tensor
    finite_B: Tensor


class FixedPointIteration:
    """A batch of independent solves that advance together, one evaluation of f per advance.

    A sample stops by itself: at its last step, when its residual falls under the tolerance (it takes that step's
    iterate), or when a value is not finite. A stopped sample is frozen, and its slot can be given to another solve
    with `restart`.
    """

    def __init__(self, f: FixedPointMap, z_BD: Tensor, setting: SolverSetting) -> None:
        batch, device = len(z_BD), z_BD.device
        self.f = f
        self.setting = setting
        self.z_BD = z_BD
        self.memory = setting.solver.remember(z_BD, setting.steps)
        self.k_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.residual_B = z_BD.new_full((batch,), torch.nan)
        self.active_B = torch.ones(batch, dtype=torch.bool, device=device)
        self.converged_B = torch.zeros_like(self.active_B)
        self.fell_back_B = torch.zeros_like(self.active_B)
        self.finite_B = torch.ones_like(self.active_B)

    def advance(self) -> None:
        """One evaluation of f and one step of the solver for every active sample."""
        z_BD = self.z_BD
        fz_BD = self.f(z_BD)
        g_BD = fz_BD - z_BD
        size_B = torch.linalg.vector_norm(fz_BD, dim=1)
        residual_B = torch.linalg.vector_norm(g_BD, dim=1) / (size_B + 1e-8)
        finite_B = torch.isfinite(residual_B)
        next_BD, fell_back_B = self.memory.step(z_BD, fz_BD, g_BD, self.k_B)
        next_BD = torch.where(finite_B.unsqueeze(1), next_BD, fz_BD)

        active_B = self.active_B
        self.z_BD = torch.where(active_B.unsqueeze(1), next_BD, z_BD)
        self.residual_B = torch.where(active_B, residual_B, self.residual_B)
        self.k_B = self.k_B + active_B
        self.finite_B = self.finite_B & (finite_B | ~active_B)
        if fell_back_B is not None:
            self.fell_back_B = self.fell_back_B | (fell_back_B & finite_B & active_B)
        active_B = active_B & finite_B & (self.k_B < self.setting.steps)
        if self.setting.tolerance is not None:
            below_B = self.active_B & finite_B & (residual_B < self.setting.tolerance)
            self.converged_B = self.converged_B | below_B
            active_B = active_B & ~below_B
        self.active_B = active_B

    def restart(self, slots: Tensor) -> None:
        """Gives these samples' slots to new solves that start from zero; the caller has changed f for them."""
        self.z_BD[slots] = 0.0
        self.k_B[slots] = 0
        self.residual_B[slots] = torch.nan
        self.active_B[slots] = True
        self.converged_B[slots] = False
        self.fell_back_B[slots] = False
        self.finite_B[slots] = True
        self.memory.forget(slots)

    def solution(self) -> Solution:
        """The samples as they stand."""
        return Solution(
            z_BD=self.z_BD,
            evaluations_B=self.k_B,
            residual_B=self.residual_B,
            converged_B=self.converged_B,
            fell_back_B=self.fell_back_B,
            finite_B=self.finite_B & torch.isfinite(self.z_BD).all(dim=1),
        )


@torch.no_grad()
def solve(f: FixedPointMap, z_BD: Tensor, setting: SolverSetting) -> Solution:
    """Solves `z = f(z)` for each sample of a batch, from the start `z_BD`, in at most `setting.steps` evaluations each.

    What comes out for a sample does not depend on the other samples of the batch, to rounding.
    """
    iteration = FixedPointIteration(f, z_BD, setting)
    for _ in range(setting.steps):
        iteration.advance()
        if setting.tolerance is not None and not bool(iteration.active_B.any()):
            break
    return iteration.solution()
