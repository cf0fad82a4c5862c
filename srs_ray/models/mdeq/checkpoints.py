"""MDEQ's weights: published checkpoints, our own files, and the models that are built of them.

A published checkpoint is a state dict in which some convolutions carry weight normalisation as `weight_g` and
`weight_v`, or by newer versions of torch as `parametrizations.weight.original0` and `original1`. Beside `fullstage` it
may hold a copy of it, `fullstage_copy`, which the authors' program solves with. Our own files hold the same names
without the copy, and with the normalisation folded into `weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from srs_ray.errors import WeightsError
from srs_ray.models.devices import use_exact_float32
from srs_ray.models.mdeq.architectures import ARCHITECTURES, architecture
from srs_ray.models.mdeq.inference import arrange_for_inference
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.models.weights import STORED_START, Weights, misfits_of, read_tensors, shown_briefly, without_common_prefix

_STAGE, _COPY_OF_STAGE = "fullstage.", "fullstage_copy."


def read_weights(source: str | Path) -> Weights:
    """Reads a checkpoint file, or shipped weights by their name, with weight normalisation folded.

    Raises WeightsError if there is no such file, or if it is not a state dict of tensors.
    """
    found = read_tensors(source)
    return Weights(_canonical(found.tensors, source), found.metadata)


def _canonical(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The tensors by our names, with weight normalisation folded, in float64 so that it rounds only once."""
    tensors = {_of_weight_norm(name): tensor for name, tensor in without_common_prefix(tensors).items()}
    if any(name.startswith(_STAGE) for name in tensors):
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_COPY_OF_STAGE)}
    folded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight_g"):
            if name[:-1] + "v" not in tensors:
                raise WeightsError(f"{path}: {name} is there, {name[:-1]}v is not")
        elif name.endswith(".weight_v"):
            gain = tensors.get(name[:-1] + "g")
            if gain is None:
                raise WeightsError(f"{path}: {name} is there, {name[:-1]}g is not")
            if not tensor.dim() or gain.numel() != len(tensor):
                shapes = f"{name[:-1]}g has shape {tuple(gain.shape)}, {name} has {tuple(tensor.shape)}"
                raise WeightsError(f"{path}: {shapes}, which do not go together")
            gain = gain.view(-1, *[1] * (tensor.dim() - 1))
            direction = tensor.double()
            norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.dim() - 1))
            folded[name[: -len("_v")]] = (gain.double() * direction / norm).to(tensor.dtype)
        else:
            folded[name] = tensor
    return folded


def _of_weight_norm(name: str) -> str:
    """The name of a gain or a direction as torch had it before there were parametrizations."""
    return name.replace(".parametrizations.weight.original0", ".weight_g").replace(
        ".parametrizations.weight.original1", ".weight_v"
    )


def misfits(weights: Weights, arch: str) -> list[str]:
    """What keeps these weights from fitting: tensors missing, extra, of the wrong shape, or not finite."""
    with torch.device("meta"):
        expected = MDEQ(architecture(arch)).state_dict()
        if STORED_START in weights.tensors:
            expected[STORED_START] = torch.empty(architecture(arch).state_size)
    return misfits_of(weights.tensors, expected, "architecture")


def fitting_architectures(weights: Weights) -> list[str]:
    """The names of the architectures that these weights fit."""
    return [name for name in ARCHITECTURES if not misfits(weights, name)]


def build_model(arch: str, weights: Weights, device: str | torch.device = "cpu", dtype: str = "float32") -> MDEQ:
    """An MDEQ in evaluation mode with these weights; WeightsError names every tensor that does not fit."""
    problems = misfits(weights, arch)
    if problems:
        fitting = fitting_architectures(weights)
        hint = f"these weights fit {', '.join(fitting)}" if fitting else "they fit none of the known architectures"
        raise WeightsError(f"the weights do not fit {arch} ({hint}):\n  {shown_briefly(problems)}")
    model = MDEQ(architecture(arch))
    model.load_state_dict(weights.tensors, strict=False)
    model.stored_D = weights.tensors.get(STORED_START)
    model.requires_grad_(False)
    return model.eval().to(device=torch.device(device), dtype=getattr(torch, dtype))


def inference_model(arch: str, weights: Weights, device: str | torch.device = "cpu", dtype: str = "float32") -> MDEQ:
    """As `build_model`, arranged for evaluation alone, which is faster; on CUDA in exact float32, as runs have it."""
    if torch.device(device).type == "cuda":
        use_exact_float32()
    return arrange_for_inference(build_model(arch, weights), torch.device(device), getattr(torch, dtype))


def load_model(arch: str, weights: str | Path, device: str = "cpu", dtype: str = "float32") -> MDEQ:
    """An MDEQ for inference, by the name of its architecture and its weights: a file, or the name of shipped ones."""
    return inference_model(arch, read_weights(weights), device, dtype)


def random_weights(arch: str, seed: int = 0) -> Weights:
    """Untrained weights, drawn as a new model's are: they carry a path through the program, not a classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MDEQ(architecture(arch))
    return Weights(model.state_dict(), {"architecture": arch, "training": f"none: random, seed {seed}"})


def describe(weights: Weights) -> dict[str, object]:
    """What `srs-ray weights inspect` prints: sizes, digest, which architectures fit, and the card."""
    counted = [tensor for name, tensor in weights.tensors.items() if not name.endswith("num_batches_tracked")]
    return {
        "tensors": len(weights.tensors),
        "values": sum(tensor.numel() for tensor in counted),
        "types": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in counted}),
        "digest": weights.digest,
        "fits": fitting_architectures(weights),
        "start": "stored" if STORED_START in weights.tensors else "none: the base classifier solves from zero",
        "card": weights.card,
    }
