"""Monotone equilibrium models: z = P(z - (H z - v)), H = I - W = Psi M, v = U x + b, P the projection onto z >= 0.

M = Lam (I - W), Lam = Psi^-1 > 0 diagonal, has a positive definite symmetric part, so that there is exactly one z. The
models differ in M (Winston and Kolter 2020; Revay, Wang and Manchester 2020):

  dense, conv      M = m I + A'A - B + B', Psi = I
  tiers            the same with block matrices, of which A is lower bidiagonal and B such that M is lower triangular
  lben-*           M = m I + V'V + S' - S + (G'G + Lam U U' Lam) / (2 gamma)
  explicit         M = Lam (I - W) of a stored W

Shapes: B samples, D elements of a state, X pixels, K classes, N the side of a tier. States are flat. Kernels act
circularly on the normalised image in a ring of zeros; P sets the ring of a state to 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from srs_ray.models.monotone.circular import adjoint, adjoint_by_two, correlate, correlate_by_two, largest_estimate
from srs_ray.models.monotone.config import RING, MonotoneConfig

Factors = dict[str, Any]
_STEPS_TRIED = tuple(2.0 ** (k / 4) for k in range(-48, 9))


class MonotoneNetwork:
    """An Equilibrium whose f is one forward-backward step, or for a dense state one Peaceman-Rachford step.

    A state of forward-backward steps is z itself, one of Peaceman-Rachford steps is u, with z = relu(u). Both converge
    to the equilibrium; neither is the undamped step F(z) = P(W z + v), which no solver here ends with.
    """

    def __init__(self, config: MonotoneConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: Any) -> None:
        self.config = config
        self.state_shape = (config.state_size,)
        exact = {name: tensor.double() for name, tensor in tensors.items()}
        self.m = float(exact["m"]) if "m" in exact else 0.0
        self.gamma = float(exact["gamma"]) if "gamma" in exact else float("inf")
        self.factors: Factors = {k: v.to(device, dtype) for k, v in self._factors(exact).items()}
        channels = config.input_shape[0]
        self.mean = torch.tensor(config.mean, dtype=torch.float64).to(device, dtype).view(channels, 1, 1)
        self.std = torch.tensor(config.std, dtype=torch.float64).to(device, dtype).view(channels, 1, 1)
        self.dtype, self.device = dtype, device
        self.step_size = self._step_size()
        self.mask: Tensor | None = None

    # Equilibrium

    def inject(self, x_BCHW: Tensor) -> Tensor:
        """v = U x + b, shape (B, D)."""
        return self._inject((x_BCHW - self.mean) / self.std, self.factors)

    def f(self, z_BD: Tensor, v_BD: Tensor) -> Tensor:
        """One damped forward-backward step: P(z - a (H z - v))."""
        return self.point(z_BD - self.step_size * (self.factors["Psi"] * self.M(z_BD) - v_BD))

    def head(self, z_BD: Tensor) -> Tensor:
        """The logits, shape (B, K)."""
        return self.readout(self.point(z_BD), self.factors)

    def point(self, state_BD: Tensor) -> Tensor:
        """The z of a state: its projection, which lies in the cone exactly."""
        z_BD = state_BD.relu()
        return z_BD if self.mask is None else z_BD * self.mask

    # What proofs need: every sum again with absolute values, by which its rounding is bounded

    def M(self, z_BD: Tensor) -> Tensor:
        """M z."""
        return self._M(z_BD, self.factors, -1.0)

    def absolute_M(self, z_BD: Tensor) -> Tensor:
        """The same of a z >= 0, with the absolute values of all terms."""
        return self._M(z_BD, self.absolute_factors, 1.0)

    def absolute_inject(self, x_BCHW: Tensor) -> Tensor:
        return self._inject((x_BCHW - self.mean).abs() / self.std, self.absolute_factors)

    def absolute_readout(self, z_BD: Tensor) -> Tensor:
        return self.readout(z_BD, self.absolute_factors)

    @property
    def absolute_factors(self) -> Factors:
        return {name: value.abs() for name, value in self.factors.items()}

    @property
    def longest_sum(self) -> int:
        """More roundings than any path of M, v or the logits has, that of factors included."""
        config = self.config
        if config.is_dense:
            return 4 * (config.widths[0] + config.pixels) + 64
        widest = max(config.widths)
        # Two convolutions in a row; the norm of a kernel, and that of a head, twice; the head; the image.
        scaling = 9 * widest * widest + config.classes * config.features
        return 2 * 9 * (2 * widest + 3) + scaling + 2 * config.features + config.pixels + 256

    # By kind

    def _factors(self, exact: Mapping[str, Tensor]) -> Factors:
        raise NotImplementedError

    def _inject(self, x_BCHW: Tensor, factors: Factors) -> Tensor:
        raise NotImplementedError

    def _M(self, z_BD: Tensor, factors: Factors, minus: float) -> Tensor:
        raise NotImplementedError

    def readout(self, z_BD: Tensor, factors: Factors) -> Tensor:
        raise NotImplementedError

    def _step_size(self) -> float:
        raise NotImplementedError


class DenseNetwork(MonotoneNetwork):
    """`dense`, `lben-dense` and `explicit`: a state is a vector, and f one Peaceman-Rachford step."""

    def _factors(self, exact: Mapping[str, Tensor]) -> Factors:
        kind, width = self.config.kind, self.config.widths[0]
        if kind == "dense":
            own = {"U": exact["U.weight"], "b": exact["U.bias"], "A": exact["A.weight"], "B": exact["B.weight"]}
            one = torch.ones(width, dtype=torch.float64)
            return own | {"Psi": one, "Lam": one, "G": exact["Wout.weight"], "c": exact["Wout.bias"]}
        psi, G, c = exact["psi"], exact["G.weight"], exact["G.bias"]
        Lam, Psi = (-psi).exp(), psi.exp()
        shared: Factors = {"Psi": Psi, "Lam": Lam, "G": G, "c": c}
        if kind == "explicit":
            return shared | {"U": exact["U.weight"], "b": exact["U.bias"], "W": exact["W.weight"]}
        U = exact["B.weight"]
        own = {"U": U, "b": exact["B.bias"], "V": exact["V.weight"], "S": exact["S.weight"]}
        return shared | own | {"LamU": Lam[:, None] * U}

    def _inject(self, x_BCHW: Tensor, factors: Factors) -> Tensor:
        return x_BCHW.flatten(1) @ factors["U"].T + factors["b"]

    def _M(self, z_BD: Tensor, factors: Factors, minus: float) -> Tensor:
        if self.config.kind == "explicit":
            return factors["Lam"] * (z_BD + minus * (z_BD @ factors["W"].T))
        if self.config.kind == "dense":
            A, B = factors["A"], factors["B"]
            return self.m * z_BD + z_BD @ A.T @ A + minus * (z_BD @ B.T) + z_BD @ B
        V, S, G, LamU = (factors[name] for name in ("V", "S", "G", "LamU"))
        bounded = (z_BD @ G.T @ G + z_BD @ LamU @ LamU.T) / (2 * self.gamma)
        return self.m * z_BD + z_BD @ V.T @ V + minus * (z_BD @ S.T) + z_BD @ S + bounded

    def readout(self, z_BD: Tensor, factors: Factors) -> Tensor:
        return z_BD @ factors["G"].T + factors["c"]

    def _step_size(self) -> float:
        """About 1 / sqrt(smallest times largest singular value) of the layer in its metric; makes its resolvent too."""
        width = self.config.widths[0]
        eye = torch.eye(width, dtype=self.dtype, device=self.device)
        H = (self.factors["Psi"] * self.M(eye)).T
        root = self.factors["Psi"].sqrt()
        metric = H / root[:, None] * root
        values = torch.linalg.svdvals(metric.detach().double())
        step = float((values[0] * values[-1].clamp(min=1e-6 * values[0])) ** -0.5)
        self.resolvent = torch.linalg.inv(eye.double() + step * H.double()).to(self.dtype)
        return step

    def f(self, z_BD: Tensor, v_BD: Tensor) -> Tensor:
        """One Peaceman-Rachford step of u: h = 2 relu(u) - u, y = (I + a H)^-1 (h + a v), u+ = 2 y - h."""
        h_BD = 2 * z_BD.relu() - z_BD
        y_BD = (h_BD + self.step_size * v_BD) @ self.resolvent.T
        return 2 * y_BD - h_BD


class ConvolutionalNetwork(MonotoneNetwork):
    """`conv`, `lben-conv` and `tiers`: tiers of channels in a ring of zeros."""

    def __init__(self, config: MonotoneConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: Any) -> None:
        super().__init__(config, tensors, dtype, device)
        rings = []
        for shape in config.tiers:
            inside = torch.zeros(shape, dtype=dtype, device=device)
            inside[:, RING:-RING, RING:-RING] = 1
            rings.append(inside.flatten())
        self.mask = torch.cat(rings)

    def _factors(self, exact: Mapping[str, Tensor]) -> Factors:
        kind = self.config.kind
        shared: Factors = {"b": exact["U.bias"], "G": exact["Wout.weight"], "c": exact["Wout.bias"]}
        if kind == "lben-conv":
            psi = exact["psi"].expand(1, *self.config.tiers[0]).flatten()
            scaled = {
                "U": _scaled(exact["U.weight"], exact["u"].sqrt()),
                "A": _scaled(exact["A.weight"], exact["a"].sqrt()),
            }
            scaled |= {
                "B": _scaled(exact["B.weight"], exact["b"]),
                "G": _scaled(exact["Wout.weight"], exact["g"].sqrt()),
            }
            return shared | scaled | {"Psi": psi.exp(), "Lam": (-psi).exp()}
        one = torch.ones(self.config.state_size, dtype=torch.float64)
        shared |= {"U": exact["U.weight"], "Psi": one, "Lam": one}
        if kind == "conv":
            A, B = _scaled(exact["A.weight"], exact["g"].sqrt()), _scaled(exact["B.weight"], exact["h"])
            return shared | {"A0": A, "B0": B}
        for i in range(len(self.config.widths)):
            shared[f"A{i}"] = _scaled(exact[f"A0.{i}.weight"], exact[f"g.{i}"].sqrt())
            shared[f"B{i}"] = _scaled(exact[f"B0.{i}.weight"], exact[f"h.{i}"])
        for i in range(len(self.config.widths) - 1):
            shared[f"D{i}"] = _scaled(exact[f"A_n0.{i}.weight"], exact[f"gn.{i}"].sqrt())
        return shared

    def _tiers(self, z_BD: Tensor) -> list[Tensor]:
        parts = z_BD.split([prod(shape) for shape in self.config.tiers], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.config.tiers, strict=True)]

    def _inject(self, x_BCHW: Tensor, factors: Factors) -> Tensor:
        ringed = functional.pad(x_BCHW, (RING,) * 4)
        v = (correlate(ringed, factors["U"]) + factors["b"].view(-1, 1, 1)).flatten(1)
        further = self.config.state_size - v.shape[1]
        return v if not further else torch.cat([v, v.new_zeros(len(v), further)], dim=1)

    def _M(self, z_BD: Tensor, factors: Factors, minus: float) -> Tensor:
        if self.config.kind == "lben-conv":
            return self._M_of_lben(z_BD, factors, minus)
        tiers = self._tiers(z_BD)
        moved = []
        for i, z in enumerate(tiers):
            A, B = factors[f"A{i}"], factors[f"B{i}"]
            Mz = self.m * z + adjoint(correlate(z, A), A) + minus * correlate(z, B) + adjoint(z, B)
            if i + 1 < len(tiers):
                D = factors[f"D{i}"]
                Mz = Mz + adjoint_by_two(correlate_by_two(z, D), D)
            if i > 0:
                above = functional.pad(correlate_by_two(tiers[i - 1], factors[f"D{i - 1}"]), (0, 1, 0, 1))
                Mz = Mz + 2 * adjoint(above, A)
            moved.append(Mz.flatten(1))
        return torch.cat(moved, dim=1)

    def _M_of_lben(self, z_BD: Tensor, factors: Factors, minus: float) -> Tensor:
        (z,) = self._tiers(z_BD)
        A, B, U, G, pool = factors["A"], factors["B"], factors["U"], factors["G"], self.config.pool
        Mz = self.m * z + adjoint(correlate(z, A), A) + minus * correlate(z, B) + adjoint(z, B)
        features = functional.avg_pool2d(z, pool)
        back = (features.flatten(1) @ G.T @ G).reshape(features.shape)
        spread = back.repeat_interleave(pool, dim=2).repeat_interleave(pool, dim=3) / pool**2
        unread = (z.shape[2] - spread.shape[2], z.shape[3] - spread.shape[3])
        spread = functional.pad(spread, (0, unread[1], 0, unread[0]))
        Lam = factors["Lam"].reshape(1, *self.config.tiers[0])
        onto = functional.conv2d(Lam * z, U.flip(2, 3).transpose(0, 1), padding=2)  # U', the image beyond the ring too
        bounded = Lam * functional.conv2d(onto, U)
        return (Mz + (spread + bounded) / (2 * self.gamma)).flatten(1)

    def readout(self, z_BD: Tensor, factors: Factors) -> Tensor:
        last = self._tiers(z_BD)[-1]
        return functional.avg_pool2d(last, self.config.pool).flatten(1) @ factors["G"].T + factors["c"]

    @torch.no_grad()
    def _step_size(self) -> float:
        """Near the best step for the layer's estimated spectrum; it matters for speed alone."""
        if self.config.kind == "lben-conv":
            return min(1.0, 1.2 / self._largest_estimate())
        count = len(self.config.widths)
        squares = [largest_estimate(self.factors[f"A{i}"]) ** 2 for i in range(count)]
        for i in range(count - 1):
            squares[i] += largest_estimate(self.factors[f"D{i}"]) ** 2
        skews = [self.factors[f"B{i}"] for i in range(count)]
        turning = max(largest_estimate(B - B.flip(2, 3).transpose(0, 1)) for B in skews)
        low, high = self.m, self.m + max(squares)
        return min(_STEPS_TRIED, key=lambda a: max(abs(1 - a * low), abs(1 - a * high)) ** 2 + (a * turning) ** 2)

    def _largest_estimate(self, rounds: int = 12) -> float:
        """About the norm of the layer in its metric, by power iteration: no bound."""
        root = self.factors["Psi"].sqrt()
        start = torch.Generator().manual_seed(0)
        z = torch.rand(1, self.config.state_size, generator=start, dtype=torch.float64).to(self.device, self.dtype)
        size = 1.0
        for _ in range(rounds):
            z = root * self.M(root * (z / z.norm()))
            size = max(float(z.norm()), 1e-12)
        return size


def _scaled(kernel: Tensor, scale: Tensor) -> Tensor:
    return scale * kernel / kernel.norm()


def network_of(
    config: MonotoneConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> MonotoneNetwork:
    """The network of these tensors, which have been checked; factors are scaled in float64."""
    kind = DenseNetwork if config.is_dense else ConvolutionalNetwork
    return kind(config, tensors, dtype, torch.device(device))
