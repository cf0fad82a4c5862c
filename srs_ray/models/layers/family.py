"""Stacks of 1-Lipschitz layers as a family: architectures by name, weights in and verified, and a model to certify."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srs_ray.models.layers.config import LAYERED

if TYPE_CHECKING:  # job files are read without torch
    import torch

    from srs_ray.models.opened import Opened
    from srs_ray.models.weights import Weights
    from srs_ray.solvers.settings import SolverSettings


class LayeredFamily:
    """SLL, AOL and CPL, dense."""

    names = tuple(LAYERED)

    def input_of(self, arch: str) -> tuple[tuple[int, int, int], int]:
        """The input shape and the number of classes."""
        return LAYERED[arch].input_shape, LAYERED[arch].classes

    def state_size_of(self, arch: str) -> int:
        """Elements of one sample's state."""
        return LAYERED[arch].state_size

    def reference_of(self, arch: str) -> SolverSettings:
        """Substitution, as steps of a plain solver."""
        return LAYERED[arch].solver

    def read(self, arch: str, source: str) -> Weights:
        """The weights in a file, or shipped ones by name; WeightsError names what does not fit or does not hold."""
        from srs_ray.models.layers.network import checked_layers
        from srs_ray.models.weights import read_tensors

        weights = read_tensors(source)
        checked_layers(arch, weights)
        return weights

    def open(self, arch: str, weights: Weights, device: torch.device, dtype: torch.dtype) -> Opened:
        """The model on that device, its conditions verified again."""
        from srs_ray.models.devices import use_exact_float32
        from srs_ray.models.layers.network import LayeredNetwork, checked_layers
        from srs_ray.models.opened import opened

        if device.type == "cuda":
            use_exact_float32()
        config = checked_layers(arch, weights)
        return opened(
            LayeredNetwork(config, weights.tensors, dtype, device),
            label=arch,
            input_shape=config.input_shape,
            classes=config.classes,
            device=device,
            dtype=dtype,
            reference=config.solver.setting(),
        )
