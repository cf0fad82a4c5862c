"""Any stored image becomes exactly the model's input, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from srs_ray.data.images import decode, preprocessing_name
from srs_ray.errors import PointError

SMALL = (3, 32, 32)
LARGE = (3, 224, 224)
SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample"


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def test_a_lossless_image_of_the_right_size_keeps_its_pixels(picture, encoded):
    x_CHW = decode(encoded(picture()), SMALL, "a.png")
    assert x_CHW.dtype == torch.float32
    assert torch.equal(x_CHW, as_tensor(picture()))


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("L", "PNG"), ("L", "JPEG"), ("LA", "PNG"), ("1", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("P", "PNG")],
)
@pytest.mark.parametrize("shape", [SMALL, (1, 32, 32), LARGE, (1, 224, 224)])
def test_every_colour_mode_gives_the_input_shape_in_the_unit_range(picture, encoded, mode, file_format, shape):
    x_CHW = decode(encoded(picture().convert(mode), file_format), shape, "a")
    assert x_CHW.shape == shape
    assert 0 <= x_CHW.min() < x_CHW.max() <= 1


def test_gray_becomes_three_equal_channels(picture, encoded):
    gray = picture().convert("L")
    x_CHW = decode(encoded(gray), SMALL, "a")
    assert torch.equal(x_CHW, torch.from_numpy(np.array(gray)).float().div(255).expand(3, 32, 32))


def test_alpha_is_dropped_and_a_palette_looked_up(picture, encoded):
    with_alpha = picture()
    with_alpha.putalpha(7)
    assert torch.equal(decode(encoded(with_alpha), SMALL, "a"), as_tensor(picture()))
    indexed = picture().convert("P")
    assert torch.equal(decode(encoded(indexed), SMALL, "a"), as_tensor(indexed.convert("RGB")))


@pytest.mark.parametrize(("width", "height"), [(500, 333), (333, 500), (900, 40), (20, 700), (256, 256), (1, 1)])
def test_a_large_input_is_the_fields_resize_256_and_centre_crop_224(picture, encoded, width, height):
    expected = Compose([Resize(256), CenterCrop(224), ToTensor()])(picture(width, height))
    assert torch.equal(decode(encoded(picture(width, height)), LARGE, "a"), expected)


def test_a_size_that_the_model_does_not_take_is_named(picture, encoded):
    with pytest.raises(PointError, match=r"^dog\.png: is 40x32, the model takes 32x32$"):
        decode(encoded(picture(40, 32)), SMALL, "dog.png")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
def test_a_jpeg_cut_anywhere_is_refused_and_never_filled_with_grey(picture, encoded, options):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    whole = encoded(picture(), "JPEG", **options)
    decode(whole, SMALL, "a.jpg")
    for length in range(len(whole)):
        with pytest.raises(PointError, match=r"^a\.jpg: "):
            decode(whole[:length], SMALL, "a.jpg")


def test_a_large_photograph_that_lacks_its_end_is_refused(picture, encoded):
    whole = encoded(picture(640, 480), "JPEG")
    for length in (len(whole) - 1, len(whole) - 100, len(whole) // 2, 1000):
        with pytest.raises(PointError, match=r"^a\.jpg: "):
            decode(whole[:length], LARGE, "a.jpg")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_bytes_that_are_no_image_are_refused_by_name(content):
    with pytest.raises(PointError, match=r"^val/a\.jpg: "):
        decode(content, SMALL, "val/a.jpg")


def test_sixteen_bit_pixels_are_refused_instead_of_cut_off_at_255(encoded):
    deep = Image.fromarray(np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 60)
    with pytest.raises(PointError, match="deeper than 8 bits"):
        decode(encoded(deep), SMALL, "a.png")


def test_a_decompression_bomb_is_refused(picture, encoded, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PointError, match="DecompressionBomb"):
        decode(encoded(picture()), LARGE, "a.png")


def test_an_image_too_narrow_to_be_resized_in_memory_is_refused(picture, encoded):
    with pytest.raises(PointError, match=r"^a\.png: is 1x2000, too narrow"):
        decode(encoded(picture(1, 2000)), LARGE, "a.png")


def test_the_preprocessings_name_tells_apart_whatever_changes_the_pixels():
    shapes = [SMALL, (1, 32, 32), (3, 48, 32), (3, 32, 48), LARGE, (1, 224, 224)]
    assert len({preprocessing_name(shape) for shape in shapes}) == len(shapes)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the ImageNet sample is not there")
def test_real_imagenet_images_equal_the_fields_pipeline():
    pipeline = Compose([Resize(256), CenterCrop(224), ToTensor()])
    for file in sorted(SAMPLE.glob("*/*.JPEG"))[::50]:
        assert torch.equal(decode(file.read_bytes(), LARGE, file.name), pipeline(Image.open(file).convert("RGB")))
