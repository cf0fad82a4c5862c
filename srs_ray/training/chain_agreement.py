"""How far serialized sampling is from the base classifier on a model: what audits will find, known in advance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from srs_ray.models.mdeq.model import MDEQ
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier
from srs_ray.smoothing.judge import selected_class
from srs_ray.smoothing.noise import Domain, NoisyPoint, noise_generator
from srs_ray.smoothing.samplers import SerializedSampler
from srs_ray.solvers.iteration import SolverSetting

CHAIN_STEPS = (1, 3)
WARMUP_STEPS = 10
_BATCH = 100


@dataclass(frozen=True)
class ChainAgreement:
    """`false_mean` and `false_worst`, by steps per solve: mean and maximum over points of the share of false hits.

    As in an audit: of the samples on which serialized sampling says the point's top class (its own most frequent one),
    the share on which the base classifier does not. `samples` of each point count; those that warm its chains up are
    drawn before. `reference_evaluations` is what the base classifier spends per sample.
    """

    points: int
    samples: int
    chains: int
    false_mean: dict[int, float]
    false_worst: dict[int, float]
    reference_evaluations: float


def chain_agreement(
    model: MDEQ, x_NCHW: Tensor, sigma: float, seed: int, samples: int = 300, chains: int = 30
) -> ChainAgreement:
    """Draws `samples` noisy copies of each image in `chains` chains (sigma in pixel units of [0, 1]), by a model in
    evaluation mode and its reference solver, and holds them against the base classifier on the same noise.

    The noise has a domain of its own: no certificate shares it. A point on which no sample has a class counts as false.
    """
    base = BaseClassifier(model, model.config.reference, _BATCH)
    solver, generator = model.config.reference.solver, noise_generator("auto", model.device)
    false_shares: dict[int, list[float]] = {steps: [] for steps in CHAIN_STEPS}
    evaluations = 0
    for index, x_CHW in enumerate(x_NCHW):
        point = NoisyPoint(x_CHW, sigma, seed, index, generator)
        reference = base.predict(point, Domain.CHAIN_AGREEMENT, np.arange(chains, chains + samples))
        evaluations += reference.evaluations
        for steps, shares in false_shares.items():
            sampler = SerializedSampler(model, point, SolverSetting(solver, steps), WARMUP_STEPS, chains, chains)
            sampler.draw(Domain.CHAIN_AGREEMENT, chains)
            said = sampler.draw(Domain.CHAIN_AGREEMENT, samples, chains)
            shares.append(false_share(said.classes_N, reference.classes_N))
    return ChainAgreement(
        points=len(x_NCHW),
        samples=samples,
        chains=chains,
        false_mean={steps: float(np.mean(shares)) for steps, shares in false_shares.items()},
        false_worst={steps: max(shares) for steps, shares in false_shares.items()},
        reference_evaluations=evaluations / (len(x_NCHW) * samples),
    )


def false_share(said_N: np.ndarray, reference_N: np.ndarray) -> float:
    """The share of hits of the most frequent class of `said_N` that `reference_N` does not confirm; 1 without hits."""
    top = selected_class(said_N)
    if top == NO_CLASS:
        return 1.0
    return float((reference_N[said_N == top] != top).mean())
