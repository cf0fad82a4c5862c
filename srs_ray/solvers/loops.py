"""The arithmetic of Anderson's and Broyden's memories on a CPU, compiled: each state goes through the cache once.

Each loop takes the samples of a batch one by one, on one thread, and carries on values that are not finite.
Shapes: B samples, D elements of a state, M entries of a solver's memory.
"""

from __future__ import annotations

import numpy as np

from srs_ray.solvers.compiling import Array, compiled

PIECE = 2048  # elements of a state that stay in a core's cache from one sum to the next


def _dot_product_as_vectors_add_up(a_D: Array, b_D: Array) -> float:
    """In any order, which is always the same one: nothing is written."""
    total = a_D.dtype.type(0)
    for i in range(len(a_D)):
        total += a_D[i] * b_D[i]
    return total


_dot_product = compiled(_dot_product_as_vectors_add_up, fastmath=("contract", "reassoc"))


@compiled
def enter_difference(
    z_BD: Array, fz_BD: Array, k_B: Array, g: tuple[Array, ...], products_BM: Array, size_B: Array
) -> None:
    """Makes the last entry `g = f(z) - z`; writes its dot products with a sample's last k + 1 entries, and `|f(z)|`."""
    products_M = np.empty(len(g))
    for b in range(len(z_BD)):
        oldest, square = max(0, len(g) - 1 - k_B[b]), 0.0
        for entry in range(oldest, len(g)):
            products_M[entry] = 0
        for start in range(0, z_BD.shape[1], PIECE):
            stop = min(start + PIECE, z_BD.shape[1])
            z_D, fz_D, g_D = z_BD[b, start:stop], fz_BD[b, start:stop], g[-1][b, start:stop]
            for i in range(len(z_D)):
                g_D[i] = fz_D[i] - z_D[i]
            square += _dot_product(fz_D, fz_D)
            for entry in range(oldest, len(g)):
                products_M[entry] += _dot_product(g[entry][b, start:stop], g_D)
        for entry in range(oldest, len(g)):
            products_BM[b, entry] = products_M[entry]
        size_B[b] = np.sqrt(square)


@compiled
def sum_entries(f: tuple[Array, ...], weight_BM: Array, k_B: Array, next_BD: Array) -> None:
    """Writes the sum of a sample's last k + 1 entries by its weights."""
    for b in range(len(next_BD)):
        oldest = max(0, len(f) - 1 - k_B[b])
        for start in range(0, next_BD.shape[1], PIECE):
            stop = min(start + PIECE, next_BD.shape[1])
            next_D, f_D, weight = next_BD[b, start:stop], f[oldest][b, start:stop], weight_BM[b, oldest]
            for i in range(len(next_D)):
                next_D[i] = weight * f_D[i]
            for entry in range(oldest + 1, len(f)):
                f_D, weight = f[entry][b, start:stop], weight_BM[b, entry]
                for i in range(len(next_D)):
                    next_D[i] += weight * f_D[i]


@compiled
def broyden_step(
    z_BD: Array,
    fz_BD: Array,
    k_B: Array,
    s: tuple[Array, ...],
    weight_MB: Array,
    s_BD: Array,
    weight_B: Array,
    next_BD: Array,
    difference_B: Array,
    size_B: Array,
) -> None:
    """Writes the step s from z, given f(z), of solves that took k steps, its weight, and the iterate `z + s`.

    Entries are earlier steps s_i and their weights 1 / |s_i|^2, as in srs_ray.solvers.anderson; a sample reads the
    last k. An update without a finite factor is skipped. It writes `|f(z) - z|` and `|f(z)|` too.
    """
    one = z_BD.dtype.type(1)
    for b in range(len(z_BD)):
        oldest = max(0, len(s) - k_B[b])
        difference = size = product = square = 0.0
        for start in range(0, z_BD.shape[1], PIECE):
            stop = min(start + PIECE, z_BD.shape[1])
            z_D, fz_D, s_D = z_BD[b, start:stop], fz_BD[b, start:stop], s_BD[b, start:stop]
            for i in range(len(s_D)):
                s_D[i] = fz_D[i] - z_D[i]
            difference += _dot_product(s_D, s_D)
            size += _dot_product(fz_D, fz_D)
            if oldest < len(s):
                product += _dot_product(s[oldest][b, start:stop], s_D)
        for entry in range(oldest + 1, len(s)):
            share = z_BD.dtype.type(product * weight_MB[entry - 1, b])
            product = 0.0
            for start in range(0, z_BD.shape[1], PIECE):
                stop = min(start + PIECE, z_BD.shape[1])
                entry_D, s_D = s[entry][b, start:stop], s_BD[b, start:stop]
                for i in range(len(s_D)):
                    s_D[i] += share * entry_D[i]
                product += _dot_product(entry_D, s_D)
        factor = one
        if oldest < len(s):
            denominator = one - z_BD.dtype.type(product * weight_MB[-1, b])
            factor = one / denominator
            if not (np.isfinite(denominator) and np.isfinite(factor)):
                factor, weight_MB[-1, b] = one, 0
        for start in range(0, z_BD.shape[1], PIECE):
            stop = min(start + PIECE, z_BD.shape[1])
            z_D, s_D, next_D = z_BD[b, start:stop], s_BD[b, start:stop], next_BD[b, start:stop]
            for i in range(len(s_D)):
                s_D[i] *= factor
            square += _dot_product(s_D, s_D)
            for i in range(len(s_D)):
                next_D[i] = z_D[i] + s_D[i]
        inverse = one / z_BD.dtype.type(square)
        weight_B[b] = inverse if np.isfinite(inverse) else 0
        difference_B[b], size_B[b] = np.sqrt(difference), np.sqrt(size)
