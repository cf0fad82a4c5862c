"""Noise on the image grid: its law against 40 digits, its counters, its bits, and what float noise gives away."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

import srs_ray
from srs_ray.smoothing.bounds import p_lower
from srs_ray.smoothing.law import Law, float_law
from srs_ray.smoothing.noise import Domain, GridNoise, NoisyPoint, Philox4x64
from srs_ray.smoothing.noise.grid import drawn_by_tensors, inverted, signed_thresholds
from srs_ray.smoothing.noise.philox import words_of_blocks
from srs_ray.smoothing.noise.table import table_of

GRID = GridNoise(torch.device("cpu"))
SIGMAS = pytest.mark.parametrize("sigma", [0.001, 0.12, 0.25, 0.5])


@SIGMAS
def test_thresholds_are_the_laws_cumulative_probabilities_to_the_last_bit(sigma: float) -> None:
    table = table_of(sigma)
    with mpmath.workdps(40):
        for place, threshold in enumerate(table.thresholds.tolist()):
            j = place - table.lowest
            exact = mpmath.ncdf((j + mpmath.mpf("0.5")) / (255 * mpmath.mpf(sigma))) * 2**64
            assert abs(exact - threshold) <= mpmath.mpf("0.5") + mpmath.mpf("1e-15")
        beyond = mpmath.ncdf(-(table.lowest + mpmath.mpf("0.5")) / (255 * mpmath.mpf(sigma))) * 2**64
        assert beyond <= 0.5  # the first tail that is left out


@pytest.mark.parametrize(("sigma", "claimed"), [(0.12, 5.3e-18), (0.25, 1.06e-17), (0.5, 2.1e-17), (1.0, 4.2e-17)])
def test_the_deviation_is_the_total_variation_distance_from_the_law(sigma: float, claimed: float) -> None:
    table = table_of(sigma)
    counts = np.diff([0, *table.thresholds.tolist(), 2**64])
    with mpmath.workdps(40):
        step = 1 / (255 * mpmath.mpf(sigma))
        edges = [mpmath.mpf(0), *((j + mpmath.mpf("0.5")) * step for j in range(-table.lowest, table.lowest))]
        levels = [mpmath.ncdf(edge) for edge in edges[1:]]
        exact = [levels[0], *(b - a for a, b in pairwise(levels)), mpmath.ncdf(-edges[-1])]
        apart = sum(abs(p - mpmath.mpf(int(count)) / 2**64) for p, count in zip(exact, counts, strict=True)) / 2
        # The outermost entries stand for all beyond them, which are not drawn: that mass counts once more.
        apart += 2 * mpmath.ncdf(-(table.lowest + mpmath.mpf("0.5")) * step)
    assert float(apart) * 0.98 <= table.deviation <= claimed
    assert GRID.law(sigma, 3072).deviation == pytest.approx(3072 * table.deviation, rel=1e-12)


def test_a_law_of_wrong_thresholds_is_found_out() -> None:
    """Thresholds by float64's cumulative probabilities are further from the law than is claimed, a thousandfold."""
    table = table_of(0.5)
    exact = table.thresholds.astype(np.float64) / 2.0**64
    floats = stats.norm.cdf((np.arange(-table.lowest, table.lowest) + 0.5) / 127.5)
    assert np.abs(exact - floats).max() > 1000 * 2.0**-64
    assert np.abs(exact - floats).max() < 1e-15


@pytest.mark.parametrize("sigma", [0.01, 0.25, 0.5])
def test_the_draws_have_the_law_by_chi_square(sigma: float) -> None:
    j = GRID.draws(sigma, 11, 4, Domain.ESTIMATION, range(300), 4096).numpy().ravel()
    table = table_of(sigma)
    ends = [0.0, *(table.thresholds.astype(np.float64) / 2.0**64), 1.0]
    expected = np.diff(ends) * j.size
    observed = np.bincount(j + table.lowest, minlength=len(expected))
    many = expected >= 50
    observed_of, expected_of = [*observed[many], observed[~many].sum()], [*expected[many], expected[~many].sum()]
    if expected_of[-1] < 5:
        observed_of, expected_of = observed_of[:-1], expected_of[:-1]
    scale = sum(observed_of) / sum(expected_of)
    assert stats.chisquare(observed_of, [scale * e for e in expected_of]).pvalue > 1e-4
    assert np.corrcoef(j[:-1], j[1:])[0, 1] == pytest.approx(0, abs=4 / np.sqrt(j.size))


