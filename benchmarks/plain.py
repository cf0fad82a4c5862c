"""The plain engine: randomized smoothing of an MDEQ written the straightforward way, for benchmarks/point.py to beat.

It does what the field's scripts do: fresh noise for each batch, weight normalisation recomputed on each forward pass,
zero injections added to the lower branches, a solver that keeps whole histories and traces and looks at every residual
(k + 2 evaluations for k Anderson steps, k + 1 for k Broyden steps), a batch that goes on until its last sample has
converged, NCHW float32. Only the modules of the network are those of `srs_ray`.

Shapes: B samples of a batch, D elements of the equilibrium state, M entries of a solver's memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import cast

import torch
from torch import Tensor

from srs_ray.models.mdeq.model import MDEQ, Fusion
from srs_ray.models.mdeq.weight_normalization import add_weight_normalization

MEMORY, RIDGE = 6, 1e-4


@dataclass
class Solved:
    """The last iterate of a batch, the evaluations of f that each of its samples cost, and the traces."""

    z_BD: Tensor
    evaluations: int
    absolute: list[float] = field(default_factory=list)
    relative: list[float] = field(default_factory=list)

    def trace(self, g_BD: Tensor, fz_BD: Tensor) -> float:
        """Notes the residuals; the largest relative one of the batch."""
        norms_B = g_BD.norm(dim=1)
        self.absolute.append(norms_B.max().item())
        self.relative.append((norms_B / (fz_BD.norm(dim=1) + 1e-8)).max().item())
        return self.relative[-1]


def anderson(f: Callable[[Tensor], Tensor], z_BD: Tensor, steps: int, tolerance: float | None) -> Solved:
    """The iterate after steps + 1 of Anderson's steps, at steps + 2 evaluations: the last one is for its residual."""
    batch, size = z_BD.shape
    x_BMD, f_BMD = z_BD.new_zeros(batch, MEMORY, size), z_BD.new_zeros(batch, MEMORY, size)
    x_BMD[:, 0], f_BMD[:, 0] = z_BD, f(z_BD)
    x_BMD[:, 1] = f_BMD[:, 0]
    f_BMD[:, 1] = f(x_BMD[:, 1])
    system = z_BD.new_zeros(batch, MEMORY + 1, MEMORY + 1)
    system[:, 0, 1:] = system[:, 1:, 0] = 1
    right = z_BD.new_zeros(batch, MEMORY + 1, 1)
    right[:, 0] = 1
    solved = Solved(x_BMD[:, 1], 2)
    for k in range(2, steps + 2):
        n = min(k, MEMORY)
        g_BMD = f_BMD[:, :n] - x_BMD[:, :n]
        system[:, 1 : n + 1, 1 : n + 1] = torch.bmm(g_BMD, g_BMD.transpose(1, 2)) + RIDGE * torch.eye(
            n, device=z_BD.device
        )
        weights_BM = torch.linalg.solve(system[:, : n + 1, : n + 1], right[:, : n + 1])[:, 1:, 0]
        x_BMD[:, k % MEMORY] = (weights_BM[:, None] @ f_BMD[:, :n])[:, 0]
        f_BMD[:, k % MEMORY] = f(x_BMD[:, k % MEMORY])
        solved.z_BD = x_BMD[:, k % MEMORY]
        solved.evaluations += 1
        worst = solved.trace(f_BMD[:, k % MEMORY] - solved.z_BD, f_BMD[:, k % MEMORY])
        if tolerance is not None and worst < tolerance:
            break
    return solved


def broyden(f: Callable[[Tensor], Tensor], z_BD: Tensor, steps: int, tolerance: float | None) -> Solved:
    """The iterate after `steps` of Broyden's steps, at steps + 1 evaluations: the last one is for its residual."""
    fz_BD = f(z_BD)
    g_BD = fz_BD - z_BD
    u_BDM, v_BMD = z_BD.new_zeros(*z_BD.shape, steps), z_BD.new_zeros(len(z_BD), steps, z_BD.shape[1])
    solved = Solved(z_BD, 1)
    move_BD = g_BD
    for k in range(steps):
        solved.z_BD = solved.z_BD + move_BD
        fz_BD = f(solved.z_BD)
        solved.evaluations += 1
        worst = solved.trace(fz_BD - solved.z_BD, fz_BD)
        change_BD, g_BD = fz_BD - solved.z_BD - g_BD, fz_BD - solved.z_BD
        if tolerance is not None and worst < tolerance:
            break
        v_BD = _left(move_BD, u_BDM[:, :, :k], v_BMD[:, :k])
        u_BD = (move_BD - _right(change_BD, u_BDM[:, :, :k], v_BMD[:, :k])) / (v_BD * change_BD).sum(1, keepdim=True)
        u_BDM[:, :, k], v_BMD[:, k] = torch.nan_to_num(u_BD), torch.nan_to_num(v_BD)
        move_BD = -_right(g_BD, u_BDM[:, :, : k + 1], v_BMD[:, : k + 1])
    return solved


