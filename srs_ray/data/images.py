"""From an image, stored or in memory, to the model's input: decoding, colour, size, range."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from srs_ray.data.depth import deeper_than_8_bits
from srs_ray.data.png import png_fault
from srs_ray.errors import PointError, ShapeError

if TYPE_CHECKING:  # job files are read without torch
    from torch import Tensor

LARGEST_FILE = 768 * 2**20  # bytes of an encoded image: Pillow refuses more than 179 million pixels
SHORTER_SIDE = 256
CROPPED = (224, 224)
_PILLOW_MODES = {1: "L", 3: "RGB"}  # by the number of channels
_FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")


def preprocessing_name(input_shape: tuple[int, int, int]) -> str:
    """What `to_input` does for this input shape, for a data set's identity."""
    channels, height, width = input_shape
    colour = _PILLOW_MODES.get(channels, f"{channels} channels")
    if (height, width) == CROPPED:
        return f"{colour}, shorter side {SHORTER_SIDE} bilinear antialiased, centre crop {width}x{height}"
    return f"{colour}, exactly {width}x{height}"


def decode(encoded: bytes, input_shape: tuple[int, int, int], name: str) -> Tensor:
    """The encoded image (JPEG, PNG, ...) as x_CHW; PointError, which starts with `name`, if that is not possible.

    Damaged files are refused, never filled up with grey, even where the decoder only warns. EXIF rotation is not
    applied: published ImageNet results, made with torchvision, do not apply it either.
    """
    from srs_ray.data.jpeg import jpeg_fault  # compiled loops take a while to import

    if not encoded:
        raise PointError(f"{name}: the image is empty (0 bytes)")
    with _readable(name), Image.open(BytesIO(encoded)) as image:
        x_CHW = to_input(image, input_shape, name)
    fault = jpeg_fault(encoded) or png_fault(encoded)
    if fault is not None:
        raise PointError(f"{name}: the image is damaged: {fault}")
    return x_CHW


def image_tensor(image: object, input_shape: tuple[int, int, int], name: str) -> Tensor:
    """An image in memory as x_CHW, float32 in [0, 1], of exactly the input shape; the tensor is new.

    `image` is a PIL image, which `to_input` prepares, or a torch tensor or numpy array of the model's shape (C, H, W):
    uint8, divided by 255, or floating point in [0, 1]. An array may have its channels last (H, W, C), unless C = H = W,
    where nobody can tell; one channel may be left out (H, W). Raises PointError, which starts with `name`, for anything
    else: tensors and arrays are never resized, nor brought into range.
    """
    import torch

    if isinstance(image, Image.Image):
        with _readable(name):
            _refuse_deep(image, name)
            image.load()
            return to_input(image, input_shape, name)
    if isinstance(image, np.ma.MaskedArray):
        raise PointError(f"{name}: the image is a masked array, whose hidden pixels have no value: fill them")
    if isinstance(image, np.ndarray):
        _check_pixel_type(image.dtype, image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating), name)
        # A copy, in the machine's byte order: torch has neither another one nor steps backwards through memory.
        pixels = torch.from_numpy(np.array(image, np.uint8 if image.dtype == np.uint8 else np.float64, order="C"))
    elif isinstance(image, torch.Tensor):
        _check_pixel_type(image.dtype, image.dtype == torch.uint8 or str(image.dtype) in _FLOATS, name)
        with _readable(name):
            pixels = image.detach().to_dense().cpu()
    else:
        raise PointError(
            f"{name}: the image is a {type(image).__name__}, expected a torch tensor, numpy array or PIL image"
        )
    x_CHW = _channels_first(pixels, input_shape, isinstance(image, np.ndarray), name)
    if x_CHW.dtype == torch.uint8:
        return x_CHW.float().div(255).contiguous()
    _check_range(x_CHW, name)
    return x_CHW.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def to_input(image: Image.Image, input_shape: tuple[int, int, int], name: str) -> Tensor:
    """The image as x_CHW, float32 in [0, 1], by the preprocessing that `preprocessing_name` names.

    A 224x224 input takes any image: shorter side to 256, centre crop (the standard ImageNet evaluation). Any other
    input size takes images of exactly that size. Raises PointError for another size, and for pixels deeper than 8 bits.
    """
    import torch

    channels, height, width = input_shape
    if channels not in _PILLOW_MODES:
        raise ShapeError(
            f"{name}: is a PIL image, which gives 1 or 3 channels, and the model takes {channels}: "
            f"give a tensor or array of the shape {input_shape}"
        )
    _refuse_deep(image, name)
    resized = (height, width) == CROPPED
    if resized and _pixels_when_resized(image.size) > (Image.MAX_IMAGE_PIXELS or float("inf")):
        raise PointError(f"{name}: is {_size(image)}, too narrow to bring the shorter side to {SHORTER_SIDE}")
    if not resized and image.size != (width, height):
        raise ShapeError(f"{name}: is {_size(image)}, the model takes {width}x{height}")
    image = image.convert(_PILLOW_MODES[channels])
    if resized:
        from torchvision.transforms import functional as transform  # imported here: it takes a worker seconds

        image = transform.resize(image, SHORTER_SIDE)  # bilinear
        image = transform.center_crop(image, [height, width])
    pixels_HWC = np.array(image).reshape(height, width, channels)
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous().float().div(255)


