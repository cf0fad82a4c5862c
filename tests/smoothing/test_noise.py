from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from srs_ray.smoothing.noise import (
    Domain,
    GridNoise,
    NoisyPoint,
    Philox4x32,
    Philox4x64,
    noise_generator,
    philox4x32,
    self_check,
)

GENERATORS = [Philox4x64(), Philox4x32(torch.device("cpu"))]
BOTH = pytest.mark.parametrize("generator", GENERATORS, ids=lambda g: g.name)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox4x32_gives_the_published_known_answers(counter, key, expected):
    """The known answers of Random123 (Salmon et al., SC 2011)."""
    words = philox4x32([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in words) == expected


@BOTH
def test_a_sample_is_the_same_drawn_alone_or_with_others_in_any_order(generator):
    together = generator.normals(5, 17, Domain.ESTIMATION, [3, 0, 1, 9], 50)
    for row, sample in enumerate([3, 0, 1, 9]):
        assert torch.equal(generator.normals(5, 17, Domain.ESTIMATION, [sample], 50)[0], together[row])


def test_every_sample_is_a_fresh_philox_of_numpys():
    drawn = Philox4x64().normals(5, 17, Domain.ESTIMATION, [3, 2**40], 101)
    for row, sample in zip(drawn, [3, 2**40], strict=True):
        counter, key = (np.array(words, dtype=np.uint64) for words in ([0, sample, Domain.ESTIMATION, 1], [5, 17]))
        fresh = np.random.Generator(np.random.Philox(counter=counter, key=key))
        assert row.tolist() == fresh.standard_normal(101, dtype=np.float32).tolist()


@BOTH
def test_a_longer_draw_begins_with_the_shorter_one(generator):
    longer = generator.normals(5, 17, Domain.ESTIMATION, [2], 101)
    assert torch.equal(generator.normals(5, 17, Domain.ESTIMATION, [2], 50), longer[:, :50])


@BOTH
def test_seed_point_stage_and_sample_each_give_other_noise(generator):
    draws = {
        generator.normals(seed, point, stage, [sample], 8).numpy().tobytes()
        for seed in (0, 1, 2**32, 2**62)
        for point in (0, 1, 2)
        for stage in Domain
        for sample in (0, 1, 256, 99_999)
    }
    assert len(draws) == 4 * 3 * len(Domain) * 4


@BOTH
def test_the_noise_is_standard_normal_and_uncorrelated(generator):
    e_ND = generator.normals(11, 4, Domain.ESTIMATION, range(64), 4096).double().numpy()
    values = e_ND.ravel()
    # One test in ten thousand fails by chance; the seed is fixed, so that it fails always or never.
    assert stats.kstest(values, "norm").pvalue > 1e-4
    assert abs(values.mean()) < 4 / np.sqrt(values.size)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / values.size)
    assert abs(stats.kurtosis(values)) < 4 * np.sqrt(24 / values.size)
    between = np.corrcoef(e_ND)[np.triu_indices(64, 1)]
    assert np.abs(between).max() < 5 / np.sqrt(4096)
    lagged = np.corrcoef(e_ND[:, :-1].ravel(), e_ND[:, 1:].ravel())[0, 1]
    assert abs(lagged) < 4 / np.sqrt(values.size)


@BOTH
def test_the_draws_are_those_of_this_version(generator):
    """If this fails, a library draws other numbers: the generator's version must be raised."""
    e_ND = generator.normals(1, 2, Domain.SELECTION, [3], 6)
    expected = {
        "philox4x64": [1.26507688, 0.94686252, 1.57156122, 0.25196776, 1.16773473, 0.1364031],
        "philox4x32": [0.3656809, 0.2387179, -0.15782218, 0.3340196, 1.05860186, 0.82494044],
    }[generator.name.split("-")[0]]
    assert e_ND[0].tolist() == pytest.approx(expected, abs=1e-7)


