"""Stacks of 1-Lipschitz layers as equilibrium models, with what is proved of their weights.

The state is (x; z_1 .. z_L), z_i = relu(W_i h_i + b_i), h_i = x + sum_{j < i} G_j z_j, G_j = -2 W_j'T_j^-1 (Havens et
al. 2023): its equilibrium is found by substitution, exactly, in L + 1 steps of f.

(1) T - WW' >= 0. By rule sll and aol, for every W and q > 0: with Q = diag(q), Q (T - WW') Q is diagonally dominant,
    for q_i^2 T_ii = sum_j |WW'|_ij q_i q_j. By rule cpl, where t >= |W|^2 is proved of the stored t.
(2) Then a layer is 1-Lipschitz: its Jacobian J = I - 2 W'T^-1 D W, 0 <= D <= I diagonal, has
    J'J <= I - 4 W'T^-1 (D - D^2) W <= I, by (1). So the difference of logits c and j changes by at most
    |g_c - g_j| |delta| / min std.
(3) Rounding. A layer that gets h within e of the true one gives its output within e + |local|, by (2), where `local` is
    gamma_n (|h| + 2 |W|'T^-1 (|W| |h| + |b|)), n the roundings along a path, and the uncertainty of T besides.

Shapes: B samples, X pixels, D elements of a state, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srs_ray.errors import WeightsError
from srs_ray.models.layers.config import LAYERED, LayersConfig
from srs_ray.models.monotone.proven import frobenius, gamma, largest_singular_value, up
from srs_ray.models.weights import Weights, misfits_of, shown_briefly

_MORE = 1 + 1e-12


class LayeredNetwork:
    """A `Lipschitz` model, in float64 on a CPU; in other types an Equilibrium for samplers."""

    def __init__(
        self, config: LayersConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.config = config
        self.state_shape = (config.state_size,)

        def placed(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype)

        exact = {name: tensor.double() for name, tensor in tensors.items()}
        layers = range(len(config.widths))
        self.W = [placed(exact[f"layers.{i}.weight"]) for i in layers]
        self.b = [placed(exact[f"layers.{i}.bias"]) for i in layers]
        metrics = [_metric(config, exact, i) for i in layers]
        self.T = [placed(T) for T, _ in metrics]
        self.uncertain = max(relative for _, relative in metrics)
        self.G, self.c = placed(exact["head.weight"]), placed(exact["head.bias"])
        channels = config.input_shape[0]
        self.mean = placed(torch.tensor(config.mean, dtype=torch.float64)).view(channels, 1, 1)
        self.std = placed(torch.tensor(config.std, dtype=torch.float64)).view(channels, 1, 1)

    def inject(self, x_BCHW: Tensor) -> Tensor:
        """The standardised image, shape (B, X)."""
        return ((x_BCHW - self.mean) / self.std).flatten(1)

    def f(self, z_BD: Tensor, injection: Tensor) -> Tensor:
        """Every block of the state by those before it."""
        blocks = list(z_BD.split([self.config.pixels, *self.config.widths], dim=1))
        h_BX, moved = blocks[0], [injection]
        for W, b, T, z in zip(self.W, self.b, self.T, blocks[1:], strict=True):
            moved.append((h_BX @ W.T + b).relu())
            h_BX = h_BX - 2 * (z / T) @ W
        return torch.cat(moved, dim=1)

    def head(self, z_BD: Tensor) -> Tensor:
        """The logits, shape (B, K)."""
        blocks = z_BD.split([self.config.pixels, *self.config.widths], dim=1)
        h_BX = blocks[0]
        for W, T, z in zip(self.W, self.T, blocks[1:], strict=True):
            h_BX = h_BX - 2 * (z / T) @ W
        return h_BX @ self.G.T + self.c

    def lipschitz(self) -> Tensor:
        """(K, K): (2), per l2 of pixels."""
        return torch.from_numpy(up(1 / min(self.config.std)) * _MORE * self._head_differences())

    def _head_differences(self) -> np.ndarray:
        G = self.G.numpy()
        lengths = [[frobenius(g - k) * (1 + gamma(8)) for k in G] for g in G]
        return np.array(lengths) * (1 - np.eye(len(G)))

    @torch.no_grad()
    def proved_logits(self, state_BD: Tensor, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and bounds (B, K, K) on the errors of their differences, by substitution: any state will do."""
        relative = gamma(3 * (2 * (self.config.pixels + max(self.config.widths)) + 64)) + 2 * self.uncertain
        h_BX = self.inject(x_BCHW)
        error_B = [frobenius(gamma(8) * h) for h in h_BX.numpy()]
        for W, b, T in zip(self.W, self.b, self.T, strict=True):
            inner_B = h_BX.abs() @ W.abs().T + b.abs()
            local_BX = relative * (h_BX.abs() + 2 * (inner_B / T) @ W.abs())
            h_BX = h_BX - 2 * ((h_BX @ W.T + b).relu() / T) @ W
            error_B = [up(e + frobenius(local)) for e, local in zip(error_B, local_BX.numpy(), strict=True)]
        logits_BK = h_BX @ self.G.T + self.c
        rounded_BK = relative * (h_BX.abs() @ self.G.abs().T + self.c.abs())
        moved_BKK = torch.from_numpy(np.array(error_B)[:, None, None] * self._head_differences() * _MORE)
        error_BKK = moved_BKK + (rounded_BK[:, :, None] + rounded_BK[:, None, :]) * _MORE
        finite_B = torch.isfinite(logits_BK).all(dim=1)[:, None, None]
        error_BKK = torch.where(finite_B, error_BKK, torch.inf)
        return logits_BK, torch.nan_to_num(error_BKK, nan=torch.inf, posinf=torch.inf)


