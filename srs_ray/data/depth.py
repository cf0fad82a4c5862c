"""Tells images whose channels have more than 8 bits: of colour images Pillow drops the lower bits without a word."""

from __future__ import annotations

from PIL import Image

_TIFF_BITS_PER_SAMPLE = 258  # the tag's number


def deeper_than_8_bits(image: Image.Image) -> str | None:
    """How the image is stored, in words, if its channels have more than 8 bits, else None.

    Of colour images in PNG, PPM and SGI files that is only known until Pillow has loaded the pixels; of JPEG 2000 and
    AVIF never.
    """
    if image.mode.startswith(("I", "F")):
        return f"Pillow mode {image.mode}"
    bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (8,))
    if max(bits) > 8:
        return f"TIFF with {max(bits)} bits per sample"
    for decoder, _, _, layout in getattr(image, "tile", []):
        if decoder == "SGI16" or ";16" in str(layout):
            return f"{image.format} with 16 bits per sample"
        if decoder in ("ppm", "ppm_plain") and isinstance(layout, tuple) and layout[1] > 255:
            return f"PPM with a largest value of {layout[1]}"
    return None
