"""Philox (Salmon et al., SC 2011): 4x32 in integers, by torch on any device and compiled on a CPU; 4x64 is numpy's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from srs_ray.smoothing.domain import Domain
from srs_ray.solvers.compiling import Array, compiled

WORD = 0xFFFFFFFF
NUMPY_VERSION = 1  # of the counter of what numpy's Philox draws


def philox4x32(counter: Sequence[Tensor], key: tuple[int, int], rounds: int = 10) -> list[Tensor]:
    """The four 32-bit words that Philox4x32 makes of counters and a key; words lie in int64 tensors that broadcast.

    A product of two words wraps around in int64, which leaves its 64 bits as they are: both halves can be read off.
    Upper halves of c1 and c3 are cut off where they would be read: with those of the words that they are xored to.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((second >> 32) ^ c1).bitwise_xor_(k0), ((first >> 32) ^ c3).bitwise_xor_(k1)
        c0, c1, c2, c3 = c0.bitwise_and_(WORD), second, c2.bitwise_and_(WORD), first
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return [c0, c1 & WORD, c2, c3 & WORD]


@compiled
def words_of_blocks(key: tuple[int, int], counter: tuple[int, int, int], word_D: Array) -> None:
    """Writes 64-bit words: two of each block 0, 1, ..., whose counter is (block, *counter)."""
    word = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    for block in range(len(word_D) // 2):
        c0, c1 = np.uint64(block), np.uint64(counter[0])
        c2, c3 = np.uint64(counter[1]), np.uint64(counter[2])
        k0, k1 = np.uint64(key[0]), np.uint64(key[1])
        for _ in range(10):
            first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
            c0, c1 = (second >> half) ^ c1 ^ k0, second & word
            c2, c3 = (first >> half) ^ c3 ^ k1, first & word
            k0, k1 = (k0 + np.uint64(0x9E3779B9)) & word, (k1 + np.uint64(0xBB67AE85)) & word
        word_D[2 * block] = (c0 << half) | c1
        word_D[2 * block + 1] = (c2 << half) | c3


def counted(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Numbers as an int64 tensor; a range is counted out on the device, a list has to be taken there."""
    if isinstance(numbers, range):
        return torch.arange(numbers.start, numbers.stop, numbers.step, device=device)
    return torch.tensor(numbers, device=device)


def numpy_philox(seed: int, point: int, stage: Domain, sample: int = 0) -> np.random.Philox:
    """numpy's Philox4x64-10 with the key (seed, point) and the counter (0, sample, stage, version)."""
    key = np.array([seed, point], dtype=np.uint64)
    counter = np.array([0, sample, stage, NUMPY_VERSION], dtype=np.uint64)
    return np.random.Philox(counter=counter, key=key)


def numpy_generator(seed: int, point: int, stage: Domain, sample: int = 0) -> np.random.Generator:
    """numpy's generator on `numpy_philox`."""
    return np.random.Generator(numpy_philox(seed, point, stage, sample))
