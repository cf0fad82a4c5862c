"""MDEQ as a family of models: architectures by name, weights in, and a model that is ready to be certified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srs_ray.models.mdeq.architectures import ARCHITECTURES

if TYPE_CHECKING:  # job files are read without torch
    import torch

    from srs_ray.models.mdeq.model import MDEQ
    from srs_ray.models.opened import Opened
    from srs_ray.models.weights import Weights
    from srs_ray.solvers.settings import SolverSettings


class MDEQFamily:
    """The architectures of the published MDEQ checkpoints, and a tiny one for handwritten digits."""

    names = tuple(ARCHITECTURES)

    def input_of(self, arch: str) -> tuple[tuple[int, int, int], int]:
        """The input shape and the number of classes."""
        return ARCHITECTURES[arch].input_shape, ARCHITECTURES[arch].classes

    def state_size_of(self, arch: str) -> int:
        """Elements of one sample's state."""
        return ARCHITECTURES[arch].state_size

    def reference_of(self, arch: str) -> SolverSettings:
        """The solver setting of its base classifier, unless a job names another."""
        return ARCHITECTURES[arch].solver

    def read(self, arch: str, source: str) -> Weights:
        """The weights in a file, or shipped ones by their name; WeightsError names what does not fit."""
        from srs_ray.models.mdeq.checkpoints import build_model, read_weights

        weights = read_weights(source)
        build_model(arch, weights)
        return weights

    def open(self, arch: str, weights: Weights, device: torch.device, dtype: torch.dtype) -> Opened:
        """The model, arranged for inference on that device."""
        from srs_ray.models.mdeq.checkpoints import inference_model

        return opened_mdeq(inference_model(arch, weights, device, str(dtype).removeprefix("torch.")))


def opened_mdeq(model: MDEQ) -> Opened:
    """An MDEQ in memory, ready to be certified."""
    from srs_ray.models.opened import Opened
    from srs_ray.models.protocols import EQUILIBRIUM_PARTS

    config = model.config
    return Opened(
        label=config.name,
        network=model,
        flat=model,
        parts=EQUILIBRIUM_PARTS,
        input_shape=config.input_shape,
        classes=config.classes,
        reference=config.reference,
        device=model.device,
        dtype=model.dtype,
        network_dtype=model.network_dtype,
        stored_D=model.stored_state(),
    )
