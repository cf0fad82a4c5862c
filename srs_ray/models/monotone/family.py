"""Monotone equilibrium models as a family: architectures by name, weights in and verified, and a model to certify."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srs_ray.models.monotone.architectures import MONOTONE

if TYPE_CHECKING:  # job files are read without torch
    import torch

    from srs_ray.models.opened import Opened
    from srs_ray.models.weights import Weights
    from srs_ray.solvers.settings import SolverSettings


class MonotoneFamily:
    """monDEQ and LBEN, as published files have them, and tiny ones for handwritten digits."""

    names = tuple(MONOTONE)

    def input_of(self, arch: str) -> tuple[tuple[int, int, int], int]:
        """The input shape and the number of classes."""
        return MONOTONE[arch].input_shape, MONOTONE[arch].classes

    def state_size_of(self, arch: str) -> int:
        """Elements of one sample's state."""
        return MONOTONE[arch].state_size

    def reference_of(self, arch: str) -> SolverSettings:
        """The solver setting of its base classifier, unless a job names another."""
        return MONOTONE[arch].solver

    def read(self, arch: str, source: str) -> Weights:
        """The weights in a file, or shipped ones by name; WeightsError names what does not fit or does not hold."""
        from srs_ray.models.monotone.checkpoints import certified_network, read_monotone

        weights = read_monotone(source)
        certified_network(arch, weights)
        return weights

    def open(self, arch: str, weights: Weights, device: torch.device, dtype: torch.dtype) -> Opened:
        """The model on that device, its conditions verified again; in float64 on a CPU it is a `Lipschitz` model."""
        import torch as of_torch

        from srs_ray.models.devices import use_exact_float32
        from srs_ray.models.monotone.checkpoints import certified_network
        from srs_ray.models.monotone.networks import network_of
        from srs_ray.models.opened import opened

        if device.type == "cuda":
            use_exact_float32()
        config, verified = MONOTONE[arch], certified_network(arch, weights)
        exact = dtype == of_torch.float64 and device.type == "cpu"
        return opened(
            verified if exact else network_of(config, weights.tensors, dtype, device),
            label=arch,
            input_shape=config.input_shape,
            classes=config.classes,
            device=device,
            dtype=dtype,
            reference=config.reference,
        )
