"""One test point and all the randomness of its certification."""

from __future__ import annotations

import hashlib
import operator
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from srs_ray.smoothing.domain import Domain
from srs_ray.smoothing.noise.generator import NoiseGenerator
from srs_ray.smoothing.noise.philox import numpy_generator, numpy_philox


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

    def __post_init__(self) -> None:
        if isinstance(self.index, bool) or (index := operator.index(self.index)) < 0:
            raise ValueError(f"index is {self.index}, expected a whole number from 0 on: it keys the noise")
        object.__setattr__(self, "index", index)

    def samples(self, stage: Domain, numbers: Sequence[int]) -> Tensor:
        """The noisy copies of these numbers, shape (N, C, H, W), float32."""
        return self.generator.noisy(self.x_CHW, self.sigma, self.seed, self.index, stage, numbers)

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
        generator = numpy_generator(self.seed, self.index, domain)
        return np.sort(generator.choice(hits, size=min(audit, len(hits)), replace=False, shuffle=False))

    def audit_uniforms(self, count: int) -> np.ndarray:
        """The permanent random numbers of estimation samples 0 to count - 1: uniform on [0, 1), float64, independent.

        More of them begin with the fewer. A hit is audited when its number is below the audit's share, so given how
        many hits are audited by a look, they are a uniform choice of the hits so far (permanent random numbers: Brewer,
        Early, Joyce 1972). Made of Philox's raw words, the top 53 bits of one each: numpy promises that these stay.
        """
        words = numpy_philox(self.seed, self.index, Domain.AUDIT_UNIFORM).random_raw(count)
        return (words >> np.uint64(11)) * 2.0**-53


def self_check(generator: NoiseGenerator) -> str:
    """A digest of some fixed draws and audits, for the fingerprint: a library that draws otherwise is noticed."""
    point = NoisyPoint(torch.zeros(4097), 1.0, 2**40 + 1, 7, generator)
    digest = hashlib.sha256(point.samples(Domain.ESTIMATION, range(3, 11)).cpu().numpy().tobytes())
    for hits, audit in ((9_000, 400), (20_000, 4_000)):  # numpy chooses from few and from many by two algorithms
        digest.update(point.audit_choice(np.arange(hits), audit).astype("<i8").tobytes())
    return digest.hexdigest()[:16]
