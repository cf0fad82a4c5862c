"""Reads a JPEG's compressed data through, symbol by symbol, to find damage that decoders pass over.

A decoder fills up with grey what is missing before the end marker, goes on after a code that does not exist, and calls
that a warning, which Pillow drops. Source of the format: ITU-T T.81. Huffman-coded files alone, sequential or
progressive; what others hold is the decoder's affair.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from srs_ray.solvers.compiling import Array, compiled

FAULTS = (
    "",
    "its compressed data end before the image does",
    "its compressed data hold a code that does not exist",
    "a restart marker is missing or out of order",
    "its compressed data go on after the image has ended",
    "its headers contradict each other",
)
WHOLE, ENDS_EARLY, NO_SUCH_CODE, NO_RESTART, GOES_ON, WRONG_HEADER = range(6)
_SOI, _EOI, _SOS, _DHT, _DRI = 0xD8, 0xD9, 0xDA, 0xC4, 0xDD
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
NEVER_SENT = 99


@dataclass
class _Component:
    """A colour component: how many blocks of it an MCU has, its blocks in a scan of its own, and in memory."""

    identity: int
    h: int
    v: int
    blocks_x: int = 0
    blocks_y: int = 0
    stride: int = 0
    nonzero: Array = field(default_factory=lambda: np.zeros(0, np.uint8))  # per coefficient, of a progressive file
    low_bit: Array = field(default_factory=lambda: np.full(64, NEVER_SENT))  # the lowest bit sent of each coefficient


def jpeg_fault(encoded: bytes) -> str | None:
    """What is wrong with a JPEG that a decoder has decoded, in words; None for a whole one, and for other formats."""
    if encoded[:2] != b"\xff\xd8":
        return None
    try:
        return _Reader(encoded).fault()
    except (IndexError, ValueError, ZeroDivisionError, _WrongHeader):  # a segment is shorter than it says
        return FAULTS[WRONG_HEADER]


class _WrongHeader(Exception):
    """A header that cannot be: no loop may run by it."""


class _Reader:
    def __init__(self, encoded: bytes) -> None:
        self.data = np.frombuffer(encoded, np.uint8)
        self.codes = np.zeros((8, 1 << 16), np.int32)  # by the next 16 bits: length and symbol; DC tables, then AC
        self.interval = 0
        self.progressive = False
        self.components: list[_Component] = []
        self.mcus = (0, 0)

    def fault(self) -> str | None:
        at = 2
        while True:
            while self.data[at] != 0xFF:  # libjpeg skips it, and no pixel comes of it
                at += 1
            while self.data[at] == 0xFF:
                at += 1
            marker, at = int(self.data[at]), at + 1
            if marker == _EOI:
                return self._incomplete()
            if marker in _WITHOUT_LENGTH or marker == 0:
                continue
            start, at = at + 2, at + self._word(at)
            if marker == _DHT:
                self._read_codes(start, at)
            elif marker == _DRI:
                self.interval = self._word(start)
            elif marker in (*_SEQUENTIAL, _PROGRESSIVE):
                self.progressive = marker == _PROGRESSIVE
                self._read_frame(start)
            elif marker in _FRAMES:
                return None
            elif marker == _SOS:
                found, at = self._read_scan(start, at)
                if found:
                    return FAULTS[found]

    def _word(self, at: int) -> int:
        return int(self.data[at]) << 8 | int(self.data[at + 1])

    def _read_codes(self, at: int, end: int) -> None:
        while at < end:
            table, counts = int(self.data[at]), self.data[at + 1 : at + 17].astype(int)
            at += 17
            lengths = np.repeat(np.arange(1, 17), counts)
            entries = np.repeat(lengths << 8 | self.data[at : at + len(lengths)], 1 << 16 - lengths)
            row = self.codes[4 * (table >> 4) + (table & 3)]
            if len(entries) > len(row):
                raise _WrongHeader
            row[:] = 0
            row[: len(entries)] = entries
            at += len(lengths)

    def _read_frame(self, at: int) -> None:
        if self.components:
            raise _WrongHeader
        height, width = self._word(at + 1), self._word(at + 3)
        places = range(at + 6, at + 6 + 3 * int(self.data[at + 5]), 3)
        self.components = [
            _Component(int(self.data[place]), int(self.data[place + 1]) >> 4, int(self.data[place + 1]) & 15)
            for place in places
        ]
        h, v = max(each.h for each in self.components), max(each.v for each in self.components)
        self.mcus = -(-width // (8 * h)), -(-height // (8 * v))
        for each in self.components:
            each.blocks_x, each.blocks_y = -(-width * each.h // (8 * h)), -(-height * each.v // (8 * v))
            each.stride = self.mcus[0] * each.h
            if self.progressive:
                each.nonzero = np.zeros(64 * each.stride * self.mcus[1] * each.v, np.uint8)

    def _read_scan(self, at: int, first: int) -> tuple[int, int]:
        """The fault, or WHOLE, and where the scan ends."""
        count = int(self.data[at])
        chosen, tables = [], []
        known = {each.identity: each for each in self.components}
        for place in range(at + 1, at + 1 + 2 * count, 2):
            if int(self.data[place]) not in known:
                raise _WrongHeader
            chosen.append(known[int(self.data[place])])
            tables.append((int(self.data[place + 1]) >> 4 & 3, 4 + (int(self.data[place + 1]) & 3)))
        at += 1 + 2 * count
        low, high, bits = int(self.data[at]), int(self.data[at + 1]), int(self.data[at + 2])
        if not self.progressive:
            low, high, bits = 0, 63, 0
        if not (1 <= count <= 4 and low <= high <= 63):
            raise _WrongHeader
        for each in chosen:
            each.low_bit[low : high + 1] = bits & 15
        alone = chosen[0] if count == 1 else None
        blocks = [  # of an MCU: component, column, row
            (number, dx, dy)
            for number, each in enumerate(chosen)
            for dy in range(1 if alone else each.v)
            for dx in range(1 if alone else each.h)
        ]
        size = [(1, 1, each.stride) if alone else (each.h, each.v, each.stride) for each in chosen]
        mcus = (alone.blocks_x, alone.blocks_y) if alone else self.mcus
        nonzero = [each.nonzero for each in chosen]
        found, end = _scan(
            self.data,
            first,
            self.codes,
            np.array(tables),
            np.array(blocks),
            np.array(size),
            mcus[0],
            mcus[0] * mcus[1],
            self.interval,
            self.progressive,
            np.array([low, high, bits >> 4]),
            nonzero[0],
            nonzero[1] if count > 1 else nonzero[0],
            nonzero[2] if count > 2 else nonzero[0],
            nonzero[3] if count > 3 else nonzero[0],
        )
        return int(found), int(end)

    def _incomplete(self) -> str | None:
        """Scans that never came: they leave a blurred or a colourless image."""
        whole = all((each.low_bit == 0).all() for each in self.components)
        return None if whole and self.components else FAULTS[ENDS_EARLY]


@compiled
def _fill(data: Array, reader: Array) -> None:
    """Takes bytes into the reader (place, bits, number of bits), up to the next marker."""
    while reader[2] <= 48 and reader[0] < len(data):
        byte = np.int64(data[reader[0]])
        if byte == 0xFF:
            if reader[0] + 1 >= len(data) or data[reader[0] + 1] != 0:
                return
            reader[0] += 1
        reader[0] += 1
        reader[1] = reader[1] << 8 | byte
        reader[2] += 8


@compiled
def _bits(data: Array, reader: Array, count: int) -> int:
    """The next bits as a number, or -ENDS_EARLY."""
    if reader[2] < count:
        _fill(data, reader)
        if reader[2] < count:
            return -ENDS_EARLY
    reader[2] -= count
    value = reader[1] >> reader[2]
    reader[1] &= (1 << reader[2]) - 1
    return value


@compiled
def _symbol(data: Array, reader: Array, codes: Array) -> int:
    """The next symbol, or the fault, negated."""
    if reader[2] < 16:
        _fill(data, reader)
    there = reader[2]
    ahead = reader[1] >> there - 16 if there >= 16 else reader[1] << 16 - there
    length = codes[ahead] >> 8
    if length == 0 or length > there:
        return -NO_SUCH_CODE if length == 0 and there >= 16 else -ENDS_EARLY
    reader[2] -= length
    reader[1] &= (1 << reader[2]) - 1
    return codes[ahead] & 0xFF


@compiled
def _sequential_block(data: Array, reader: Array, dc_codes: Array, ac_codes: Array) -> int:
    symbol = _symbol(data, reader, dc_codes)
    if symbol > 16:
        return NO_SUCH_CODE
    if symbol < 0 or _bits(data, reader, symbol) < 0:
        return -symbol if symbol < 0 else ENDS_EARLY
    k = 1
    while k < 64:
        symbol = _symbol(data, reader, ac_codes)
        if symbol < 0:
            return -symbol
        run, size = symbol >> 4, symbol & 15
        if size == 0 and run < 15:
            break
        k += run
        if k > 63:
            return NO_SUCH_CODE
        if _bits(data, reader, size) < 0:
            return ENDS_EARLY
        k += 1
    return WHOLE


@compiled
def _progressive_block(data: Array, reader: Array, dc_codes: Array, ac_codes: Array, band: Array, zz: Array) -> int:
    """A block of one scan. `reader[3]` counts blocks whose band has ended; `zz` says which coefficients are not 0."""
    low, high, refines = band[0], band[1], band[2] > 0
    if low == 0:
        if refines:
            return ENDS_EARLY if _bits(data, reader, 1) < 0 else WHOLE
        symbol = _symbol(data, reader, dc_codes)
        if symbol > 16:
            return NO_SUCH_CODE
        if symbol < 0 or _bits(data, reader, symbol) < 0:
            return -symbol if symbol < 0 else ENDS_EARLY
        return WHOLE
    k = low
    while k <= high and reader[3] == 0:
        symbol = _symbol(data, reader, ac_codes)
        if symbol < 0:
            return -symbol
        run, size = symbol >> 4, symbol & 15
        if size == 0 and run < 15:
            more = _bits(data, reader, run)
            if more < 0:
                return ENDS_EARLY
            reader[3] = (1 << run) + more
            break
        if refines and size > 1:
            return NO_SUCH_CODE
        if _bits(data, reader, size) < 0:
            return ENDS_EARLY
        if refines:
            while k <= high:
                if zz[k]:
                    if _bits(data, reader, 1) < 0:
                        return ENDS_EARLY
                elif run == 0:
                    break
                else:
                    run -= 1
                k += 1
        else:
            k += run
        if k > high:
            return NO_SUCH_CODE if size else WHOLE
        if size:
            zz[k] = 1
        k += 1
    if reader[3] > 0:
        if refines:
            while k <= high:
                if zz[k] and _bits(data, reader, 1) < 0:
                    return ENDS_EARLY
                k += 1
        reader[3] -= 1
    return WHOLE


@compiled
def _scan(
    data: Array,
    first: int,
    codes: Array,
    tables: Array,
    blocks: Array,
    size: Array,
    mcus_x: int,
    mcus: int,
    interval: int,
    progressive: bool,
    band: Array,
    nonzero_0: Array,
    nonzero_1: Array,
    nonzero_2: Array,
    nonzero_3: Array,
) -> tuple[int, int]:
    """Reads a scan from `first` on: the fault, or WHOLE, and where it ends."""
    reader = np.zeros(4, np.int64)
    reader[0] = first
    restarts = 0
    for mcu in range(mcus):
        if interval > 0 and mcu > 0 and mcu % interval == 0:
            _fill(data, reader)
            at = reader[0]
            if reader[2] >= 8 or at + 1 >= len(data):
                return (GOES_ON if reader[2] >= 8 else ENDS_EARLY), at
            while at + 1 < len(data) and data[at] == 0xFF:
                at += 1
            if data[at] != 0xD0 + restarts % 8:
                return NO_RESTART, at
            reader[0], reader[1], reader[2], reader[3] = at + 1, 0, 0, 0
            restarts += 1
        for b in range(len(blocks)):
            component, dx, dy = blocks[b]
            dc_codes, ac_codes = codes[tables[component, 0]], codes[tables[component, 1]]
            if not progressive:
                found = _sequential_block(data, reader, dc_codes, ac_codes)
            else:
                h, v, stride = size[component]
                place = 64 * ((mcu // mcus_x * v + dy) * stride + mcu % mcus_x * h + dx)
                if component == 0:
                    zz = nonzero_0[place : place + 64]
                elif component == 1:
                    zz = nonzero_1[place : place + 64]
                elif component == 2:
                    zz = nonzero_2[place : place + 64]
                else:
                    zz = nonzero_3[place : place + 64]
                found = _progressive_block(data, reader, dc_codes, ac_codes, band, zz)
            if found != WHOLE:
                return found, reader[0]
    _fill(data, reader)
    if reader[2] >= 8:
        return GOES_ON, reader[0]
    return WHOLE, reader[0]