def _metric(config: LayersConfig, exact: Mapping[str, Tensor], i: int) -> tuple[Tensor, float]:
    """The diagonal of T, and how far it is at most from what the rule gives in real arithmetic, relatively."""
    W = exact[f"layers.{i}.weight"]
    if config.rule == "cpl":
        return exact[f"layers.{i}.t"].expand(len(W)), 0.0
    q = exact[f"layers.{i}.q"] if config.rule == "sll" else torch.ones(len(W), dtype=torch.float64)
    ratio = q / q[:, None]
    T = ((W @ W.T).abs() * ratio).sum(dim=1)
    off = gamma(2 * W.shape[1] + 8) * ((W.abs() @ W.abs().T) * ratio).sum(dim=1) + gamma(2 * len(W) + 16) * T
    return T, float((off / T).max()) * 1.01


def checked_layers(arch: str, weights: Weights) -> LayersConfig:
    """The configuration, where (1) is proved of the weights; WeightsError names what does not fit or does not hold."""
    config = LAYERED[arch]
    expected = {name: torch.empty(shape, device="meta") for name, shape in config.shapes.items()}
    problems = misfits_of(weights.tensors, expected, "architecture")
    if problems:
        raise WeightsError(f"the weights do not fit {arch}:\n  {shown_briefly(problems)}")
    for i in range(len(config.widths)):
        W = weights.tensors[f"layers.{i}.weight"].double()
        if config.rule == "sll" and not bool((weights.tensors[f"layers.{i}.q"] > 0).all()):
            raise WeightsError(f"the weights are no {arch}: layers.{i}.q has entries that are not above 0")
        if config.rule == "cpl":
            t, norm = float(weights.tensors[f"layers.{i}.t"]), largest_singular_value(W.numpy())
            if not t >= up(norm * norm):
                raise WeightsError(
                    f"the weights of {arch} are refused: layers.{i}.t is {t:.9g}, and the square of the norm of "
                    f"layers.{i}.weight is proved to be at most {up(norm * norm):.9g} only: t must be no less"
                )
        elif not bool(W.any(dim=1).all()):
            raise WeightsError(f"the weights are no {arch}: layers.{i}.weight has a row of zeros, by which it divides")
    return config


def fitting_layers(weights: Weights) -> list[str]:
    """The names of the stacks that these weights fit."""
    found = []
    for name, config in LAYERED.items():
        expected = {each: torch.empty(shape, device="meta") for each, shape in config.shapes.items()}
        if not misfits_of(weights.tensors, expected, "architecture"):
            found.append(name)
    return found


def layers_card(arch: str, weights: Weights) -> dict[str, Any]:
    """What is proved of the weights, as `srs-ray weights verify` says it; WeightsError where they are refused."""
    config = checked_layers(arch, weights)
    conditions = {}
    for i in range(len(config.widths)):
        if config.rule == "cpl":
            t = float(weights.tensors[f"layers.{i}.t"])
            norm = largest_singular_value(weights.tensors[f"layers.{i}.weight"].double().numpy())
            square = up(norm * norm)
            conditions[f"layers.{i}.t is no less than |W|^2"] = {"proved": t, "above": square, "margin": t - square}
        elif config.rule == "sll":
            least = float(weights.tensors[f"layers.{i}.q"].min())
            conditions[f"the smallest entry of layers.{i}.q"] = {"proved": least, "above": 0.0, "margin": least}
    pairs = LayeredNetwork(config, weights.tensors, torch.float64, torch.device("cpu")).lipschitz().numpy()
    return {
        "conditions": conditions,
        "largest_pair_constant": float(pairs.max()),
        "smallest_pair_constant": float(pairs[~np.eye(len(pairs), dtype=bool)].min()),
        "pair_constants": [[float(value) for value in row] for row in pairs],
    }


def random_layers(arch: str, seed: int = 0) -> Weights:
    """Untrained weights, normal, of norms that leave the layers well apart from the identity."""
    config, generator = LAYERED[arch], torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in config.shapes.items():
        if name.endswith((".q", ".t")):
            tensors[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            tensors[name] = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
    for name in [name for name in tensors if name.endswith(".t")]:
        W = tensors[name.removesuffix("t") + "weight"].double().numpy()
        tensors[name] = torch.tensor(1.0001 * largest_singular_value(W) ** 2, dtype=torch.float64)
    return Weights(tensors, {"architecture": arch, "training": f"none: random, seed {seed}"})
