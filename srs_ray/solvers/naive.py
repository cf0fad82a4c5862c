"""Picard iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from srs_ray.solvers.memory import SolverMemory, residual_of


@dataclass(frozen=True)
class Naive:
    """Picard iteration, `z_{k+1} = f(z_k)`."""

    name: ClassVar[str] = "naive"
    letter: ClassVar[str] = "N"

    def remember(self, z_BD: Tensor, steps: int, *, watched: bool = True) -> SolverMemory:
        return NaiveMemory(watched)


class NaiveMemory:
    """Nothing: also of a solver that takes one step, which is the naive one."""

    def __init__(self, watched: bool) -> None:
        self.watched = watched

    def step(self, z_BD: Tensor, fz_BD: Tensor, k_B: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return fz_BD, residual_of(fz_BD - z_BD, fz_BD) if self.watched else None, None

    def forget(self, slots: Tensor, finite: Tensor) -> None:
        pass