def philox_in_integers(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, int]:
    """The two 64-bit words of a block of Philox4x32-10, in Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [second >> 32 ^ c[1] ^ k[0], second & 0xFFFFFFFF, first >> 32 ^ c[3] ^ k[1], first & 0xFFFFFFFF]
        k = [k[0] + 0x9E3779B9 & 0xFFFFFFFF, k[1] + 0xBB67AE85 & 0xFFFFFFFF]
    return c[0] << 32 | c[1], c[2] << 32 | c[3]


@pytest.mark.parametrize(
    ("seed", "point", "stage", "sample"),
    [(0, 0, Domain.SELECTION, 0), (2**62 + 5, 49_999, Domain.ESTIMATION, 99_999), (7, 2**32 - 1, 4, 2**32 - 1)],
)
def test_the_key_and_the_counter_are_those_of_the_docstring(seed, point, stage, sample) -> None:
    table = table_of(0.5)
    thresholds = table.thresholds.tolist()
    expected = []
    for block in range(4):
        key, counter = (seed % 2**32, point), (block, sample, stage + (2 << 8), seed // 2**32)
        expected += [bisect_right(thresholds, word) - table.lowest for word in philox_in_integers(counter, key)]
    assert GRID.draws(0.5, seed, point, stage, [sample], 7)[0].tolist() == expected[:7]


def test_counters_are_one_to_one() -> None:
    """No two of (seed, point, stage, sample, element // 2) share key and counter: each has bits of its own."""
    at = [(s, p, d, n) for s in (0, 1, 2**32, 2**62) for p in (0, 1, 2**31) for d in Domain for n in (0, 1, 256)]
    blocks = {(seed % 2**32, point, sample, stage + (2 << 8), seed // 2**32) for seed, point, stage, sample in at}
    assert len(blocks) == len(at)
    drawn = {GRID.draws(0.5, s, p, d, [n], 16).numpy().tobytes() for s, p, d, n in at}
    assert len(drawn) == len(at)


def test_a_sample_is_the_same_alone_in_any_order_and_for_a_larger_image() -> None:
    together = GRID.draws(0.5, 5, 17, Domain.ESTIMATION, [3, 0, 1, 9], 51)
    for row, sample in enumerate([3, 0, 1, 9]):
        alone = GRID.draws(0.5, 5, 17, Domain.ESTIMATION, [sample], 102)
        assert torch.equal(alone[0, :51], together[row])


@pytest.mark.parametrize("size", [1, 2, 3073])
def test_tensor_operations_of_any_device_give_the_bits_of_the_compiled_loop(size: int) -> None:
    table, key, rest = table_of(0.25), (3, 2**32 - 1), (1 + (2 << 8), 77)
    numbers = range(5, 12)
    tensors = drawn_by_tensors(signed_thresholds(table), table.lowest, key, numbers, rest, size)
    loops = GRID.draws(0.25, 3 + (77 << 32), 2**32 - 1, Domain.ESTIMATION, numbers, size)
    assert torch.equal(tensors, loops)
    assert tensors.dtype == torch.int32


def test_words_at_and_beside_thresholds_are_inverted_exactly() -> None:
    table = table_of(0.12)
    edges = sorted({0, 2**64 - 1, 2**63, 2**63 - 1} | {
        word + step for word in table.thresholds.tolist() for step in (-1, 0, 1) if 0 <= word + step < 2**64
    })  # fmt: skip
    words = torch.from_numpy(np.array(edges, dtype=np.uint64).view(np.int64))[None]
    expected = [bisect_right(table.thresholds.tolist(), word) - table.lowest for word in edges]
    assert inverted(words, signed_thresholds(table), table.lowest)[0].tolist() == expected
    assert min(expected) == -table.lowest
    assert max(expected) == table.lowest


def test_compiled_words_are_those_of_philox() -> None:
    word_D = np.empty(6, dtype=np.uint64)
    words_of_blocks((9, 2**32 - 3), (2**32 - 1, 513, 2**31 - 1), word_D)
    expected = [w for b in range(3) for w in philox_in_integers((b, 2**32 - 1, 513, 2**31 - 1), (9, 2**32 - 3))]
    assert word_D.tolist() == expected


def test_noisy_images_are_whole_255ths_divided_once() -> None:
    levels = torch.arange(256, dtype=torch.float32).view(1, 16, 16)
    point = NoisyPoint(levels / 255, 0.5, 7, 2, GRID)
    j_ND = GRID.draws(0.5, 7, 2, Domain.SELECTION, [5, 6], 256)
    expected = (j_ND.numpy() + np.arange(256)).astype(np.float32) / np.float32(255)
    assert np.array_equal(point.samples(Domain.SELECTION, [5, 6]).flatten(1).numpy(), expected)
    other_rounding = NoisyPoint(levels * np.float32(1 / 255), 0.5, 7, 2, GRID)  # of the same image
    assert torch.equal(other_rounding.samples(Domain.SELECTION, [5]), point.samples(Domain.SELECTION, [5]))


@pytest.mark.parametrize("off", [1e-6, 1 / 65535, 0.5 / 255])
def test_an_image_off_the_grid_is_refused_with_both_remedies(off: float) -> None:
    x_CHW = torch.full((1, 4, 4), 100 / 255)
    assert GRID.fault(x_CHW) is None
    x_CHW[0, 2, 3] += off
    fault = GRID.fault(x_CHW)
    assert fault is not None
    assert "round_pixels" in fault
    assert "philox4x64" in fault
    assert Philox4x64().fault(x_CHW) is None


def test_a_sigma_of_more_entries_than_the_table_has_is_refused() -> None:
    for tiny in (1e-7, 1e-320):
        with pytest.raises(ValueError, match=r"made for sigma from 1e-06 on"):
            table_of(tiny)
    assert table_of(np.float32(0.25)) == table_of(0.25)
    with pytest.raises(ValueError, match=r"sigma is 20: .* up to 12"):
        GRID.law(20.0, 3)


def test_float_noise_has_the_sigma_that_float32_has() -> None:
    """0.12 is rounded down where it is multiplied by; 0.1 up, and then the radius is of the smaller one."""
    assert float_law(0.12).sigma == float(np.float32(0.12)) < 0.12
    assert float_law(0.1).sigma == 0.1 < float(np.float32(0.1))
    row = srs_ray.certify_point(_Constant().eval(), torch.zeros(1, 2, 2), sigma=0.12, n=100, noise="philox4x64")
    assert row.radius == float(np.float32(0.12)) * stats.norm.ppf(row.p_lower)


class _Constant(torch.nn.Module):
    """Says class 1 of everything."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        zeros_B = 0 * x_BCHW.sum((1, 2, 3))
        return torch.stack([zeros_B, zeros_B + 1], dim=1)


def test_the_deviation_is_subtracted_from_the_bound() -> None:
    row = srs_ray.certify_point(_Constant().eval(), torch.zeros(3, 32, 32), sigma=0.5, n=100, alpha=0.001, index=1)
    drawn = p_lower("cohen", 100, 100, 0, 0, 0.001)
    deviation = GRID.law(0.5, 3072).deviation
    assert 6e-14 < deviation < 7e-14
    assert row.p_lower == drawn - deviation < drawn
    assert row.radius == 0.5 * stats.norm.ppf(row.p_lower)
    assert Law(0.5, 0.25).p_lower(0.1) == 0.0


class _ReadsLowBits(torch.nn.Module):
    """Tells 127/255 from 128/255 under the noise: where x + e is in (-0.2, -0.01), e is a multiple of 2^-24 in float32,
    127/255 an odd multiple of 2^-25 and 128/255 an even one, and so is their sum."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        pixels = x_BCHW.flatten(1)[:, :150]
        there = (pixels > -0.2) & (pixels < -0.01)
        odd = (pixels.double() * 2.0**25).long() & 1
        score_B = ((2 * odd - 1) * there).sum(dim=1).float()
        return torch.stack([score_B, -score_B], dim=1)


@pytest.mark.parametrize(("noise", "sound"), [("philox4x64", False), ("grid", True)])
def test_a_classifier_that_reads_low_bits_gets_contradictory_certificates_from_float_noise_alone(
    noise: str, sound: bool
) -> None:
    images = [torch.full((3, 32, 32), 64 / 255) for _ in range(2)]
    for image, level in zip(images, (127, 128), strict=True):
        image.view(-1)[:150] = level / 255
    distance = float((images[0] - images[1]).norm())
    assert distance == pytest.approx(0.048, abs=1e-4)
    rows = [
        srs_ray.certify_point(_ReadsLowBits().eval(), image, sigma=0.5, n=1000, noise=noise, index=index, batch=100)
        for index, image in enumerate(images)
    ]
    contradict = {row.predicted for row in rows} == {0, 1} and sum(float(row.radius or 0) for row in rows) > distance
    assert contradict is not sound
    if not sound:
        assert all(row.radius > 1.0 for row in rows)


def test_rounded_images_are_on_the_grid_and_others_are_refused_in_python() -> None:
    x_CHW = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="round_pixels=True"):
        srs_ray.certify_point(_Constant().eval(), x_CHW, sigma=0.25, n=100)
    with pytest.raises(ValueError, match="round_pixels=True"):
        srs_ray.predict(_Constant().eval(), x_CHW, sigma=0.25, n=100)
    rounded = {"sigma": 0.25, "n": 100, "round_pixels": True}
    assert srs_ray.certify_point(_Constant().eval(), x_CHW, index=7, **rounded).predicted == 1
    assert srs_ray.predict(_Constant().eval(), x_CHW, **rounded).predicted == 1
    df = srs_ray.certify_points(_Constant().eval(), [x_CHW], progress=False, seed=2, **rounded)
    assert df["status"].tolist() == ["ok"]
    with pytest.warns(UserWarning, match="ended in error"):
        df = srs_ray.certify_points(_Constant().eval(), [x_CHW], sigma=0.25, n=100, progress=False, seed=3)
    assert "round_pixels" in df["error"][0]
