"""Any stored image becomes exactly the model's input, or says why it cannot."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from srs_ray.data.images import decode, image_tensor, preprocessing_name
from srs_ray.data.jpeg import ENDS_EARLY, FAULTS, GOES_ON, NO_RESTART, jpeg_fault
from srs_ray.data.png import png_fault
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


def png(colour_type: int, bits: int) -> bytes:
    """A PNG of 32x32 by hand, since Pillow writes no deep colour: 2 is RGB, 4 gray with alpha, 6 RGBA."""
    row = b"\0" + bytes(range(32)) * ({2: 3, 4: 2, 6: 4}[colour_type] * bits // 8)
    header = struct.pack(">IIBBBBB", 32, 32, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(row * 32)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def tiff(bits: int, planar: bool = False) -> bytes:
    """An uncompressed little-endian RGB TIFF of 32x32, its channels side by side or one after the other."""
    channel = 32 * 32 * bits // 8
    parts, size = (3, channel) if planar else (1, 3 * channel)
    entries = 10
    bits_at = 8 + 2 + 12 * entries + 4
    offsets_at, counts_at = bits_at + 6, bits_at + 6 + 4 * parts
    start = counts_at + 4 * parts
    offsets = [start + part * size for part in range(parts)]
    short, long = 3, 4
    tags = [
        (256, short, 1, 32),
        (257, short, 1, 32),
        (258, short, 3, bits_at),
        (259, short, 1, 1),
        (262, short, 1, 2),
        (273, long, parts, offsets_at if planar else start),
        (277, short, 1, 3),
        (278, short, 1, 32),
        (279, long, parts, counts_at if planar else size),
        (284, short, 1, 2 if planar else 1),
    ]
    listed = struct.pack("<H", entries) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    lists = struct.pack(f"<3H{parts}I{parts}I", bits, bits, bits, *offsets, *[size] * parts)
    return b"II*\0" + struct.pack("<I", 8) + listed + lists + bytes(range(32)) * (3 * channel // 32)


def ppm(magic: str, largest: int) -> bytes:
    header = f"{magic} # by hand\n32 32\n{largest}\n".encode()
    if magic == "P3":
        return header + b"7 " * (32 * 32 * 3)
    return header + bytes([0, 7] if largest > 255 else [7]) * (32 * 32 * 3)


def sgi(bytes_each: int) -> bytes:
    header = struct.pack(">HBBHHHHII", 474, 0, bytes_each, 3, 32, 32, 3, 0, 255)
    return header.ljust(512, b"\0") + bytes(32 * 32 * 3 * bytes_each)


SHALLOW_AND_DEEP = {
    **{f"PNG colour type {colour}": (png(colour, 8), png(colour, 16)) for colour in (2, 4, 6)},
    "TIFF": (tiff(8), tiff(16)),
    "TIFF, planar": (tiff(8, planar=True), tiff(16, planar=True)),
    "PPM": (ppm("P6", 255), ppm("P6", 65535)),
    "PPM, one level more": (ppm("P6", 15), ppm("P6", 256)),
    "PPM, plain": (ppm("P3", 255), ppm("P3", 1023)),
    "SGI": (sgi(1), sgi(2)),
}


@pytest.mark.parametrize("file_format", SHALLOW_AND_DEEP)
@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_sixteen_bit_colours_are_refused_and_those_of_eight_are_read(file_format, shape):
    shallow, deep = SHALLOW_AND_DEEP[file_format]
    assert decode(shallow, shape, "a").shape == shape
    assert image_tensor(Image.open(BytesIO(shallow)), shape, "a").shape == shape
    reason = r"^a: its pixels are deeper than 8 bits \(.*\); store it with 8 bits$"
    with pytest.raises(PointError, match=reason):
        decode(deep, shape, "a")
    with pytest.raises(PointError, match=reason):
        image_tensor(Image.open(BytesIO(deep)), shape, "a")


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


LAYOUTS = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"subsampling": 1, "optimize": True},
    {"quality": 100, "progressive": True},
    {"quality": 3},
    {"restart_marker_blocks": 2},
    {"restart_marker_rows": 1, "progressive": True},
]


@pytest.mark.parametrize("options", LAYOUTS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_jpegs_of_every_layout_are_read(picture, encoded, options, mode):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8))
    for image in (picture(), picture(61, 45), noise, Image.new("RGB", (8, 17), "white"), picture(1, 1)):
        content = encoded(image.convert(mode), "JPEG", **options)
        assert jpeg_fault(content) is None
        assert jpeg_fault(content + b"what follows the end is not looked at") is None


@pytest.mark.parametrize("options", LAYOUTS)
def test_a_jpeg_cut_short_and_given_an_end_marker_is_refused(picture, encoded, options):
    whole = encoded(picture(64, 64), "JPEG", **options)
    first = whole.index(b"\xff\xda") + 14
    for length in [*range(first, len(whole) - 2, 7), len(whole) - 3]:
        content = whole[:length] + b"\xff\xd9"
        assert jpeg_fault(content) is not None, length
    with pytest.raises(PointError, match=r"^a\.jpg: the image is damaged: its compressed data end before the image"):
        decode(whole[:-3] + b"\xff\xd9", LARGE, "a.jpg")


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\x5a\xa5"])
def test_a_jpeg_of_which_a_sector_was_overwritten_is_refused(picture, encoded, filler):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    whole = encoded(noise, "JPEG")
    damaged = whole[:2048] + (filler * 1024)[:1024] + whole[3072:]
    with pytest.raises(PointError, match=r"^a\.jpg: (the image is damaged|not readable)"):
        decode(damaged, LARGE, "a.jpg")


def test_a_jpeg_with_data_that_its_image_does_not_use_is_refused(picture, encoded):
    whole = encoded(picture(64, 64), "JPEG")
    assert jpeg_fault(whole[:-2] + bytes(10) + whole[-2:]) == FAULTS[GOES_ON]
    restarts = encoded(picture(64, 64), "JPEG", restart_marker_blocks=2)
    at = restarts.index(b"\xff\xd0")
    assert jpeg_fault(restarts[:at] + bytes(10) + restarts[at:]) == FAULTS[GOES_ON]
    assert jpeg_fault(restarts[:at] + b"\xff\xd3" + restarts[at + 2 :]) == FAULTS[NO_RESTART]


def test_a_progressive_jpeg_that_lacks_its_last_scans_is_refused(picture, encoded):
    whole = encoded(picture(64, 64), "JPEG", progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
    assert len(scans) > 6
    for at in scans[1:]:
        assert jpeg_fault(whole[:at] + b"\xff\xd9") == FAULTS[ENDS_EARLY]


def test_a_png_with_a_changed_byte_of_its_pixels_is_refused(picture, encoded):
    whole = encoded(picture())
    assert png_fault(whole) is None
    start = whole.index(b"IDAT") + 4
    for place in range(start, whole.index(b"IEND") - 4):
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises(PointError, match=r"^a\.png: "):
            decode(changed, SMALL, "a.png")


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the ImageNet sample is not there")
def test_no_real_photograph_is_called_damaged():
    files = sorted(SAMPLE.glob("*/*.JPEG"))[::4]
    assert [file.name for file in files if jpeg_fault(file.read_bytes()) is not None] == []


def test_the_damaged_cases_are_refused_and_the_whole_one_is_read(shared):
    folder = shared / "cases" / "jpeg-cut-short-with-eoi"
    decode((folder / "whole.jpg").read_bytes(), LARGE, "whole.jpg")
    for name in ("cut.jpg", "cut-eoi.jpg", "zeroed-sector.jpg"):
        with pytest.raises(PointError, match=rf"^{name}: "):
            decode((folder / name).read_bytes(), LARGE, name)
