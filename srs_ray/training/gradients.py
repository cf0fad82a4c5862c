"""How the loss reaches the layer: through evaluations that are unrolled, from zero or from a solved state."""

from __future__ import annotations

from torch import Tensor

from srs_ray.models.solvers import FixedPointMap


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
