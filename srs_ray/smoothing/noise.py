"""Gaussian noise as a pure function of (seed, point, stage, sample, element): any sample can be drawn again alone.

Both generators are counter-based (Philox; Salmon et al., SC 2011): the run's seed and the point are the key, stage
and sample the counter. No state is carried from one sample to the next, whatever the worker, the batch or the order.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from srs_ray.settings import Settings
from srs_ray.smoothing.domain import Domain

VERSION = 1
NORMALS_AT_ONCE = 2**22  # on a GPU: more than a hundred kernels, most of them of 8 MiB each way
_WORD = 0xFFFFFFFF


class NoiseSettings(Settings):
    """Gaussian noise in pixel units of [0, 1]. The generator follows the device where it is `auto`."""

    sigma: float = Field(gt=0)
    generator: Literal["auto", "philox4x64", "philox4x32"] = "auto"


class NoiseGenerator(Protocol):
    """Standard normals of given samples, shape (N, size), float32.

    `at_once` is how many numbers it would rather draw at once than fewer: on a GPU every step of it has its price.
    """

    name: ClassVar[str]

    @property
    def at_once(self) -> int: ...

    def normals(self, seed: int, point: int, stage: Domain, samples: Sequence[int], size: int) -> Tensor: ...


@dataclass(frozen=True)
class Philox4x64:
    """numpy's Philox with its float32 ziggurat, on the CPU: key (seed, point), counter (0, sample, stage, version)."""

    name: ClassVar[str] = f"philox4x64-10/numpy-float32-ziggurat/{VERSION}"
    at_once: ClassVar[int] = 1

    def normals(self, seed: int, point: int, stage: Domain, samples: Sequence[int], size: int) -> Tensor:
        e_ND = np.empty((len(samples), size), dtype=np.float32)
        generator = _numpy_generator(seed, point, stage, 0)  # set to each sample: a new one for each would take longer
        start = generator.bit_generator.state
        for row, sample in zip(e_ND, samples, strict=True):
            start["state"]["counter"][1] = sample
            generator.bit_generator.state = start
            generator.standard_normal(dtype=np.float32, out=row)
        return torch.from_numpy(e_ND)


def _numpy_generator(seed: int, point: int, stage: Domain, sample: int) -> np.random.Generator:
    return np.random.Generator(_numpy_philox(seed, point, stage, sample))


def _numpy_philox(seed: int, point: int, stage: Domain, sample: int) -> np.random.Philox:
    key = np.array([seed, point], dtype=np.uint64)
    counter = np.array([0, sample, stage, VERSION], dtype=np.uint64)
    return np.random.Philox(counter=counter, key=key)


