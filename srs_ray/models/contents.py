"""What a network consists of: the torch modules and tensors that the user's object holds, however it holds them.

They are looked for in attributes, lists, tuples and mappings, in what a function closes over, in the object of a bound
method and in partial functions. Globals that a function names are not.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_STORED_BY_TORCH = ("_parameters", "_buffers", "_modules")


def modules_of(network: Any) -> Iterator[tuple[str, nn.Module]]:
    """All torch modules by their dotted names, the network itself by '' where it is one."""
    for name, value in _walk("", network, set()):
        if isinstance(value, nn.Module):
            yield name, value


def tensors_of(network: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors that a network computes with, by name: parameters, buffers, and tensors and arrays held elsewhere."""
    plain: list[tuple[str, Tensor]] = []
    for name, value in _walk("", network, set()):
        if isinstance(value, nn.Module):
            for inner, tensor in (*value.named_parameters(recurse=False), *value.named_buffers(recurse=False)):
                yield _dotted(name, inner), tensor
        elif isinstance(value, Tensor):
            plain.append((name, value))
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            plain.append((name, torch.from_numpy(np.ascontiguousarray(value))))
    yield from plain


def move(network: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Puts the network on that device in place, its floating-point tensors in that type; arrays stay what they are."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, dtype if value.is_floating_point() else value.dtype)
        if type(value) is tuple:
            return tuple(moved(item) if isinstance(item, Tensor | tuple) else item for item in value)
        return value

    for _, owner in list(_walk("", network, set())):
        if isinstance(owner, nn.Module):
            owner.to(device=device, dtype=dtype)
        if isinstance(owner, list):
            owner[:] = map(moved, owner)
        elif isinstance(owner, FunctionType):
            for _, cell in _cells(owner):
                if isinstance(cell.cell_contents, Tensor | tuple):
                    cell.cell_contents = moved(cell.cell_contents)
        else:
            held: Any = owner if isinstance(owner, MutableMapping) else getattr(owner, "__dict__", {})
            for name, value in list(held.items()):
                if isinstance(value, Tensor | tuple):  # no parameter or buffer: torch leaves it where it is
                    held[name] = moved(value)


def _walk(name: str, value: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The value and all that it holds, by dotted names; each object once."""
    if isinstance(value, Tensor | np.ndarray):
        yield name, value
        return
    if not _can_hold(value) or id(value) in seen:
        return
    seen.add(id(value))
    yield name, value
    for inner, item in _held(value):
        yield from _walk(_dotted(name, inner), item, seen)


def _can_hold(value: Any) -> bool:
    """Whether tensors are looked for in it: not in a type, a Python module, or an object of a library's machinery."""
    if isinstance(value, nn.Module | Mapping | list | tuple | set | frozenset | deque | FunctionType | MethodType):
        return True
    if isinstance(value, functools.partial | SimpleNamespace):
        return True
    top = type(value).__module__.partition(".")[0]
    known = top in sys.stdlib_module_names or top in ("torch", "numpy")
    return not known and not isinstance(value, type | ModuleType) and hasattr(value, "__dict__")


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        yield from value.named_children()
        yield from ((name, item) for name, item in vars(value).items() if name not in _STORED_BY_TORCH)
    elif isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((str(number), item) for number, item in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, MethodType):
        yield "self", value.__self__
    elif isinstance(value, FunctionType):
        yield from ((name, cell.cell_contents) for name, cell in _cells(value))
        yield from (("defaults", value.__defaults__), ("kwdefaults", value.__kwdefaults__))
    else:
        yield from vars(value).items()


def _cells(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function closes over, by name; variables that have no value yet are left out."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            _ = cell.cell_contents
        except ValueError:
            continue
        yield name, cell


def _dotted(*names: str) -> str:
    return ".".join(filter(None, names))
