"""Fixed-point solvers: naive, Anderson and Broyden as values, one loop and one per-sample stopping rule for all.

Shapes: B samples of a batch, D elements of one flattened state, M entries of a solver's memory.
Sources: Anderson (1965) and Broyden (1965, the "good" method), as MDEQ uses them (Bai, Koltun, Kolter, NeurIPS 2020).
k steps cost k evaluations of f: an iterate's residual is known when f has been evaluated there to take the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

FixedPointMap = Callable[[Tensor], Tensor]


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


def _all_finite(z_BD: Tensor) -> Tensor:
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

    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.memory == 1:
            return fz_BD, None
        entry_B = k_B % self.memory
        self.f_MBD[entry_B, self.rows_B] = fz_BD
        self.g_MBD[entry_B, self.rows_B] = g_BD
        filled = min(self.memory, int(k_B.max()) + 1)  # by any sample
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

    def step(self, z_BD: Tensor, fz_BD: Tensor, g_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None]:
        if not len(self.entries_M):
            return fz_BD, None
        self._update(z_BD - self.previous_z_BD, g_BD - self.previous_g_BD, k_B)
        self.previous_z_BD, self.previous_g_BD = z_BD, g_BD
        return z_BD - self._apply(g_BD, self.u_MBD, self.v_MBD, k_B), None

    def _update(self, dz_BD: Tensor, dg_BD: Tensor, k_B: Tensor) -> None:
        """`J += (dz - J dg)(dz' J) / (dz' J dg)` for the samples that have taken a step before."""
        made_B = (k_B - 1).clamp(min=0)
        v_BD = self._apply(dz_BD, self.v_MBD, self.u_MBD, made_B)
        denominator_B = torch.linalg.vecdot(v_BD, dg_BD)
        u_BD = (dz_BD - self._apply(dg_BD, self.u_MBD, self.v_MBD, made_B)).div_(denominator_B.unsqueeze(1))
        usable_B = _usable(denominator_B, u_BD) & (k_B > 0)
        entry_B = made_B.clamp(max=len(self.entries_M) - 1)
        self.u_MBD[entry_B, self.rows_B] = u_BD.masked_fill_(~usable_B.unsqueeze(1), 0.0)
        self.v_MBD[entry_B, self.rows_B] = v_BD.masked_fill_(~usable_B.unsqueeze(1), 0.0)

    def _apply(self, x_BD: Tensor, left_MBD: Tensor, right_MBD: Tensor, made_B: Tensor) -> Tensor:
        """`(-I + sum_m left_m right_m') x`: with (u, v) this is `J x`, with (v, u) it is `(x' J)'`."""
        most = int(made_B.max())  # updates that any sample has made
        if not most:
            return -x_BD
        weights_BM = _dot_products(right_MBD[:most].unbind(), x_BD)
        weights_BM.masked_fill_(self.entries_M[:most] >= made_B.unsqueeze(1), 0.0)
        return _weighted_sum(left_MBD[:most].unbind(), weights_BM).sub_(x_BD)

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        """As for Anderson's memory: only what times 0 is not 0 must be cleared."""
        if not bool(finite.all()):
            self.u_MBD[:, slots[~finite]] = 0.0
            self.v_MBD[:, slots[~finite]] = 0.0


def _usable(denominator_B: Tensor, u_BD: Tensor) -> Tensor:
    """Which samples' updates of the inverse Jacobian have no zero and no value that is not finite in them."""
    return (denominator_B != 0) & torch.isfinite(denominator_B) & _all_finite(u_BD)


