"""What is proved of the weights of a monotone model: its conditions, with the margin by which they hold, and constants.

Everything is computed in float64 with the bounds of `proven`; nothing is taken from a file but its tensors. Notation:
M = Lam (I - W), S its symmetric part, S >= mu I; Q = Lam U / std, from pixels; a = w_c - w_j, the difference of two
rows of the head, as a map from states; d the difference of two equilibria.

(1) mu > 0. By the form of M (`networks`), for every real A, B, V, S, G, U: mu >= m, since skew parts cancel and the
    rest is a sum of squares; of an explicit W, and to have more than m, by `smallest_eigenvalue`.
(2) Two inputs x, x + delta: the inclusions 0 in M z - Lam v + N(z), N monotone, give d'S d = d'M d <= d'Q delta.
    So d lies in a ball of the metric S around S^-1 Q delta / 2, and
    |a'd| <= (|S^-1/2 a| |S^-1/2 Q| + |Q'S^-1 a|) |delta| / 2 <= |a| |Q| |delta| / mu.
(3) LBEN: where 2 S >= (G'G + Q1 Q1') / gamma, Q1 = Lam U: |G d| <= gamma |delta / std|, so |a'd| <= sqrt(2) gamma
    |delta| / min std. It holds with 2 (V'V + m I) to spare by the form of M; of an explicit W it is verified.
    Of `lben-conv`, U in M sees an image beyond the ring too, which only makes U U' larger.
(4) An approximate equilibrium zh >= 0 with p = Lam v - M zh: n_i = 0 where zh_i > 0, n_i = min(p_i, 0) where zh_i = 0
    lies in N(zh), so that with r = n - p, d = zh - z: d'S d <= r'd, whatever solver made zh. So
    |a'd| <= |S^-1/2 a| |S^-1/2 r|, |a'd| <= |a| |r| / mu, and by (3) |a'd|^2 <= 2 |G d|^2 <= 4 gamma d'S d, so
    |a'd| <= 2 sqrt(gamma / mu) |r|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srs_ray.errors import WeightsError
from srs_ray.models.monotone.circular import norm_of
from srs_ray.models.monotone.config import RING, MonotoneConfig
from srs_ray.models.monotone.networks import MonotoneNetwork
from srs_ray.models.monotone.proven import (
    UNIT,
    PositiveDefinite,
    down,
    frobenius,
    gamma,
    largest_singular_value,
    smallest_eigenvalue,
    up,
)

_SCALES = {"conv": ("g",), "lben-conv": ("a", "g", "u")}  # whose roots the model takes


@dataclass(frozen=True)
class Condition:
    """A condition in words, the proved bound on its quantity, and what that must exceed."""

    name: str
    proved: float
    above: float = 0.0

    @property
    def margin(self) -> float:
        return self.proved - self.above


@dataclass(frozen=True)
class Constants:
    """What was proved. Matrices are (K, K), for the difference of logits c and j; `pixels_KK` per l2 of pixels.

    `input_norm` bounds |Q|; with `inverse` and `weighted_KK`, where there are any, a candidate's distance is bounded in
    the metric of S, else by `plain_KK` times |r|.
    """

    conditions: tuple[Condition, ...]
    mu: float
    input_norm: float
    pixels_KK: np.ndarray
    plain_KK: np.ndarray
    gamma: float = inf
    inverse: PositiveDefinite | None = None
    weighted_KK: np.ndarray | None = None

    def card(self) -> dict[str, Any]:
        """What a card and `srs-ray weights verify` say."""
        pairs = self.pixels_KK[~np.eye(len(self.pixels_KK), dtype=bool)]
        return {
            "conditions": {c.name: {"proved": c.proved, "above": c.above, "margin": c.margin} for c in self.conditions},
            "monotonicity": self.mu,
            "input_norm": self.input_norm,
            **({} if self.gamma == inf else {"gamma_per_normalised_input": self.gamma}),
            "largest_pair_constant": float(pairs.max()),
            "smallest_pair_constant": float(pairs.min()),
            "pair_constants": [[float(value) for value in row] for row in self.pixels_KK],
        }


def refuse_broken(config: MonotoneConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raises WeightsError for a constant or a scale that the model's form does not allow, by its name."""
    value = {name: float(tensor) for name, tensor in tensors.items() if tensor.numel() == 1}
    problems = [f"{name} is {value[name]:g}, expected above 0" for name in config.constants if not value[name] > 0]
    taken = [name for name in tensors if name.startswith(("g.", "gn."))] if config.kind == "tiers" else []
    problems += [
        f"{name} is {value[name]:g}, expected at least 0, for the model takes its root"
        for name in (*_SCALES.get(config.kind, ()), *taken)
        if not value[name] >= 0
    ]
    problems += [
        f"{name} is 0 everywhere, and the model divides by its norm"
        for name, tensor in tensors.items()
        if tensor.dim() == 4 and name != "psi" and not bool(tensor.any())
    ]
    if problems:
        raise WeightsError(f"the weights are no {config.name}: {'; '.join(problems)}")


def verify(network: MonotoneNetwork) -> Constants:
    """All that is proved of a network in float64; WeightsError names the condition that cannot be proved."""
    assert network.dtype == torch.float64
    found = _dense(network) if network.config.is_dense else _convolutional(network)
    for condition in found.conditions:
        if not condition.margin > 0:
            raise WeightsError(
                f"the weights of {network.config.name} are refused: {condition.name} is proved to be at least "
                f"{condition.proved:.9g} only, and must be above {condition.above:g}"
            )
    usable = [found.pixels_KK, found.plain_KK] + ([] if found.weighted_KK is None else [found.weighted_KK])
    if not all(np.isfinite(values).all() for values in usable):
        raise WeightsError(f"the weights of {network.config.name} are refused: no finite Lipschitz constant is proved")
    return found


