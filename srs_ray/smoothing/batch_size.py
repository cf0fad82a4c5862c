"""How many samples go through the network at once: by a rule, or the fastest by a short measurement."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from srs_ray.models.opened import Opened
from srs_ray.models.out_of_memory import is_out_of_memory
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.noise import Domain, NoiseGenerator, NoisyPoint
from srs_ray.smoothing.samplers import SamplingSettings, SerializedSampler
from srs_ray.solvers.iteration import SolverSetting

REACH = 4  # how many times larger or smaller than the rule's a batch may be
GAIN = 0.1  # of a sample's time: less is not worth another batch than the rule's, and may be noise
ROUNDS = 3
ROUNDS_SECONDS = 2.0  # after which no further round is begun
STANDARD_STEPS = 5  # of standard sampling: about as many as a tolerance of 1e-3 takes


def default_batch(state_size: int, input_shape: Sequence[int], device_type: str) -> int:
    """The rule: as many states, or images where these are larger, as suit a CPU's caches, or fill a GPU."""
    elements, least, most = (2**24, 1, 1024) if device_type == "cuda" else (2**21, 16, 64)
    return max(least, min(most, 2 ** int(np.log2(elements / max(state_size, math.prod(input_shape))))))


@dataclass(frozen=True)
class MeasuredBatch:
    """The batch that was found fastest, and a sample's seconds by each that was tried (inf: memory ran out)."""

    batch: int
    seconds: dict[int, float]

    def __str__(self) -> str:
        tried = (f"{batch}: {1e3 * self.seconds[batch]:.3g}" for batch in sorted(self.seconds))
        return f"{self.batch}, measured (ms a sample: {', '.join(tried)})"


def fastest_batch(
    model: Opened,
    sampling: SamplingSettings,
    sigma: float,
    generator: NoiseGenerator,
    rule: int,
) -> MeasuredBatch:
    """The batch by which a sample of that sampling takes least time, as `climb` finds it from the rule's.

    Chains are never more at once than there are: no batch above the rule's is tried that would hold more.
    """
    x_CHW = torch.full(model.input_shape, 128 / 255, device=model.device)
    point = NoisyPoint(x_CHW, sigma, 0, 0, generator)
    most = sampling.at_once or REACH * rule
    return climb(rule, most, lambda batch: seconds_a_sample(model, sampling, point, batch))


def climb(rule: int, most: int, seconds_of: Callable[[int], float]) -> MeasuredBatch:
    """From the rule's batch up by factors of two, or if that is no faster down, as long as each takes a tenth less.

    So the noise of a measurement rarely decides. `seconds_of` says what a sample takes by a batch.
    """
    seconds = {rule: seconds_of(rule)}
    best = rule
    for factor in (2.0, 0.5):
        while max(1, rule / REACH) <= best * factor <= max(rule, min(most, REACH * rule)):
            batch = int(best * factor)
            seconds[batch] = seconds_of(batch)
            if not seconds[batch] < (1.0 - GAIN) * seconds[best]:
                break
            best = batch
        if best != rule:
            break
    return MeasuredBatch(best, seconds)


def seconds_a_sample(model: Opened, sampling: SamplingSettings, point: NoisyPoint, batch: int) -> float:
    """By the clock, with chains that fill the batch; inf where memory runs out for these or for the base classifier."""
    reference = model.reference
    setting = sampling.steps_of_a_sample or SolverSetting(reference.solver, min(STANDARD_STEPS, reference.steps))
    seconds: list[float] = []
    try:
        sampler = SerializedSampler(model, point, setting, setting.steps, chains=batch, batch=batch)
        # One step of F, to see that there is memory for all of them; layers choose their kernels on the way.
        BaseClassifier(model, SolverSetting(reference.solver, reference.steps, math.inf), batch).predict(
            point, Domain.SELECTION, [0]
        )
        while len(seconds) < ROUNDS and sum(seconds) < ROUNDS_SECONDS:
            started = time.perf_counter()
            sampler.draw(Domain.ESTIMATION, batch, len(seconds) * batch)  # which waits for a GPU
            seconds.append(time.perf_counter() - started)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return math.inf
    return statistics.median(seconds) / batch
