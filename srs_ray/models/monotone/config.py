"""The shape of a monotone equilibrium model, in numbers: what can be known of it without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from srs_ray.solvers.settings import SolverSettings

if TYPE_CHECKING:
    from srs_ray.solvers.iteration import SolverSetting

Kind = Literal["dense", "conv", "tiers", "lben-dense", "lben-conv", "explicit"]
RING = 1  # zeros around the normalised image, on each side


@dataclass(frozen=True)
class MonotoneConfig:
    """A monDEQ (`dense`, `conv`, `tiers`), an LBEN (`lben-dense`, `lben-conv`), or an equilibrium of any W.

    `widths` are the units of a dense layer, or the channels of each tier; `pool` is the side of the mean pooling before
    the head of `conv` and `lben-conv`. Images of convolutional models are square.
    """

    name: str
    kind: Kind
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    widths: tuple[int, ...]
    classes: int
    solver: SolverSettings  # of its base classifier, unless a job names another
    pool: int = 1

    @property
    def is_dense(self) -> bool:
        """Whether its state is a vector."""
        return self.kind in ("dense", "lben-dense", "explicit")

    @property
    def constants(self) -> tuple[str, ...]:
        """The numbers that are part of the model, and that published files do not hold."""
        return {"explicit": ("gamma",)}.get(self.kind, ("m", "gamma") if self.kind.startswith("lben") else ("m",))

    @property
    def tiers(self) -> list[tuple[int, int, int]]:
        """(C, N, N) of each tier of a convolutional model, with its ring."""
        sizes = [self.input_shape[1] + 2 * RING]
        for _ in self.widths[1:]:
            sizes.append(sizes[-1] // 2 + 1)
        return [(channels, size, size) for channels, size in zip(self.widths, sizes, strict=True)]

    @property
    def state_size(self) -> int:
        """D, the number of elements of one sample's state."""
        return self.widths[0] if self.is_dense else sum(c * h * w for c, h, w in self.tiers)

    @property
    def pixels(self) -> int:
        """Elements of an image."""
        channels, height, width = self.input_shape
        return channels * height * width

    @property
    def features(self) -> int:
        """Inputs of the linear head."""
        if self.is_dense:
            return self.widths[0]
        channels, size, _ = self.tiers[-1]
        return channels * (size // self.pool) ** 2

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the weights with its shape, by its published name less `mon.linear_module.`."""
        width, classes, features = self.widths[0], self.classes, self.features
        constants: dict[str, tuple[int, ...]] = dict.fromkeys(self.constants, ())
        head: dict[str, tuple[int, ...]] = {"Wout.weight": (classes, features), "Wout.bias": (classes,)}
        square, inward = (width, width), (width, self.pixels)
        if self.kind == "dense":
            own = {"U.weight": inward, "U.bias": (width,), "A.weight": square, "B.weight": square}
            return constants | own | head
        if self.is_dense:
            entry, factors = ("B", ("V.weight", "S.weight")) if self.kind == "lben-dense" else ("U", ("W.weight",))
            named = {"G.weight": (classes, width), "G.bias": (classes,), "psi": (width,)}
            return (
                constants
                | named
                | {f"{entry}.weight": inward, f"{entry}.bias": (width,)}
                | dict.fromkeys(factors, square)
            )
        own = {"U.weight": (width, self.input_shape[0], 3, 3), "U.bias": (width,)}
        kernel = (width, width, 3, 3)
        if self.kind == "conv":
            return constants | own | {"A.weight": kernel, "B.weight": kernel, "g": (), "h": ()} | head
        if self.kind == "lben-conv":
            scales = dict.fromkeys(("a", "b", "g", "u"), ())
            return (
                constants | own | scales | {"A.weight": kernel, "B.weight": kernel, "psi": (1, *self.tiers[0])} | head
            )
        for i, channels in enumerate(self.widths):
            own |= {f"A0.{i}.weight": (channels, channels, 3, 3), f"B0.{i}.weight": (channels, channels, 3, 3)}
            own |= {f"g.{i}": (), f"h.{i}": ()}
        for i, (here, below) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            own |= {f"A_n0.{i}.weight": (below, here, 3, 3), f"gn.{i}": ()}
        return constants | own | head

    @cached_property
    def reference(self) -> SolverSetting:
        """The solver setting of its base classifier, as the solver loop takes it."""
        return self.solver.setting()
