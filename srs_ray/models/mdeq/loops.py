"""What lies between convolutions on a CPU, compiled by Numba: loops that take a sample through the cache once.

Each takes the samples of a batch one by one, on one thread, and carries on values that are not finite.
Shapes: B samples, H and W pixels, C channels, N elements in a row of pixels, D elements of a state; images are
channels-last, also as R rows of L elements, each of some whole pixels. Group normalisation is
`weight (x - mean) / sqrt(variance + EPS) + bias`, the variance that of centred values.
"""

from __future__ import annotations

import numpy as np

from srs_ray.solvers.compiling import Array, compiled

EPS = 1e-5


@compiled
def _sum_groups(sum_L: Array, channels: int, groups: int) -> None:
    """Each element becomes the sum of its group's."""
    size = channels // groups
    for first in range(channels, len(sum_L), channels):
        for c in range(channels):
            sum_L[c] += sum_L[first + c]
    if size > 1:
        for first in range(0, channels, size):
            total = sum_L[first]
            for c in range(first + 1, first + size):
                total += sum_L[c]
            for c in range(first, first + size):
                sum_L[c] = total
    for first in range(channels, len(sum_L), channels):
        for c in range(channels):
            sum_L[first + c] = sum_L[c]


@compiled
def _statistics(x_RL: Array, weight_C: Array, groups: int, mean_L: Array, scale_L: Array) -> None:
    """Each element's mean, and the factor of what it differs from it."""
    channels, count = len(weight_C), x_RL.size // groups
    for i in range(len(mean_L)):
        mean_L[i] = scale_L[i] = 0
    for r in range(x_RL.shape[0]):
        for i in range(x_RL.shape[1]):
            mean_L[i] += x_RL[r, i]
    _sum_groups(mean_L, channels, groups)
    for i in range(len(mean_L)):
        mean_L[i] /= count
    for r in range(x_RL.shape[0]):
        for i in range(x_RL.shape[1]):
            centred = x_RL[r, i] - mean_L[i]
            scale_L[i] += centred * centred
    _sum_groups(scale_L, channels, groups)
    for c in range(channels):
        scale_L[c] = weight_C[c] / np.sqrt(scale_L[c] / count + EPS)
    for first in range(channels, len(scale_L), channels):
        for c in range(channels):
            scale_L[first + c] = scale_L[c]


@compiled
def _lanes(x_RL: Array) -> Array:
    return np.empty(x_RL.shape[1], x_RL.dtype)


@compiled
def _of_each_pixel(values_C: Array, x_RL: Array) -> Array:
    values_L = _lanes(x_RL)
    for i in range(len(values_L)):
        values_L[i] = values_C[i % len(values_C)]
    return values_L


@compiled
def normalize_relu(x_BRL: Array, weight_C: Array, bias_C: Array, groups: int) -> None:
    """`x = relu(norm(x))`"""
    zero = x_BRL.dtype.type(0)
    mean_L, scale_L, bias_L = _lanes(x_BRL[0]), _lanes(x_BRL[0]), _of_each_pixel(bias_C, x_BRL[0])
    for b in range(len(x_BRL)):
        x_RL = x_BRL[b]
        _statistics(x_RL, weight_C, groups, mean_L, scale_L)
        for r in range(x_RL.shape[0]):
            for i in range(x_RL.shape[1]):
                y = (x_RL[r, i] - mean_L[i]) * scale_L[i] + bias_L[i]
                x_RL[r, i] = zero if y < zero else y


@compiled
def normalize_into(x_BRL: Array, weight_C: Array, bias_C: Array, groups: int, z_BD: Array, start: int) -> None:
    """Writes `norm(x)` to the elements of z from `start` on."""
    mean_L, scale_L, bias_L = _lanes(x_BRL[0]), _lanes(x_BRL[0]), _of_each_pixel(bias_C, x_BRL[0])
    for b in range(len(x_BRL)):
        x_RL = x_BRL[b]
        z_RL = z_BD[b, start : start + x_RL.size].reshape(x_RL.shape)
        _statistics(x_RL, weight_C, groups, mean_L, scale_L)
        for r in range(x_RL.shape[0]):
            for i in range(x_RL.shape[1]):
                z_RL[r, i] = (x_RL[r, i] - mean_L[i]) * scale_L[i] + bias_L[i]