@dataclass(frozen=True)
class Philox4x32:
    """Philox4x32-10 in integer tensor operations, on any device.

    Key (seed mod 2^32, point), counter (element // 4, sample, stage + 2^8 version, seed // 2^32). Normals by Box and
    Muller in float64, rounded to float32 at the end, so that the last bits of a device's logarithm or cosine do not
    show.
    """

    device: torch.device
    name: ClassVar[str] = f"philox4x32-10/box-muller-float64/{VERSION}"

    @property
    def at_once(self) -> int:
        return 1 if self.device.type == "cpu" else NORMALS_AT_ONCE

    def normals(self, seed: int, point: int, stage: Domain, samples: Sequence[int], size: int) -> Tensor:
        if point > _WORD:
            raise ValueError(f"point {point} does not fit the generator's key (32 bits)")
        blocks = torch.arange(-(-size // 4), device=self.device).unsqueeze(0)
        sample = self._int64(samples).unsqueeze(1)
        constants = [torch.full_like(sample, value) for value in (stage + (VERSION << 8), seed >> 32)]
        words = philox4x32((blocks, sample, *constants), (seed & _WORD, point))
        uniform_NB4 = torch.stack(words, dim=2).double().add_(0.5).mul_(2.0**-32)
        length_NB2 = uniform_NB4[..., 0::2].log().mul_(-2.0).sqrt_()
        angle_NB2 = uniform_NB4[..., 1::2] * (2.0 * math.pi)
        e_NB22 = torch.stack([length_NB2 * angle_NB2.cos(), length_NB2 * angle_NB2.sin()], dim=3)
        return e_NB22.flatten(1)[:, :size].float()

    def _int64(self, numbers: Sequence[int]) -> Tensor:
        if isinstance(numbers, range):  # which a GPU counts out itself; a list it would be waited for to take
            return torch.arange(numbers.start, numbers.stop, numbers.step, device=self.device)
        return torch.tensor(numbers, device=self.device)


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
        c0, c1, c2, c3 = c0.bitwise_and_(_WORD), second, c2.bitwise_and_(_WORD), first
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return [c0, c1 & _WORD, c2, c3 & _WORD]


def resolve_generator(name: str, device_type: str) -> str:
    """`auto` is philox4x64 on a CPU and philox4x32 elsewhere: a CPU could not feed a GPU with noise."""
    if name == "auto":
        return "philox4x64" if device_type == "cpu" else "philox4x32"
    return name


def noise_generator(name: str, device: str | torch.device) -> NoiseGenerator:
    """The generator `philox4x64` (on the CPU) or `philox4x32` (on the device), or the device's own, `auto`."""
    device = torch.device(device)
    name = resolve_generator(name, device.type)
    if name == "philox4x64":
        return Philox4x64()
    if name == "philox4x32":
        return Philox4x32(device)
    raise ValueError(f"no noise generator {name!r}; there are philox4x64 and philox4x32")


def self_check(generator: NoiseGenerator) -> str:
    """A digest of some fixed draws and audits, for the fingerprint: a library that draws otherwise is noticed."""
    seed, index = 2**40 + 1, 7
    drawn = generator.normals(seed, index, Domain.ESTIMATION, samples=range(3, 11), size=4097)
    digest = hashlib.sha256(drawn.cpu().numpy().tobytes())
    point = NoisyPoint(torch.zeros(1), 1.0, seed, index, generator)
    for hits, audit in ((9_000, 400), (20_000, 4_000)):  # numpy chooses from few and from many by two algorithms
        digest.update(point.audit_choice(np.arange(hits), audit).astype("<i8").tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class NoisyPoint:
    """One test point and all the randomness of its certification.

    `x_CHW` is the image in [0, 1]; `sigma` is in the same units; `index` is the point's position in its data set.
    """

    x_CHW: Tensor
    sigma: float
    seed: int
    index: int
    generator: NoiseGenerator

    def samples(self, stage: Domain, numbers: Sequence[int]) -> Tensor:
        """The noisy copies of these numbers, shape (N, C, H, W), float32."""
        e_ND = self.generator.normals(self.seed, self.index, stage, numbers, self.x_CHW.numel())
        e_NCHW = e_ND.view(len(numbers), *self.x_CHW.shape).to(self.x_CHW.device)
        return e_NCHW.mul_(self.sigma).add_(self.x_CHW)

    def batches(self, stage: Domain, batches: Sequence[range]) -> Iterator[Tensor]:
        """The noisy copies of these batches, which follow each other; several are drawn at once where that pays."""
        most = self.generator.at_once // self.x_CHW.numel()
        waiting = deque(batches)
        while waiting:
            together = [waiting.popleft()]
            while waiting and waiting[0].stop - together[0].start <= most:
                together.append(waiting.popleft())
            x_NCHW = self.samples(stage, range(together[0].start, together[-1].stop))
            yield from x_NCHW.split([len(numbers) for numbers in together])

    def audit_choice(self, hits: np.ndarray, audit: int, domain: Domain = Domain.AUDIT_CHOICE) -> np.ndarray:
        """min(audit, |hits|) of the hits, uniform without replacement and independent of all noise, in order.

        Of misses in the domain MISS_CHOICE, which is independent of the hits' choice.
        """
        generator = _numpy_generator(self.seed, self.index, domain, 0)
        return np.sort(generator.choice(hits, size=min(audit, len(hits)), replace=False, shuffle=False))

    def audit_uniforms(self, count: int) -> np.ndarray:
        """The permanent random numbers of estimation samples 0 to count - 1: uniform on [0, 1), float64, independent.

        More of them begin with the fewer. A hit is audited when its number is below the audit's share, so given how
        many hits are audited by a look, they are a uniform choice of the hits so far (permanent random numbers: Brewer,
        Early, Joyce 1972). Made of Philox's raw words, the top 53 bits of one each: numpy promises that these stay.
        """
        words = _numpy_philox(self.seed, self.index, Domain.AUDIT_UNIFORM, 0).random_raw(count)
        return (words >> np.uint64(11)) * 2.0**-53
