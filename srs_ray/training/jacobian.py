"""How contracting the layer is: its spectral radius; Jacobian regularisation (Bai et al. 2021, arXiv 2106.14342)."""

from __future__ import annotations

import torch
from torch import Tensor

from srs_ray.solvers.iteration import FixedPointMap

_TINY = 1e-30


def jacobian_energy(fz_BD: Tensor, z_BD: Tensor, generator: torch.Generator) -> Tensor:
    """An unbiased estimate of `|J|_F^2 / D`, J = df/dz, averaged over the batch; it can be differentiated.

    `fz_BD` = f(z) in a graph that reaches `z_BD`; f must treat each sample for itself. Hutchinson's estimate,
    `|J|_F^2 = E |v' J|^2`, with one probe v per sample; v has independent signs, which have the least variance (the
    paper's probes are normal).
    """
    signs_BD = torch.empty_like(fz_BD).bernoulli_(generator=generator).mul_(2).sub_(1)
    (product_BD,) = torch.autograd.grad(fz_BD, z_BD, signs_BD, create_graph=True)
    return product_BD.square().mean()


def spectral_radius(f: FixedPointMap, z_BD: Tensor, generator: torch.Generator, steps: int = 30) -> Tensor:
    """The largest absolute eigenvalue of J = df/dz at each sample's state, shape (B,), by `steps` power iterations.

    It is the geometric mean of the growth in the second half of the iterations, so that a leading pair of complex
    eigenvalues is no trouble. Below 1 the naive iteration converges from near by; the smaller, the faster.
    """
    start_BD = z_BD.detach().requires_grad_()
    with torch.enable_grad():
        fz_BD = f(start_BD)
    v_BD = torch.randn(z_BD.shape, generator=generator, device=z_BD.device, dtype=z_BD.dtype)
    log_growth_B = torch.zeros(len(z_BD), device=z_BD.device, dtype=z_BD.dtype)
    for step in range(steps):
        v_BD = v_BD / torch.linalg.vector_norm(v_BD, dim=1, keepdim=True).clamp_min(_TINY)
        (v_BD,) = torch.autograd.grad(fz_BD, start_BD, v_BD, retain_graph=True)
        if step >= steps // 2:
            log_growth_B += torch.linalg.vector_norm(v_BD, dim=1).clamp_min(_TINY).log()
    return (log_growth_B / (steps - steps // 2)).exp()