@compiled
def end_block(
    x_BRL: Array,
    injection_BRL: Array,
    z_BD: Array,
    start: int,
    weights_2C: Array,
    biases_2C: Array,
    groups: int,
    y_BRL: Array,
) -> None:
    """`y = norm(relu(norm(x + injection) + z))`, z from `start` on; x is lost. An injection may be empty: none."""
    zero = x_BRL.dtype.type(0)
    mean_L, scale_L = _lanes(x_BRL[0]), _lanes(x_BRL[0])
    bias_L, last_bias_L = _of_each_pixel(biases_2C[0], x_BRL[0]), _of_each_pixel(biases_2C[1], x_BRL[0])
    for b in range(len(x_BRL)):
        x_RL, y_RL = x_BRL[b], y_BRL[b]
        z_RL = z_BD[b, start : start + x_RL.size].reshape(x_RL.shape)
        if injection_BRL.size:
            injection_RL = injection_BRL[b]
            for r in range(x_RL.shape[0]):
                for i in range(x_RL.shape[1]):
                    x_RL[r, i] += injection_RL[r, i]
        _statistics(x_RL, weights_2C[0], groups, mean_L, scale_L)
        for r in range(x_RL.shape[0]):
            for i in range(x_RL.shape[1]):
                y = (x_RL[r, i] - mean_L[i]) * scale_L[i] + bias_L[i] + z_RL[r, i]
                x_RL[r, i] = zero if y < zero else y
        _statistics(x_RL, weights_2C[1], groups, mean_L, scale_L)
        for r in range(x_RL.shape[0]):
            for i in range(x_RL.shape[1]):
                y_RL[r, i] = (x_RL[r, i] - mean_L[i]) * scale_L[i] + last_bias_L[i]


