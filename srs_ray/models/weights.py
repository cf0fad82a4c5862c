"""Weights in and out: state dicts in safetensors files or torch's own, and weights that ship with the package.

Nothing is ever unpickled but tensors (`torch.load(weights_only=True)`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from srs_ray.errors import WeightsError
from srs_ray.models.shipped import SHIPPED_FOLDER, shipped_weights
from srs_ray.settings import home_expanded

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "net")  # under which trainings keep it
PREFIXES = ("module.", "model.", "_orig_mod.")  # of every name, by what a training wrapped its model in
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
STORED_START = "start"  # the name of a start of the base classifier's solves, shape (D,), among the tensors
NAMES_SHOWN = 8
_MOST_TIMES_INFLATED = 4


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


def named_classes(card: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    """The names of so many classes that a card has under `classes`, in the order of the logits; None without them."""
    names = card.get("classes")
    if isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def read_tensors(source: str | Path) -> Weights:
    """The tensors of a file (.safetensors, .npz, else torch's format) by their names, or shipped weights by their name.

    A state dict may lie bare or under one of STATE_DICT_KEYS, and have `module.` before every name. Numbers and text
    beside its tensors are left out. Raises WeightsError if there is no such file, or if it is not a state dict of
    tensors.
    """
    if str(source) in shipped_weights():
        with as_file(files("srs_ray.models") / SHIPPED_FOLDER / f"{source}.safetensors") as path:
            return _read_safetensors(path)
    path = home_expanded(source, WeightsError)
    if not os.path.isfile(path):
        raise WeightsError(
            f"no weights at {path}: expected a checkpoint file, or the name of shipped weights "
            f"({', '.join(shipped_weights()) or 'none are shipped'})"
        )
    readers = {".safetensors": _read_safetensors, ".npz": _read_arrays}
    found = readers.get(path.suffix, _read_pickle)(path)
    tensors = {name.removeprefix("module."): tensor for name, tensor in found.tensors.items()}
    return Weights(tensors, found.metadata)


def _read_safetensors(path: Path) -> Weights:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return Weights(load_file(path), metadata)
    except (safetensors.SafetensorError, OSError, UnicodeEncodeError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error


def _read_arrays(path: Path) -> Weights:
    """NumPy's archive of arrays of numbers; nothing in it is unpickled."""
    try:
        _refuse_inflated(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return Weights({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, {})
    except WeightsError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise WeightsError(f"{path} is not a readable archive of arrays ({type(error).__name__}: {error})") from error


def _read_pickle(path: Path) -> Weights:
    try:
        _refuse_inflated(path)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way, and none of them is ours to mend
        raise WeightsError(_why_not_loaded(path, error)) from error
    if isinstance(content, Mapping):
        nested = (content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping))
        content = next(nested, content)
    tensors = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided:
            _refuse_more_than_stored(path, name, value)
            tensors[name] = value
        elif not isinstance(value, str | int | float | None | np.generic):
            raise WeightsError(f"{path} {_NO_STATE_DICT}; {name!r} is a {type(value).__name__}")
    if not tensors:
        raise WeightsError(f"{path} {_NO_STATE_DICT}")
    return Weights(tensors, {})


def _refuse_inflated(path: Path) -> None:
    """WeightsError for an archive that unpacks to far more than it holds: torch itself packs without compression."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MOST_TIMES_INFLATED * path.stat().st_size:
        raise WeightsError(f"{path} would unpack to {unpacked:,} bytes, far more than it holds: it is no checkpoint")


def _refuse_more_than_stored(path: Path, name: str, tensor: Tensor) -> None:
    """WeightsError for a tensor whose elements are not all in the file, such as one number repeated by its strides."""
    claimed = tensor.numel() * tensor.element_size()
    stored = 0 if tensor.device.type != "cpu" else tensor.untyped_storage().nbytes()
    if claimed > stored:
        raise WeightsError(
            f"{path}: {name} of shape {tuple(tensor.shape)} claims {claimed:,} bytes where {stored:,} are stored: save "
            "contiguous tensors"
        )


_NO_STATE_DICT = f"holds no state dict: expected names and tensors, bare or under the key {STATE_DICT_KEYS[0]!r}"


def _dtype(text: str, *flags: bool) -> np.dtype[Any]:
    """A number's type by its name, as pickles have it; of text, whose items may be of any size, none."""
    dtype = np.dtype(text, *flags)
    if dtype.kind not in "biufc":
        raise ValueError(f"{text!r} is no type of numbers")
    return dtype


# Losses and accuracies are often kept as these beside the tensors. Making one runs no code of the file's.
_NUMPY_SCALARS: list[Any] = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
    (_dtype, "numpy.dtype"),
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefdg"},
]


def _why_not_loaded(path: Path, error: Exception) -> str:
    """In words, with what to do; torch itself advises to run whatever code the file holds."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found:
        return (
            f"{path} holds {found[1]} beside or among its tensors, which is not loaded: that could run code of the "
            "file's. Save the tensors alone where the checkpoint was made, with torch.save(model.state_dict(), ...) or "
            "as .safetensors"
        )
    detail = text.partition("WeightsUnpickler error:")[2] or text
    reason = detail.strip().partition("\n")[0].partition(". ")[0]
    return (
        f"{path} is not a readable checkpoint (only tensors are loaded, never code): it is damaged or of another "
        f"format ({type(error).__name__}{': ' if reason else ''}{reason}); fetch it anew, or save its state dict again"
    )


def without_common_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names without those of PREFIXES that all of them begin with."""
    found = dict(tensors)
    while found:
        prefix = next((each for each in PREFIXES if all(name.startswith(each) for name in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def named_briefly(names: Iterable[str]) -> str:
    """The names in order, the first few of them where they are many."""
    listed = sorted(names)
    more = f" and {len(listed) - NAMES_SHOWN} more" if len(listed) > NAMES_SHOWN else ""
    return ", ".join(listed[:NAMES_SHOWN]) + more


def misfits_of(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> list[str]:
    """What keeps tensors from being those of a model: missing, extra, of the wrong shape, or not finite.

    `what` is the model in words. Counts of batches are optional: nothing is computed with them.
    """
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    missing, extra = expected.keys() - found.keys() - optional, found.keys() - expected.keys()
    problems = []
    if missing:
        problems.append(f"missing: {named_briefly(missing)}")
    if extra:
        problems.append(f"not in this {what}: {named_briefly(extra)}")
    for name in sorted(expected.keys() & found.keys()):
        if expected[name].shape != found[name].shape:
            problems.append(f"{name}: found shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}")
        elif expected[name].is_floating_point() and found[name].dtype not in FLOATS:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in FLOATS)
            problems.append(f"{name}: holds {str(found[name].dtype).removeprefix('torch.')}, expected one of {kinds}")
        elif not torch.isfinite(found[name]).all():
            problems.append(f"{name}: holds values that are not finite")
    return problems


def shown_briefly(problems: list[str]) -> str:
    """The first few problems, a line each."""
    more = [f"... {len(problems) - NAMES_SHOWN} more"] if len(problems) > NAMES_SHOWN else []
    return "\n  ".join(problems[:NAMES_SHOWN] + more)


def write_weights(weights: Weights, path: Path) -> None:
    """Writes a safetensors file in our own format, whole or not at all; WeightsError if it cannot be written."""
    # Copies: safetensors has no way to say that two tensors share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.new")
        save_file(tensors, aside, metadata=weights.metadata)
        aside.replace(path)
    except (OSError, safetensors.SafetensorError, UnicodeEncodeError) as error:
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


def _decoded(value: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # ValueError: no JSON, or a whole number of thousands of digits
        return value
