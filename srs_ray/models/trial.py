"""Tries a model on a few images before anything is certified: each sample must be classified for itself, every time.

Independent noise gives independent predictions only if the logits of an image depend on that image alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from srs_ray.errors import JobError
from srs_ray.models.opened import Opened, training_modules

IMAGES = 6
EVALUATIONS = 2  # of f from zero, where there is one
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the largest logit


@torch.inference_mode()
def try_out(model: Opened) -> None:
    """Raises JobError for a model whose logits are not those of one image each, naming what they depend on.

    Refused are submodules in training mode, logits of a wrong shape, that differ from call to call, or that depend on
    the other images of a batch or on the place in it. What the model itself raises comes through.
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
    if _differ(model, logits_BK, _logits(model, x_BCHW)):
        raise JobError(
            f"{model.label} gives other logits for the same images when it is called again: it draws random numbers "
            "(dropout that is left on?), and must not"
        )
    for place in range(IMAGES):
        among_others_BCHW = _images(model, seed=1 + place, scale=8.0)
        among_others_BCHW[place] = x_BCHW[place]
        found = _logits(model, among_others_BCHW)[place]
        if _differ(model, logits_BK[place], found):
            raise JobError(
                f"{model.label}: an image's logits depend on the other images in its batch (by up to "
                f"{_most(logits_BK[place], found):.2g}), so that noisy samples are not independent: look for "
                "statistics over the batch"
            )
    order = torch.arange(IMAGES - 1, -1, -1, device=model.device)
    found_BK = _logits(model, x_BCHW[order])
    if _differ(model, logits_BK[order], found_BK):
        raise JobError(
            f"{model.label}: an image's logits depend on its place in the batch (by up to "
            f"{_most(logits_BK[order], found_BK):.2g}), so that they are no function of the image"
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


def _differ(model: Opened, expected: Tensor, found: Tensor) -> bool:
    """Whether logits differ by more than rounding; NaN is NaN's equal."""
    finite = expected[torch.isfinite(expected)]
    largest = float(finite.abs().max()) if finite.numel() else 1.0
    rounding = _ROUNDING.get(model.network_dtype, 1e-4) * max(largest, 1e-30)
    return not torch.allclose(expected, found, rtol=0.0, atol=rounding, equal_nan=True)


def _most(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max())
