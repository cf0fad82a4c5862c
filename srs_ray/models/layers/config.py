"""Stacks of 1-Lipschitz residual layers, by name: SLL, AOL and CPL; what can be known of them without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from srs_ray.solvers.settings import SolverSettings

Rule = Literal["sll", "aol", "cpl"]
RULES: tuple[Rule, ...] = ("sll", "aol", "cpl")


@dataclass(frozen=True)
class LayersConfig:
    """A stack of layers h - 2 W'T^-1 relu(W h + b) on the flat image, of `widths` hidden units, and a linear head.

    T is by rule `sll` the diagonal of sum_j |WW'|_ij q_j / q_i, by `aol` the same with q = 1, by `cpl` t I.
    """

    name: str
    rule: Rule
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    widths: tuple[int, ...]
    classes: int

    @property
    def pixels(self) -> int:
        """Elements of an image, and of a layer's output."""
        channels, height, width = self.input_shape
        return channels * height * width

    @property
    def state_size(self) -> int:
        """The image and the hidden units of all layers."""
        return self.pixels + sum(self.widths)

    @property
    def solver(self) -> SolverSettings:
        """As many steps as substitution takes: each settles a further layer."""
        return SolverSettings(solver="naive", steps=len(self.widths) + 1, tolerance=None)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the weights with its shape."""
        found: dict[str, tuple[int, ...]] = {}
        for i, width in enumerate(self.widths):
            found |= {f"layers.{i}.weight": (width, self.pixels), f"layers.{i}.bias": (width,)}
            if self.rule == "sll":
                found[f"layers.{i}.q"] = (width,)
            if self.rule == "cpl":
                found[f"layers.{i}.t"] = ()
        return found | {"head.weight": (self.classes, self.pixels), "head.bias": (self.classes,)}


def _digits(rule: Rule) -> LayersConfig:
    return LayersConfig(f"{rule}-tiny-digits", rule, (1, 8, 8), (0.3054,), (0.3768,), (48, 48, 48), 10)


def _cifar10(rule: Rule) -> LayersConfig:
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    return LayersConfig(f"{rule}-cifar10-dense", rule, (3, 32, 32), mean, std, (1024, 1024, 1024), 10)


LAYERED: dict[str, LayersConfig] = {config.name: config for rule in RULES for config in (_digits(rule), _cifar10(rule))}