def test_noise_is_scaled_in_pixel_units_and_added_to_the_image():
    x_CHW = torch.rand(3, 4, 4)
    e = Philox4x64().normals(7, 2, Domain.SELECTION, [5], 48).view(3, 4, 4)
    noisy = NoisyPoint(x_CHW, 0.25, 7, 2, Philox4x64()).samples(Domain.SELECTION, [5])
    assert torch.equal(noisy[0], x_CHW + 0.25 * e)


class ManyAtOnce(Philox4x32):
    """As on a GPU: it would rather draw so many numbers at once."""

    at_once = 10 * 48  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        object.__setattr__(self, "drawn", [])

    def normals(self, seed, point, stage, samples, size):
        self.drawn.append(samples)
        return super().normals(seed, point, stage, samples, size)


def test_batches_are_the_same_samples_drawn_together():
    generator = ManyAtOnce()
    noisy = NoisyPoint(torch.rand(3, 4, 4), 0.25, 7, 2, generator)
    batches = [range(5, 9), range(9, 13), range(13, 14), range(14, 18), range(18, 40), range(40, 42)]
    found = list(noisy.batches(Domain.ESTIMATION, batches))
    assert generator.drawn == [range(5, 14), range(14, 18), range(18, 40), range(40, 42)]
    for numbers, x_BCHW in zip(batches, found, strict=True):
        assert torch.equal(x_BCHW, noisy.samples(Domain.ESTIMATION, list(numbers)))


def test_a_cpu_draws_one_batch_at_a_time_and_a_gpu_many():
    assert Philox4x64().at_once == Philox4x32(torch.device("cpu")).at_once == 1
    assert Philox4x32(torch.device("cuda")).at_once > 1000 * 3 * 32 * 32


def test_the_audit_is_a_uniform_choice_without_replacement_of_its_own_domain():
    hits = np.arange(100, 120)
    chosen = [NoisyPoint(torch.zeros(1), 1.0, seed, 0, Philox4x64()).audit_choice(hits, 5) for seed in range(4000)]
    assert all(len(set(c.tolist())) == 5 and set(c.tolist()) <= set(hits.tolist()) for c in chosen)
    how_often = np.bincount(np.concatenate(chosen) - 100, minlength=20)
    assert stats.chisquare(how_often).pvalue > 1e-4
    pairs = np.zeros((20, 20))
    for c in chosen:
        for a in c:
            for b in c:
                pairs[a - 100, b - 100] += a != b
    assert stats.chisquare(pairs[np.triu_indices(20, 1)]).pvalue > 1e-4


def test_the_audits_choice_shares_no_counter_with_any_noise():
    assert [int(domain) for domain in Domain] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    own = np.random.Philox(counter=np.array([0, 0, 2, 1], dtype=np.uint64), key=np.array([9, 4], dtype=np.uint64))
    expected = np.sort(np.random.Generator(own).choice(np.arange(50), size=7, replace=False, shuffle=False))
    chosen = NoisyPoint(torch.zeros(1), 1.0, 9, 4, Philox4x64()).audit_choice(np.arange(50), 7)
    assert chosen.tolist() == expected.tolist()


def random_point(seed: int, index: int) -> NoisyPoint:
    return NoisyPoint(torch.zeros(1), 1.0, seed, index, Philox4x64())


def test_more_permanent_random_numbers_begin_with_the_fewer():
    longer = random_point(5, 17).audit_uniforms(203)
    for count in (0, 1, 2, 3, 4, 5, 100, 203):
        assert np.array_equal(random_point(5, 17).audit_uniforms(count), longer[:count])


def test_permanent_random_numbers_are_uniform_float64_below_one_and_uncorrelated():
    u = random_point(5, 17).audit_uniforms(200_000)
    assert u.dtype == np.float64
    assert 0.0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1.0
    assert stats.kstest(u, "uniform").pvalue > 1e-6
    for lag in (1, 2, 3, 4, 8):
        assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 5 / np.sqrt(len(u))