class _BroydenTogether:
    """The inverse Jacobian as a sum of the updates that were made, in order."""

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
        self._update(z_BD - previous[0], g_BD - previous[1])
        return self._apply(g_BD, self.u, self.v).neg_().add_(z_BD), None

    def _update(self, dz_BD: Tensor, dg_BD: Tensor) -> None:
        """As in `_BroydenMemory`."""
        v_BD = self._apply(dz_BD, self.v, self.u)
        denominator_B = torch.linalg.vecdot(v_BD, dg_BD)
        u_BD = self._apply(dg_BD, self.u, self.v).neg_().add_(dz_BD).div_(denominator_B.unsqueeze(1))
        usable_B = _usable(denominator_B, u_BD)
        self.u.append(u_BD.masked_fill_(~usable_B.unsqueeze(1), 0.0))
        self.v.append(v_BD.masked_fill_(~usable_B.unsqueeze(1), 0.0))

    @staticmethod
    def _apply(x_BD: Tensor, left: list[Tensor], right: list[Tensor]) -> Tensor:
        """As in `_BroydenMemory`."""
        y_BD = -x_BD
        for left_BD, right_BD in zip(left, right, strict=True):
            y_BD.addcmul_(left_BD, torch.linalg.vecdot(right_BD, x_BD).unsqueeze(1))
        return y_BD


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
    z| / (|f(z)| + 1e-8)` of the iterate before the last (NaN where no tolerance made it worth looking); `converged_B`
    says that it fell under the tolerance; `fell_back_B` that Anderson took a naive step at least once; `finite_B` that
    no value was infinite or NaN.
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
        self._clean_B = torch.ones_like(self.active_B)  # slots whose memory holds finite values only, stopped or not

    def advance(self) -> None:
        """One evaluation of f and one step of the solver for every active sample."""
        z_BD, active_B = self.z_BD, self.active_B
        fz_BD = self.f(z_BD)
        g_BD = fz_BD - z_BD
        size_B = torch.linalg.vector_norm(fz_BD, dim=1)
        residual_B = torch.linalg.vector_norm(g_BD, dim=1) / (size_B + 1e-8)
        finite_B = torch.isfinite(residual_B)
        next_BD, fell_back_B = self.memory.step(z_BD, fz_BD, g_BD, self.k_B)

        self.z_BD = next_BD if bool(active_B.all()) else torch.where(active_B.unsqueeze(1), next_BD, z_BD)
        self.residual_B = torch.where(active_B, residual_B, self.residual_B)
        self.k_B = self.k_B + active_B
        self.finite_B = self.finite_B & (finite_B | ~active_B)
        self._clean_B = self._clean_B & finite_B
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
        self.memory.forget(slots, self._clean_B[slots])
        self._clean_B[slots] = True
        self.z_BD[slots] = 0.0
        self.k_B[slots] = 0
        self.residual_B[slots] = torch.nan
        self.active_B[slots] = True
        self.converged_B[slots] = False
        self.fell_back_B[slots] = False
        self.finite_B[slots] = True

    def solution(self) -> Solution:
        """The samples as they stand."""
        return Solution(
            z_BD=self.z_BD,
            evaluations_B=self.k_B,
            residual_B=self.residual_B,
            converged_B=self.converged_B,
            fell_back_B=self.fell_back_B,
            finite_B=self.finite_B & _all_finite(self.z_BD),
        )


@torch.no_grad()
def solve(f: FixedPointMap, z_BD: Tensor, setting: SolverSetting) -> Solution:
    """Solves `z = f(z)` for each sample of a batch, from the start `z_BD`, in at most `setting.steps` evaluations each.

    What comes out for a sample does not depend on the other samples of the batch, to rounding.
    """
    if setting.tolerance is None:
        return _take_all_steps(f, z_BD, setting)
    iteration = FixedPointIteration(f, z_BD, setting)
    for _ in range(setting.steps):
        iteration.advance()
        if not bool(iteration.active_B.any()):
            break
    return iteration.solution()


def _take_all_steps(f: FixedPointMap, z_BD: Tensor, setting: SolverSetting) -> Solution:
    """Solves that never stop early: nothing is computed but the iterates. Values that are not finite stay so in f."""
    memory = setting.solver.remember_together(setting.steps)
    fell_back_B = torch.zeros(len(z_BD), dtype=torch.bool, device=z_BD.device)
    for _ in range(setting.steps):
        z_BD, fell_back_now_B = memory.step(z_BD, f(z_BD))
        if fell_back_now_B is not None:
            fell_back_B |= fell_back_now_B
    finite_B = _all_finite(z_BD)
    return Solution(
        z_BD=z_BD,
        evaluations_B=torch.full_like(fell_back_B, setting.steps, dtype=torch.int64),
        residual_B=z_BD.new_full((len(z_BD),), torch.nan),
        converged_B=torch.zeros_like(fell_back_B),
        fell_back_B=fell_back_B & finite_B,
        finite_B=finite_B,
    )