def _left(x_BD: Tensor, u_BDM: Tensor, v_BMD: Tensor) -> Tensor:
    """x' (-I + U V)."""
    return ((x_BD[:, None] @ u_BDM) @ v_BMD)[:, 0] - x_BD


def _right(x_BD: Tensor, u_BDM: Tensor, v_BMD: Tensor) -> Tensor:
    """(-I + U V) x."""
    return (u_BDM @ (v_BMD @ x_BD[:, :, None]))[:, :, 0] - x_BD


SOLVERS = {"anderson": anderson, "broyden": broyden}


class PlainEngine:
    """Predictions of noisy copies of one image, `batch` at a time, from zero or along one chain for each of a batch."""

    def __init__(self, model: MDEQ, batch: int) -> None:
        self.model = copy.deepcopy(model).float()
        add_weight_normalization(self.model)
        self.batch = batch
        self.evaluations = 0

    @torch.no_grad()
    def classify(
        self, x_BCHW: Tensor, z_BD: Tensor, solver: str, steps: int, tolerance: float | None
    ) -> tuple[Tensor, Tensor]:
        """The classes of these images, and the states where their solves ended."""
        model = self.model
        first_BCHW = model.inject(x_BCHW)
        shapes = model.config.branch_shapes[1:]
        injections = [first_BCHW, *(first_BCHW.new_zeros(len(x_BCHW), *shape) for shape in shapes)]

        def f(z_BD: Tensor) -> Tensor:
            layer = model.fullstage
            branches = [
                branch(z, injection)
                for branch, z, injection in zip(layer.branches, model.split(z_BD), injections, strict=True)
            ]
            fused = [
                post(reduce(torch.add, [carry(z) for carry, z in zip(cast(Fusion, fusion), branches, strict=True)]))
                for fusion, post in zip(layer.fuse_layers, layer.post_fuse_layers, strict=True)
            ]
            return model.join(fused)

        solved = SOLVERS[solver](f, z_BD, steps, tolerance)
        self.evaluations += solved.evaluations * len(x_BCHW)
        return model.head(solved.z_BD).argmax(dim=1), solved.z_BD

    def standard(self, x_CHW: Tensor, sigma: float, samples: int, solver: str, steps: int, tolerance: float) -> Tensor:
        """How often each class is said of noisy copies solved from zero."""
        counts_K = torch.zeros(self.model.config.classes, dtype=torch.int64)
        for first in range(0, samples, self.batch):
            noisy_BCHW = self._noisy(x_CHW, sigma, min(self.batch, samples - first))
            classes_B, _ = self.classify(noisy_BCHW, self.model.zero_state(len(noisy_BCHW)), solver, steps, tolerance)
            counts_K += classes_B.bincount(minlength=len(counts_K)).cpu()
        return counts_K

    def serialized(self, x_CHW: Tensor, sigma: float, samples: int, solver: str, steps: int, z_BD: Tensor) -> Tensor:
        """How often each class is said along chains that start from `z_BD`, which holds their ends afterwards."""
        counts_K = torch.zeros(self.model.config.classes, dtype=torch.int64)
        for first in range(0, samples, self.batch):
            noisy_BCHW = self._noisy(x_CHW, sigma, min(self.batch, samples - first))
            classes_B, ends_BD = self.classify(noisy_BCHW, z_BD[: len(noisy_BCHW)], solver, steps, None)
            z_BD[: len(noisy_BCHW)] = ends_BD
            counts_K += classes_B.bincount(minlength=len(counts_K)).cpu()
        return counts_K

    @staticmethod
    def _noisy(x_CHW: Tensor, sigma: float, count: int) -> Tensor:
        x_BCHW = x_CHW.repeat(count, 1, 1, 1)
        return x_BCHW + sigma * torch.randn_like(x_BCHW)