def philox4x64_words(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Philox4x64-10 in integers, as Salmon et al. write it."""
    word = 2**64 - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [second >> 64 ^ c[1] ^ k[0], second & word, first >> 64 ^ c[3] ^ k[1], first & word]
        k = [k[0] + 0x9E3779B97F4A7C15 & word, k[1] + 0xBB67AE8584CAA73B & word]
    return c


def test_permanent_random_numbers_are_those_of_this_version():
    u = random_point(5, 17).audit_uniforms(8)
    words = [word for block in (1, 2) for word in philox4x64_words((block, 0, 3, 1), (5, 17))]
    assert u.tolist() == [(word >> 11) / 2**53 for word in words]
    assert u[:2].tolist() == [float.fromhex("0x1.7978137b4f21ep-1"), float.fromhex("0x1.c3c6cb5bf84b8p-2")]


def test_permanent_random_numbers_have_a_domain_of_their_own():
    u = random_point(5, 17).audit_uniforms(4_000)
    for other in (random_point(6, 17), random_point(5, 18)):
        assert not np.isin(other.audit_uniforms(4_000), u).any()
    for stage, sample in (
        (Domain.SELECTION, 0),
        (Domain.ESTIMATION, 0),
        (Domain.ESTIMATION, 1),
        (Domain.AUDIT_CHOICE, 0),
    ):
        counter = np.array([0, sample, stage, 1], dtype=np.uint64)
        words = np.random.Philox(counter=counter, key=np.array([5, 17], dtype=np.uint64)).random_raw(4_000)
        assert not np.isin((words >> np.uint64(11)) * 2.0**-53, u).any()


def test_an_audit_of_all_hits_takes_each_once():
    hits = np.array([3, 5, 8])
    point = NoisyPoint(torch.zeros(1), 1.0, 0, 0, Philox4x64())
    assert point.audit_choice(hits, 10).tolist() == [3, 5, 8]
    assert len(point.audit_choice(hits, 0)) == 0
    assert len(point.audit_choice(np.array([], dtype=int), 4)) == 0


def test_the_usual_generator_lies_on_the_grid_and_others_are_named():
    for device in ("cpu", "cuda"):
        assert isinstance(noise_generator("auto", device), GridNoise)
    assert [noise_generator(name, "cpu") for name in ("philox4x64", "philox4x32")] == GENERATORS
    with pytest.raises(ValueError, match="mersenne"):
        noise_generator("mersenne", "cpu")


@BOTH
def test_the_self_check_is_a_digest_of_draws(generator):
    """And of audits: numpy chooses from few hits by one algorithm, from many by another."""
    drawn = generator.normals(2**40 + 1, 7, Domain.ESTIMATION, range(3, 11), 4097)
    point = NoisyPoint(torch.zeros(1), 1.0, 2**40 + 1, 7, generator)
    few, many = point.audit_choice(np.arange(9_000), 400), point.audit_choice(np.arange(20_000), 4_000)
    content = drawn.numpy().tobytes() + few.tobytes() + many.tobytes()
    assert self_check(generator) == hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize("hits", [9_000, 20_000])
def test_the_self_check_notices_a_numpy_that_chooses_otherwise(monkeypatch, hits):
    audit_choice = NoisyPoint.audit_choice
    before = self_check(Philox4x64())
    otherwise = lambda point, among, audit: audit_choice(point, among, audit)[:: -1 if len(among) == hits else 1]  # noqa: E731
    monkeypatch.setattr(NoisyPoint, "audit_choice", otherwise)
    assert self_check(Philox4x64()) != before


def test_a_point_beyond_the_key_of_philox4x32_is_refused():
    with pytest.raises(ValueError, match="32 bits"):
        GENERATORS[1].normals(0, 2**32, Domain.ESTIMATION, [0], 4)