def _dense(network: MonotoneNetwork) -> Constants:
    config, m, g = network.config, network.m, network.gamma
    own = {name: factor.cpu().numpy() for name, factor in network.factors.items()}
    width, G, U, Lam = config.widths[0], own["G"], own["U"], own["Lam"]
    LamU = Lam[:, None] * U
    terms = width + config.pixels + config.classes + 64
    bounded, absolute = 0.0 * np.eye(width), 0.0 * np.eye(width)
    if g < inf:
        bounded = (G.T @ G + LamU @ LamU.T) / (2 * g)
        absolute = (np.abs(G).T @ np.abs(G) + np.abs(LamU) @ np.abs(LamU).T) / (2 * g)
    conditions, least = [], m
    if config.kind == "explicit":
        W = own["W"]
        full = Lam[:, None] * (np.eye(width) - W)
        matrix, sizes = (full + full.T) / 2, Lam[:, None] * (np.eye(width) + np.abs(W))
        error, least = up(gamma(64) * frobenius(sizes)), 0.0
        lmi = smallest_eigenvalue(2 * (matrix - bounded), up(2 * error + 2 * gamma(terms) * frobenius(absolute)))
        named = "the smallest eigenvalue of Lam(I-W) + (I-W)'Lam - (G'G + Lam U U'Lam)/gamma"
        conditions.append(Condition(named, lmi))
    else:
        square = own["A"] if config.kind == "dense" else own["V"]
        matrix = m * np.eye(width) + square.T @ square + bounded
        sizes = m * np.eye(width) + np.abs(square).T @ np.abs(square) + absolute
        error = up(gamma(terms) * frobenius(sizes))
        conditions.append(Condition("m", m))
        if config.kind == "lben-dense":
            conditions.append(Condition("the margin 2 m of the linear matrix inequality of gamma", 2 * m))
    if config.kind == "explicit":
        monotone = smallest_eigenvalue(matrix, error)
        conditions.append(Condition("the smallest eigenvalue of the symmetric part of Lam(I-W)", monotone))
        if not monotone > 0:
            return Constants(tuple(conditions), monotone, inf, *(np.full((2, 2), inf),) * 2)
    inverse = PositiveDefinite(matrix, error, least)
    conditions.append(Condition("the smallest eigenvalue of S, in float64 by Cholesky", inverse.smallest))
    first, second = np.triu_indices(config.classes, 1)
    columns = (G[first] - G[second]).T
    per_pixel = np.repeat(network.std.cpu().numpy().ravel(), config.pixels // len(config.std))
    Q = LamU / per_pixel
    weighted = inverse.weighted_norms(columns)
    pixels = (weighted * inverse.weighted_norm_of_matrix(Q) + inverse.images(Q, columns)) / 2 * (1 + 1e-12)
    if g < inf:
        pixels = np.minimum(pixels, up(sqrt(2.0) * g / min(config.std)))
    lengths = np.array([frobenius(column) for column in columns.T]) * (1 + gamma(64))
    return Constants(
        tuple(conditions),
        inverse.smallest,
        largest_singular_value(Q) * (1 + gamma(64)),
        _by_pairs(pixels, config.classes),
        _by_pairs(lengths / inverse.smallest * (1 + 1e-12), config.classes),
        g,
        inverse,
        _by_pairs(weighted, config.classes),
    )


def _convolutional(network: MonotoneNetwork) -> Constants:
    config, m, g = network.config, down(network.m), network.gamma
    conditions = [Condition("m", network.m)]
    if config.kind == "lben-conv":
        conditions.append(Condition("the margin 2 m of the linear matrix inequality of gamma", 2 * network.m))
    U = network.factors["U"].cpu().numpy() / network.std.cpu().numpy().reshape(1, -1, 1, 1)
    input_norm = norm_of(U, config.input_shape[1] + 2 * RING) * (1 + 1e-9)
    G = network.factors["G"].cpu().numpy()
    first, second = np.triu_indices(config.classes, 1)
    # Mean pooling over windows that do not overlap: P P' = I / pool^2. Factors are off by gamma(longest sum) at most.
    lengths = np.array([frobenius(row) for row in G[first] - G[second]]) / config.pool
    sizes = np.array([frobenius(row) for row in G])  # rows of a scaled head are rounded before they are subtracted
    lengths = (lengths + 8 * UNIT * (sizes[first] + sizes[second])) * (1 + 4 * gamma(network.longest_sum + 64))
    plain = lengths / m * (1 + 1e-12)
    if config.kind == "lben-conv":
        pixels = np.full(len(first), up(sqrt(2.0) * g / min(config.std)))
        plain = np.minimum(plain, up(2 * sqrt(g / m)))
        input_norm *= float(network.factors["Lam"].max()) * (1 + 1e-9)
    else:
        pixels = plain * input_norm * (1 + 1e-12)
    by_pairs = (_by_pairs(pixels, config.classes), _by_pairs(plain, config.classes))
    return Constants(tuple(conditions), m, input_norm, *by_pairs, g)


def _by_pairs(values: np.ndarray, classes: int) -> np.ndarray:
    """Values of the pairs c < j as a symmetric matrix, 0 on its diagonal."""
    matrix = np.zeros((classes, classes))
    matrix[np.triu_indices(classes, 1)] = values
    return matrix + matrix.T