@compiled
def add_carried(
    x_BRL: Array,
    weight_C: Array,
    bias_C: Array,
    groups: int,
    times: int,
    relu: bool,
    y_BHN: Array,
) -> None:
    """`y += norm(x)`, each pixel of x taken for times x times ones of y; then `y = relu(y)`, if asked for.

    y_BHN has whole rows of pixels; x is lost.
    """
    zero = x_BRL.dtype.type(0)
    mean_L, scale_L, bias_L = _lanes(x_BRL[0]), _lanes(x_BRL[0]), _of_each_pixel(bias_C, x_BRL[0])
    channels, wide = len(weight_C), y_BHN.shape[2]
    row_N = np.empty(wide, x_BRL.dtype)
    for b in range(len(x_BRL)):
        x_RL, y_HN = x_BRL[b], y_BHN[b]
        _statistics(x_RL, weight_C, groups, mean_L, scale_L)
        for r in range(x_RL.shape[0]):
            for i in range(x_RL.shape[1]):
                x_RL[r, i] = (x_RL[r, i] - mean_L[i]) * scale_L[i] + bias_L[i]
        x_HN = x_RL.reshape(y_HN.shape[0] // times, wide // times)
        for h in range(x_HN.shape[0]):
            coarse_N = x_HN[h]
            if times > 1:
                for start in range(0, len(coarse_N), channels):
                    for place in range(start * times, (start + channels) * times, channels):
                        for c in range(channels):
                            row_N[place + c] = coarse_N[start + c]
                coarse_N = row_N
            for fine in range(h * times, (h + 1) * times):
                y_N = y_HN[fine]
                if relu:
                    for i in range(wide):
                        y = y_N[i] + coarse_N[i]
                        y_N[i] = zero if y < zero else y
                else:
                    for i in range(wide):
                        y_N[i] += coarse_N[i]


@compiled
def relu_beside(x_BPC: Array, z_BD: Array, start: int, y_BPC: Array) -> None:
    """The channels of y become those of relu(x), then those of z from `start` on, P pixels of each."""
    zero = x_BPC.dtype.type(0)
    own = x_BPC.shape[2]
    others = y_BPC.shape[2] - own
    for b in range(len(x_BPC)):
        z_D = z_BD[b]
        for p in range(x_BPC.shape[1]):
            x_C, y_C, at = x_BPC[b, p], y_BPC[b, p], start + p * others
            for c in range(own):
                y_C[c] = zero if x_C[c] < zero else x_C[c]
            for c in range(others):
                y_C[own + c] = z_D[at + c]


@compiled
def add_relus(x_BN: Array, y_BN: Array) -> None:
    """`x = relu(x) + relu(y)`"""
    zero = x_BN.dtype.type(0)
    for b in range(len(x_BN)):
        x_N, y_N = x_BN[b], y_BN[b]
        for i in range(len(x_N)):
            x, y = x_N[i], y_N[i]
            x_N[i] = (zero if x < zero else x) + (zero if y < zero else y)


@compiled
def mean_of_relu(x_BPC: Array, mean_BC: Array) -> None:
    """The mean over P pixels of relu(x)."""
    zero = x_BPC.dtype.type(0)
    for b in range(len(x_BPC)):
        mean_C = mean_BC[b]
        for c in range(len(mean_C)):
            mean_C[c] = 0
        for p in range(x_BPC.shape[1]):
            x_C = x_BPC[b, p]
            for c in range(len(mean_C)):
                mean_C[c] += zero if x_C[c] < zero else x_C[c]
        for c in range(len(mean_C)):
            mean_C[c] /= x_BPC.shape[1]


@compiled
def filter_rows(x_BHN: Array, sum_KL: Array, start: int, stride: int) -> None:
    """The six sums of each tile's rows that Winograd's filtering multiplies (srs_ray.models.mdeq.winograd).

    A row has N elements; the sums of one kind are at `start`, `start + stride`, ... for the tiles of all samples.
    """
    height, wide = x_BHN.shape[1:]
    two, four, five = x_BHN.dtype.type(2), x_BHN.dtype.type(4), x_BHN.dtype.type(5)
    tiles = (height + 3) // 4
    none_N = np.zeros(wide, x_BHN.dtype)
    for b in range(len(x_BHN)):
        for t in range(tiles):
            row, at = 4 * t, start + (b * tiles + t) * stride
            before_N, x0_N = x_BHN[b, row - 1] if t else none_N, x_BHN[b, row]
            x1_N = x_BHN[b, row + 1] if row + 1 < height else none_N
            x2_N = x_BHN[b, row + 2] if row + 2 < height else none_N
            x3_N = x_BHN[b, row + 3] if row + 3 < height else none_N
            after_N = x_BHN[b, row + 4] if row + 4 < height else none_N
            # One row of sums at a time: of several, a compiler would have to know that they do not overlap.
            sum_N = sum_KL[0, at : at + wide]
            for i in range(wide):
                sum_N[i] = four * before_N[i] - five * x1_N[i] + x3_N[i]
            sum_N = sum_KL[1, at : at + wide]
            for i in range(wide):
                sum_N[i] = (x3_N[i] - four * x1_N[i]) + (x2_N[i] - four * x0_N[i])
            sum_N = sum_KL[2, at : at + wide]
            for i in range(wide):
                sum_N[i] = (x3_N[i] - four * x1_N[i]) - (x2_N[i] - four * x0_N[i])
            sum_N = sum_KL[3, at : at + wide]
            for i in range(wide):
                sum_N[i] = (x3_N[i] - x1_N[i]) + two * (x2_N[i] - x0_N[i])
            sum_N = sum_KL[4, at : at + wide]
            for i in range(wide):
                sum_N[i] = (x3_N[i] - x1_N[i]) - two * (x2_N[i] - x0_N[i])
            sum_N = sum_KL[5, at : at + wide]
            for i in range(wide):
                sum_N[i] = five * x2_N[i] - four * x0_N[i] - after_N[i]


@compiled
def join_rows(
    p0_L: Array,
    p1_L: Array,
    p2_L: Array,
    p3_L: Array,
    p4_L: Array,
    p5_L: Array,
    stride: int,
    y_BHN: Array,
) -> None:
    """The rows of outputs from the six products of each tile; the last tile may be cut off."""
    height, wide = y_BHN.shape[1:]
    two, four, eight = y_BHN.dtype.type(2), y_BHN.dtype.type(4), y_BHN.dtype.type(8)
    tiles = (height + 3) // 4
    for b in range(len(y_BHN)):
        for t in range(tiles):
            row, at = 4 * t, (b * tiles + t) * stride
            p0_N, p1_N, p2_N = p0_L[at : at + wide], p1_L[at : at + wide], p2_L[at : at + wide]
            p3_N, p4_N, p5_N = p3_L[at : at + wide], p4_L[at : at + wide], p5_L[at : at + wide]
            y_N = y_BHN[b, row]
            for i in range(wide):
                y_N[i] = p0_N[i] + (p1_N[i] + p2_N[i]) + (p3_N[i] + p4_N[i])
            if row + 1 < height:
                y_N = y_BHN[b, row + 1]
                for i in range(wide):
                    y_N[i] = (p1_N[i] - p2_N[i]) + two * (p3_N[i] - p4_N[i])
            if row + 2 < height:
                y_N = y_BHN[b, row + 2]
                for i in range(wide):
                    y_N[i] = (p1_N[i] + p2_N[i]) + four * (p3_N[i] + p4_N[i])
            if row + 3 < height:
                y_N = y_BHN[b, row + 3]
                for i in range(wide):
                    y_N[i] = p5_N[i] + (p1_N[i] - p2_N[i]) + eight * (p3_N[i] - p4_N[i])
