"""Tries a model on a few images before anything is certified: each sample must be classified for itself, every time.

Independent noise gives independent predictions only if the logits of an image depend on that image alone.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from srs_ray.errors import JobError
from srs_ray.models.opened import Opened, training_modules

IMAGES = 6
MANY, MANY_PIXELS = 64, 2**15  # images of one batch on a CPU, and how large they may be; of larger ones a quarter
EVALUATIONS = 2  # of f from zero, where there is one
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the largest logit


@torch.inference_mode()
def try_out(model: Opened) -> None:
    """Raises JobError for a model whose logits are not those of one image each, naming what they depend on.

    Refused are submodules in training mode, logits of a wrong shape, that differ from call to call, or that depend on
    the other images of a batch or on the place in it, also in a larger batch; of an equilibrium, parts that depend
    on anything but their arguments. What the model itself raises comes through.
    """
    training = training_modules(model.network)
    if training:
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        raise JobError(
            f"{model.label} is in training mode in {training[0]}{more}, where images of a batch can depend on each "
            "other: call .eval() on the whole model before it is returned"
        )
    x_BCHW = _images(model)
    logits_BK = _logits(model, x_BCHW)
    if tuple(logits_BK.shape) != (IMAGES, model.classes):
        raise JobError(
            f"{model.label} gives logits of shape {tuple(logits_BK.shape)} for {IMAGES} images, expected "
            f"{(IMAGES, model.classes)}: set classes to what the model tells apart"
        )
    alone = _Reference(model, x_BCHW, logits_BK)
    alone.refuse_other(
        _logits(model, x_BCHW),
        "it gives other logits for the same images when it is called again (by up to {most:.2g}): it draws random "
        "numbers (dropout that is left on?), or keeps something from call to call, and must not",
    )
    for place in range(IMAGES):
        among_others_BCHW = _images(model, seed=1 + place, scale=8.0)
        among_others_BCHW[place] = x_BCHW[place]
        alone.refuse_other(_logits(model, among_others_BCHW)[place], _NEIGHBOURS, place)
    order = torch.arange(IMAGES - 1, -1, -1, device=model.device)
    of_place = (
        "an image's logits depend on its place in the batch (by up to {most:.2g}), and are no function of the image"
    )
    alone.refuse_other(_logits(model, x_BCHW[order]), of_place, order)
    size = MANY if prod(model.input_shape) <= MANY_PIXELS else MANY // 4
    shown = torch.zeros(size, dtype=torch.long, device=model.device)  # copies of the first image, the others among them
    shown[torch.linspace(0, size - 1, IMAGES, device=model.device).round().long()] = torch.arange(IMAGES).to(shown)
    alone.refuse_other(_logits(model, x_BCHW[shown]), _NEIGHBOURS, shown)
    if model.parts:
        _try_parts(alone, order)


_NEIGHBOURS = (
    "an image's logits depend on the other images in its batch (by up to {most:.2g}), so that noisy samples are not "
    "independent: look for statistics over the batch"
)


class _Reference:
    """The logits of some images, which the model is to give for them whatever is computed beside them."""

    def __init__(self, model: Opened, x_BCHW: Tensor, logits_BK: Tensor) -> None:
        self.model, self.x_BCHW, self.logits_BK = model, x_BCHW, logits_BK
        # By class: one whose logit is huge for all images must not hide what the others do.
        finite_BK = torch.where(torch.isfinite(logits_BK), logits_BK.abs(), 0.0)
        self.rounding_K = _ROUNDING.get(model.network_dtype, 1e-4) * finite_BK.amax(dim=0).clamp(min=1e-30)

    def refuse_other(self, found: Tensor, fault: str, rows: Tensor | int | slice = slice(None)) -> None:
        """Raises JobError where logits differ from those of these rows by more than rounding; NaN is NaN's equal."""
        expected = self.logits_BK[rows]
        same = (expected == found) | ((expected - found).abs() <= self.rounding_K) | (expected.isnan() & found.isnan())
        if not bool(same.all()):
            most = float((expected - found)[~same].abs().max())
            raise JobError(f"{self.model.label}: {fault.format(most=most)}")


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, but that NaN is NaN."""
    return torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def _try_parts(alone: _Reference, order: Tensor) -> None:
    """Whether f and head depend on their arguments alone: samplers mix states and injections of several batches."""
    model, x_BCHW = alone.model, alone.x_BCHW
    injection = model.inject(x_BCHW.clone())[order]
    z_BD = model.zero_state(IMAGES)
    for _ in range(EVALUATIONS):
        model.inject(_images(model, seed=1))
        before_BD, before = z_BD.clone(), injection.clone()
        after_BD = model.f(z_BD, injection)
        if not (_same(z_BD, before_BD) and _same(injection, before)):
            raise JobError(f"{model.label}: f changes the state or the injection that it is given: return a new state")
        z_BD = after_BD
    model.inject(_images(model, seed=1))
    alone.refuse_other(
        model.head(z_BD),
        "it gives other logits (by up to {most:.2g}) when inject is called for other images before f or head: these "
        "must use only the state and the injection that they are given",
        order,
    )


def _images(model: Opened, seed: int = 0, scale: float = 0.25) -> Tensor:
    """Noisy images of random pixels, each another."""
    drawn = torch.Generator().manual_seed(seed)
    clean_BCHW = torch.rand(IMAGES, *model.input_shape, generator=drawn)
    noisy_BCHW = clean_BCHW + scale * torch.randn(clean_BCHW.shape, generator=drawn)
    return noisy_BCHW.to(model.device, model.dtype)


def _logits(model: Opened, x_BCHW: Tensor) -> Tensor:
    """Logits after a few evaluations: more of them would carry rounding further than it matters here."""
    injection = model.inject(x_BCHW.clone())
    if len(injection) != len(x_BCHW):
        raise JobError(f"{model.label}: inject gives {len(injection)} samples for {len(x_BCHW)} images")
    z_BD = model.zero_state(len(x_BCHW))
    for _ in range(EVALUATIONS if model.parts else 1):
        after_BD = model.f(z_BD, injection)
        if not isinstance(after_BD, Tensor):
            raise JobError(f"{model.label} gives {type(after_BD).__name__}, expected a tensor of logits")
        if model.parts and after_BD.shape != z_BD.shape:
            raise JobError(
                f"{model.label}: f gives {after_BD.shape[1:].numel()} elements a sample, state_shape says "
                f"{z_BD.shape[1:].numel()}"
            )
        z_BD = after_BD
    return model.head(z_BD)