def _refuse_deep(image: Image.Image, name: str) -> None:
    # Pillow would cut these off at 255, or drop their lower bits: another image, certified as if it were the real one.
    stored = deeper_than_8_bits(image)
    if stored is not None:
        raise PointError(f"{name}: its pixels are deeper than 8 bits ({stored}); store it with 8 bits")


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """PointError, which starts with `name`, for whatever a decoder raises."""
    try:
        yield
    except PointError:
        raise
    except Exception as error:  # Decoders raise nearly anything on damaged bytes: OSError, SyntaxError, struct.error.
        reason = "Pillow knows no such image format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise PointError(f"{name}: not readable as an image ({type(error).__name__}: {reason})") from error


def _channels_first(pixels: Tensor, input_shape: tuple[int, int, int], may_be_last: bool, name: str) -> Tensor:
    """The pixels seen as (C, H, W). Raises PointError for a shape that the model does not take."""
    channels, height, width = input_shape
    shape, channels_last = tuple(pixels.shape), (height, width, channels)
    if channels == 1 and shape == (height, width):
        return pixels[None]
    if may_be_last and input_shape == channels_last and channels > 1 and shape == input_shape:
        raise PointError(
            f"{name}: the array's shape {shape} could have its channels first or last, for a model that takes "
            f"{input_shape}: give a torch tensor, channels first"
        )
    if shape == input_shape:
        return pixels
    if may_be_last and shape == channels_last:
        return pixels.permute(2, 0, 1)
    expected = f"{input_shape}" + (f", or {channels_last} with the channels last" if may_be_last else "")
    turn = "; its channels are last: permute(2, 0, 1)" if shape == channels_last else ""
    raise ShapeError(f"{name}: has the shape {shape}, the model takes {expected}{turn}")


def _check_pixel_type(dtype: object, known: bool, name: str) -> None:
    if not known:
        raise PointError(f"{name}: its pixels are {dtype}, expected uint8 (0 to 255) or floating point (0 to 1)")


def _check_range(x_CHW: Tensor, name: str) -> None:
    low, high = x_CHW.min().item(), x_CHW.max().item()
    if not (low >= 0 and high <= 1):  # not so for NaN either
        advice = "divide by 255" if low >= 0 and 1 < high <= 255 else "give the pixels without normalisation"
        raise PointError(f"{name}: its pixels go from {low:.6g} to {high:.6g}, expected 0 to 1: {advice}")


def _pixels_when_resized(size: tuple[int, int]) -> float:
    return SHORTER_SIDE**2 * max(size) / min(size)


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
