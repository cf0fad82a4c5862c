"""Jacobian regularisation (Bai, Koltun, Kolter 2021, arXiv 2106.14342): what makes the layer contract."""

from __future__ import annotations

import torch
from torch import Tensor


def jacobian_energy(fz_BD: Tensor, z_BD: Tensor, generator: torch.Generator) -> Tensor:
    """An unbiased estimate of `|J|_F^2 / D`, J = df/dz, averaged over the batch; it can be differentiated.

    `fz_BD` = f(z) in a graph that reaches `z_BD`; f must treat each sample for itself. Hutchinson's estimate,
    `|J|_F^2 = E |v' J|^2`, with one probe v per sample; v has independent signs, which have the least variance (the
    paper's probes are normal).
    """
    signs_BD = torch.empty_like(fz_BD).bernoulli_(generator=generator).mul_(2).sub_(1)
    (product_BD,) = torch.autograd.grad(fz_BD, z_BD, signs_BD, create_graph=True)
    return product_BD.square().mean()
