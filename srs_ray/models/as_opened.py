"""Any model that a caller has in hand, as samplers take it."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from srs_ray.errors import JobError
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.models.opened import Opened, is_equilibrium, opened, refuse_training
from srs_ray.models.trial import try_out

_TRIED: dict[int, tuple[weakref.ref[Any], tuple[int, int, int], int]] = {}  # models by id, their input and classes


def as_opened(model: Any, input_shape: tuple[int, int, int] | None = None) -> Opened:
    """Any model as samplers take it; `input_shape` is that of the images for one that does not say it itself.

    One that is no Opened yet is tried out at its first use: ValueError where logits depend on more than one image.
    """
    if isinstance(model, Opened):
        return model
    if isinstance(model, MDEQ):
        return opened_mdeq(model)
    if isinstance(model, type):
        raise ValueError(f"the model is the class {model.__name__}: give an instance, with its weights loaded")
    if not callable(model) and not is_equilibrium(model):
        raise ValueError(
            f"found a {type(model).__name__} as the model: expected a torch module that gives logits, or an "
            "equilibrium with state_shape, inject, f and head"
        )
    if input_shape is None:
        raise ValueError("the model does not say what images it takes: give an image")
    tensor = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
    device = torch.device("cpu") if tensor is None else tensor.device
    dtype = torch.float32 if tensor is None or not tensor.is_floating_point() else tensor.dtype
    refuse_training(model)
    tried = _TRIED.get(id(model))
    if tried is not None and tried[0]() is model and tried[1] == input_shape:
        classes = tried[2]
    else:
        classes = _classes_of(model, input_shape, device, dtype)
    ready = opened(
        model, label=type(model).__name__, input_shape=input_shape, classes=classes, device=device, dtype=dtype
    )
    if tried is None or tried[0]() is not model or tried[1] != input_shape:
        try:
            try_out(ready)
        except JobError as error:
            raise ValueError(str(error)) from error
        with suppress(TypeError):  # an object that cannot be referred to is tried each time
            _TRIED[id(model)] = (weakref.ref(model), input_shape, classes)
    return ready


def _classes_of(model: Any, input_shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> int:
    """How many classes the model tells apart, by its logits of two images."""
    label = type(model).__name__
    ready = opened(model, label=label, input_shape=input_shape, classes=1, device=device, dtype=dtype)
    with torch.inference_mode():
        x_BCHW = torch.full((2, *input_shape), 0.5, device=device, dtype=ready.dtype)
        injection = ready.inject(x_BCHW)
        logits_BK = ready.head(ready.f(ready.zero_state(2), injection))
    if logits_BK.dim() != 2 or len(logits_BK) != 2:
        raise ValueError(f"the model gives {tuple(logits_BK.shape)} for 2 images, expected logits (2, classes)")
    return logits_BK.shape[1]
