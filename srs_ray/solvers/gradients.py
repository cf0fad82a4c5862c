"""How the loss reaches the layer: through evaluations that are unrolled, or by the implicit function theorem.

All of them can be differentiated once, with respect to whatever f depends on: the weights, and the input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from srs_ray.solvers.iteration import FixedPointMap, SolverSetting, solve


def unroll(f: FixedPointMap, z_BD: Tensor, steps: int) -> Tensor:
    """The state after `steps` naive evaluations from `z_BD`, with the gradient of all of them.

    From zero it trains the layer as a network of `steps` tied blocks. From a solved state z* its gradient is the
    phantom gradient (Geng et al. 2021, arXiv 2111.05177; `steps` = 1: Fung et al. 2021, arXiv 2103.12803): the Neumann
    series of the implicit gradient `(I - J)^-1 df` cut off after `steps` terms, `sum_{i < steps} J^i df`. Where f
    contracts, it tends to the implicit gradient as `|J|^steps` tends to 0.
    """
    for _ in range(steps):
        z_BD = f(z_BD)
    return z_BD


def implicit(f: FixedPointMap, z_BD: Tensor, setting: SolverSetting) -> Tensor:
    """f(z*) at a solved state `z_BD` = z*, with the gradient by the implicit function theorem (Bai et al. 2019).

    Of a gradient g with respect to z* it passes on `y = (I - J')^-1 g`, J = df/dz at z*: the fixed point of
    `y = J' y + g`, which is solved by `setting`, per sample, at one product with J' a step. It costs one evaluation of
    f with its gradient, whose graph is kept until the backward pass has ended.
    """
    start_BD = z_BD.detach().requires_grad_()
    fz_BD = f(start_BD)
    equilibrium_BD = fz_BD.view_as(fz_BD)  # a tensor of its own, so that products with J' do not meet the hook below

    def solve_backward(g_BD: Tensor) -> Tensor:
        def backward_map(y_BD: Tensor) -> Tensor:
            with torch.enable_grad():
                (product_BD,) = torch.autograd.grad(fz_BD, start_BD, y_BD, retain_graph=True)
            return product_BD + g_BD

        return solve(backward_map, g_BD, setting).z_BD

    if equilibrium_BD.requires_grad:
        equilibrium_BD.register_hook(solve_backward)
    return equilibrium_BD
