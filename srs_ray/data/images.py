"""From a stored image to the model's input: decoding, colour, size."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srs_ray.errors import PointError

SHORTER_SIDE = 256
CROPPED = (224, 224)


def preprocessing_name(input_shape: tuple[int, int, int]) -> str:
    """What `to_input` does for this input shape, for a data set's identity."""
    channels, height, width = input_shape
    colour = _pillow_mode(channels)
    if (height, width) == CROPPED:
        return f"{colour}, shorter side {SHORTER_SIDE} bilinear antialiased, centre crop {width}x{height}"
    return f"{colour}, exactly {width}x{height}"


def decode(encoded: bytes, input_shape: tuple[int, int, int], name: str) -> Tensor:
    """The encoded image (JPEG, PNG, ...) as x_CHW; PointError, which starts with `name`, if that is not possible.

    Truncated files are refused, never filled up with grey. EXIF rotation is not applied: published ImageNet results,
    made with torchvision, do not apply it either.
    """
    if not encoded:
        raise PointError(f"{name}: the image is empty (0 bytes)")
    try:
        with Image.open(BytesIO(encoded)) as image:
            return to_input(image, input_shape, name)
    except PointError:
        raise
    except Exception as error:  # Decoders raise nearly anything on damaged bytes: OSError, SyntaxError, struct.error.
        reason = "Pillow knows no such image format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise PointError(f"{name}: not readable as an image ({type(error).__name__}: {reason})") from error


def to_input(image: Image.Image, input_shape: tuple[int, int, int], name: str) -> Tensor:
    """The image as x_CHW, float32 in [0, 1], by the preprocessing that `preprocessing_name` names.

    A 224x224 input takes any image: shorter side to 256, centre crop (the standard ImageNet evaluation). Any other
    input size takes images of exactly that size. Raises PointError for another size, and for pixels deeper than 8 bits.
    """
    channels, height, width = input_shape
    if image.mode.startswith(("I", "F")):
        # Pillow would cut these off at 255: a nearly white image, certified as if it were the real one.
        raise PointError(f"{name}: its pixels are deeper than 8 bits (Pillow mode {image.mode}); store it with 8 bits")
    resized = (height, width) == CROPPED
    if resized and _pixels_when_resized(image.size) > (Image.MAX_IMAGE_PIXELS or float("inf")):
        raise PointError(f"{name}: is {_size(image)}, too narrow to bring the shorter side to {SHORTER_SIDE}")
    if not resized and image.size != (width, height):
        raise PointError(f"{name}: is {_size(image)}, the model takes {width}x{height}")
    image = image.convert(_pillow_mode(channels))
    if resized:
        from torchvision.transforms import functional as transform  # imported here: it takes a worker seconds

        image = transform.resize(image, SHORTER_SIDE)  # bilinear
        image = transform.center_crop(image, [height, width])
    pixels_HWC = np.array(image).reshape(height, width, channels)
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous().float().div(255)


def _pillow_mode(channels: int) -> str:
    return {1: "L", 3: "RGB"}[channels]


def _pixels_when_resized(size: tuple[int, int]) -> float:
    return SHORTER_SIDE**2 * max(size) / min(size)


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
