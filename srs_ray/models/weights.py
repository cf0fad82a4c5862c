"""Weights in and out: published MDEQ checkpoints, our own safetensors files, weights that ship with the package.

A published checkpoint is a state dict, bare or under the key `state_dict`, sometimes with `module.` before every
name, in which some convolutions carry weight normalisation as `weight_g` and `weight_v`. Our own files hold the same
names with the normalisation folded into `weight`. Nothing is ever unpickled but tensors
(`torch.load(weights_only=True)`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from srs_ray.errors import WeightsError
from srs_ray.models.mdeq.architectures import ARCHITECTURES, architecture
from srs_ray.models.mdeq.inference import arrange_for_inference
from srs_ray.models.mdeq.model import MDEQ

SHIPPED_FOLDER = "pretrained"
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Weights:
    """A checkpoint's tensors, weight normalisation folded, and the metadata of its file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors (names, types, shapes, bytes): the same for a checkpoint and its converted copy."""
        hasher = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().contiguous()
            if name.endswith("num_batches_tracked"):
                continue
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return hasher.hexdigest()

    @property
    def card(self) -> dict[str, Any]:
        """How the weights were made and how good they are, as far as the file says: its metadata, decoded."""
        return {name: _decoded(text) for name, text in sorted(self.metadata.items())}  # a file keeps no order


def shipped_weights() -> list[str]:
    """The names of the weights that come with the package."""
    folder = files("srs_ray.models") / SHIPPED_FOLDER
    return sorted(
        item.name.removesuffix(".safetensors") for item in folder.iterdir() if item.name.endswith(".safetensors")
    )


def read_weights(source: str | Path) -> Weights:
    """Reads a checkpoint file (.safetensors, else the published pickled format), or shipped weights by their name.

    Raises WeightsError if there is no such file, or if it is not a state dict of tensors.
    """
    if str(source) in shipped_weights():
        with as_file(files("srs_ray.models") / SHIPPED_FOLDER / f"{source}.safetensors") as path:
            return _read_safetensors(path)
    path = Path(source)
    if not path.is_file():
        raise WeightsError(
            f"no weights at {path}: expected a checkpoint file, or the name of shipped weights "
            f"({', '.join(shipped_weights()) or 'none are shipped'})"
        )
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> Weights:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return Weights(_canonical(load_file(path), path), metadata)
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> Weights:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way, and none of them is ours to mend
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} is not a readable checkpoint (only tensors are loaded, never code): {reason}"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for name, value in content.items()
    ):
        raise WeightsError(
            f"{path} holds no state dict: expected names and tensors, bare or under the key 'state_dict'"
        )
    return Weights(_canonical(content, path), {})


def _canonical(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under their plain names, with weight normalisation folded, in float64 so that it rounds only once."""
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    folded: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        if name.endswith(".weight_g"):
            if name[:-1] + "v" not in plain:
                raise WeightsError(f"{path}: {name} is there, {name[:-1]}v is not")
        elif name.endswith(".weight_v"):
            gain = plain.get(name[:-1] + "g")
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


def _named(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _NAMES_SHOWN} more" if len(listed) > _NAMES_SHOWN else ""
    return ", ".join(listed[:_NAMES_SHOWN]) + more


def misfits(weights: Weights, arch: str) -> list[str]:
    """What keeps these weights from fitting: tensors missing, extra, of the wrong shape, or not finite."""
    with torch.device("meta"):
        expected = MDEQ(architecture(arch)).state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    found = weights.tensors
    missing, extra = expected.keys() - found.keys() - optional, found.keys() - expected.keys()
    problems = []
    if missing:
        problems.append(f"missing: {_named(missing)}")
    if extra:
        problems.append(f"not in this architecture: {_named(extra)}")
    for name in sorted(expected.keys() & found.keys()):
        if expected[name].shape != found[name].shape:
            problems.append(f"{name}: found shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}")
        elif not torch.isfinite(found[name]).all():
            problems.append(f"{name}: holds values that are not finite")
    return problems


def fitting_architectures(weights: Weights) -> list[str]:
    """The names of the architectures that these weights fit."""
    return [name for name in ARCHITECTURES if not misfits(weights, name)]


def build_model(arch: str, weights: Weights, device: str | torch.device = "cpu", dtype: str = "float32") -> MDEQ:
    """An MDEQ in evaluation mode with these weights; WeightsError names every tensor that does not fit."""
    problems = misfits(weights, arch)
    if problems:
        fitting = fitting_architectures(weights)
        hint = f"these weights fit {', '.join(fitting)}" if fitting else "they fit none of the known architectures"
        shown = problems[:_NAMES_SHOWN] + (
            [f"... {len(problems) - _NAMES_SHOWN} more"] if len(problems) > _NAMES_SHOWN else []
        )
        raise WeightsError(f"the weights do not fit {arch} ({hint}):\n  " + "\n  ".join(shown))
    model = MDEQ(architecture(arch))
    model.load_state_dict(weights.tensors, strict=False)
    model.requires_grad_(False)
    return model.eval().to(device=torch.device(device), dtype=getattr(torch, dtype))


def inference_model(arch: str, weights: Weights, device: str | torch.device = "cpu", dtype: str = "float32") -> MDEQ:
    """As `build_model`, arranged for evaluation alone, which is faster."""
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


def write_weights(weights: Weights, path: Path) -> None:
    """Writes a safetensors file in our own format, whole or not at all; WeightsError if it cannot be written."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.new")
        save_file(tensors, aside, metadata=weights.metadata)
        aside.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"cannot write weights to {path}: {error}") from error


def write_card(weights: Weights, path: Path) -> None:
    """Writes the card of the weights at `path` beside them, as JSON; WeightsError if the file cannot be written.

    It is for readers: what the program uses is in the weights' own file.
    """
    try:
        text = json.dumps({"digest": weights.digest, **weights.card}, indent=2, ensure_ascii=False)
        path.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise WeightsError(f"cannot write the card of {path}: {error}") from error


def describe(weights: Weights) -> dict[str, object]:
    """What `srs-ray weights inspect` prints: sizes, digest, which architectures fit, and the card."""
    counted = [tensor for name, tensor in weights.tensors.items() if not name.endswith("num_batches_tracked")]
    return {
        "tensors": len(weights.tensors),
        "values": sum(tensor.numel() for tensor in counted),
        "types": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in counted}),
        "digest": weights.digest,
        "fits": fitting_architectures(weights),
        "card": weights.card,
    }


def _decoded(value: str) -> object:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
