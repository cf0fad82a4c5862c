"""Fixed-point solves: a solver's setting, one loop and one per-sample stopping rule for all.

Shapes: B samples of a batch, D elements of one flattened state.
k steps cost k evaluations of f: an iterate's residual is known when f has been evaluated there to take the next step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from srs_ray.solvers.anderson import Anderson
from srs_ray.solvers.broyden import Broyden
from srs_ray.solvers.memory import Solver, all_finite
from srs_ray.solvers.naive import Naive

FixedPointMap = Callable[[Tensor], Tensor]
Start = Literal["zero", "stored"]

SOLVERS: dict[str, type[Naive] | type[Anderson] | type[Broyden]] = {s.name: s for s in (Naive, Anderson, Broyden)}


@dataclass(frozen=True)
class SolverSetting:
    """A solver, its steps, and the relative residual below which a sample stops early (None: never).

    `start` is where the base classifier's solves begin: `zero`, or `stored`, a constant that the model's weights hold.
    Written as in the literature, by steps and the solver's letter: 1N, 3A, 14B.
    """

    solver: Solver
    steps: int
    tolerance: float | None = None
    start: Start = "zero"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a solver takes at least 1 step, not {self.steps}")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"a tolerance is above 0, not {self.tolerance}")
        if self.start not in ("zero", "stored"):
            raise ValueError(f"solves start from 'zero' or from the 'stored' start, not {self.start!r}")

    @classmethod
    def named(cls, solver: str, steps: int, tolerance: float | None = None, start: Start = "zero") -> SolverSetting:
        """The setting by the solver's name: naive, anderson or broyden."""
        if solver not in SOLVERS:
            raise ValueError(f"no solver {solver!r}; there are {', '.join(SOLVERS)}")
        return cls(SOLVERS[solver](), steps, tolerance, start)

    def __str__(self) -> str:
        return f"{self.steps}{self.solver.letter}" + (" from the stored start" if self.start == "stored" else "")


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
    with `restart`, which starts from `restart_D` (None: zero).
    """

    def __init__(self, f: FixedPointMap, z_BD: Tensor, setting: SolverSetting, restart_D: Tensor | None = None) -> None:
        batch, device = len(z_BD), z_BD.device
        self.restart_D = restart_D
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
        next_BD, residual_B, fell_back_B = self.memory.step(z_BD, self.f(z_BD), self.k_B)
        assert residual_B is not None
        finite_B = torch.isfinite(residual_B)

        if z_BD.device.type != "cpu" or not bool(active_B.all()):  # to ask, a GPU would have to be waited for
            next_BD = torch.where(active_B.unsqueeze(1), next_BD, z_BD)
        self.z_BD = next_BD
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
        """Gives these samples' slots to new solves from the start; the caller has changed f for them."""
        self.memory.forget(slots, self._clean_B[slots])
        self._clean_B[slots] = True
        self.z_BD[slots] = 0.0 if self.restart_D is None else self.restart_D
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
            finite_B=self.finite_B & all_finite(self.z_BD),
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
    memory = setting.solver.remember(z_BD, setting.steps, watched=False)
    fell_back_B = torch.zeros(len(z_BD), dtype=torch.bool, device=z_BD.device)
    for k in range(setting.steps):
        k_B = torch.full_like(fell_back_B, k, dtype=torch.int64)
        z_BD, _, fell_back_now_B = memory.step(z_BD, f(z_BD), k_B)
        if fell_back_now_B is not None:
            fell_back_B |= fell_back_now_B
    finite_B = all_finite(z_BD)
    return Solution(
        z_BD=z_BD,
        evaluations_B=torch.full_like(fell_back_B, setting.steps, dtype=torch.int64),
        residual_B=z_BD.new_full((len(z_BD),), torch.nan),
        converged_B=torch.zeros_like(fell_back_B),
        fell_back_B=fell_back_B & finite_B,
        finite_B=finite_B,
    )
