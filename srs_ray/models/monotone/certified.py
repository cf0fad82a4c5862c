"""A monotone model in float64 with what is proved of its weights: errors of logits, and Lipschitz constants."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from srs_ray.models.monotone.networks import MonotoneNetwork
from srs_ray.models.monotone.proven import frobenius, gamma
from srs_ray.models.monotone.verification import Constants, verify


class CertifiedNetwork:
    """A `Lipschitz` model: an Equilibrium whose every state proves how far its logits are from the equilibrium's.

    It computes in float64 on the CPU, where convolutions and products are sums of products in some order, which is what
    the bounds on rounding rest on.
    """

    def __init__(self, network: MonotoneNetwork) -> None:
        self.network = network
        self.state_shape = network.state_shape
        self.inject, self.f, self.head = network.inject, network.f, network.head

    @cached_property
    def constants(self) -> Constants:
        return verify(self.network)

    def lipschitz(self) -> Tensor:
        """(K, K): at most how fast the difference of two logits of the exact equilibrium changes, per l2 of pixels."""
        return torch.from_numpy(self.constants.pixels_KK)

    @torch.no_grad()
    def proved_logits(self, state_BD: Tensor, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K), and bounds (B, K, K) on how far the difference of two is from the exact equilibrium's.

        For any state, whatever made it, and pixels as they are: (4) of `verification`, with the rounding of p and of
        the logits. No path through either has more than `longest_sum` roundings, so each is off by at most gamma of
        that times the same sum of absolute values, which is computed too (and is itself off by as little: hence 3).
        """
        network, constants = self.network, self.constants
        z_BD = network.point(state_BD)
        Lam, relative = network.factors["Lam"], gamma(3 * network.longest_sum)
        p_BD = Lam * network.inject(x_BCHW) - network.M(z_BD)
        off_BD = relative * (Lam * network.absolute_inject(x_BCHW) + network.absolute_M(z_BD))
        r_BD = torch.where(z_BD > 0, -p_BD, -p_BD.clamp(min=0.0))
        if network.mask is not None:
            r_BD, off_BD = r_BD * network.mask, off_BD * network.mask
        logits_BK = network.readout(z_BD, network.factors)
        rounded_BK = relative * network.absolute_readout(z_BD)
        errors = []
        for r_D, off_D in zip(r_BD.numpy(), off_BD.numpy(), strict=True):
            error_KK = constants.plain_KK * frobenius(np.abs(r_D) + off_D)
            if constants.inverse is not None and constants.weighted_KK is not None and np.isfinite(r_D).all():
                weighted = float(constants.inverse.weighted_norms(r_D[:, None])[0])
                weighted += frobenius(off_D) / np.sqrt(constants.mu) * (1 + 1e-12)
                error_KK = np.minimum(error_KK, constants.weighted_KK * weighted)
            errors.append(error_KK * (1 + 1e-12))
        rounded_BKK = rounded_BK[:, :, None] + rounded_BK[:, None, :]
        error_BKK = torch.from_numpy(np.stack(errors)) + rounded_BKK
        error_BKK = torch.where(torch.isfinite(logits_BK).all(dim=1)[:, None, None], error_BKK, torch.inf)
        return logits_BK, torch.nan_to_num(error_BKK, nan=torch.inf, posinf=torch.inf)
