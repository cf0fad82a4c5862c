"""Compares a PNG's checksums; Pillow skips those of the pixels."""

from __future__ import annotations

import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_fault(encoded: bytes) -> str | None:
    """What is wrong with a PNG that a decoder has decoded, in words; None for a whole one, and for other formats.

    Only chunks that pixels depend on count: those whose names begin with a capital letter (ISO 15948, 5.4).
    """
    if not encoded.startswith(_SIGNATURE):
        return None
    at = len(_SIGNATURE)
    while at + 12 <= len(encoded):
        length, name = int.from_bytes(encoded[at : at + 4], "big"), encoded[at + 4 : at + 8]
        end = at + 8 + length
        critical = name[:1].isupper()
        if critical and zlib.crc32(encoded[at + 4 : end]).to_bytes(4, "big") != encoded[end : end + 4]:
            return f"the checksum of its chunk {name.decode('ascii', 'replace')} is not that of its bytes"
        if name == b"IEND":
            return None
        at = end + 4
    return "its last chunk is missing"
