"""Chain agreement: noise of its own, warm-ups left out, and a share of the hits, as audits have it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from srs_ray.data import open_dataset
from srs_ray.models.mdeq.checkpoints import load_model
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.noise import Domain, GridNoise, NoisyPoint
from srs_ray.smoothing.samplers import SerializedSampler
from srs_ray.solvers.iteration import SolverSetting
from srs_ray.training.chain_agreement import WARMUP_STEPS, chain_agreement, false_share

SIGMA, SEED, SAMPLES, CHAINS = 0.5, 3, 60, 6


@pytest.fixture(scope="module")
def model() -> MDEQ:
    return load_model("mdeq-tiny-digits", "mdeq-tiny-digits-sigma25")


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """Digits of the test split, on which noisy predictions differ."""
    data = open_dataset("digits", None, "test", (1, 16, 16))
    return torch.stack([data.image(index) for index in (12, 3)])


def test_it_is_what_an_audit_of_all_hits_finds_once_the_chains_are_warm(model: MDEQ, digits: Tensor) -> None:
    found = chain_agreement(model, digits, SIGMA, SEED, SAMPLES, CHAINS)
    base = BaseClassifier(model, model.config.reference, 20)
    setting = SolverSetting(model.config.reference.solver, 1)
    shares = []
    for index, x_CHW in enumerate(digits):
        point = NoisyPoint(x_CHW, SIGMA, SEED, index, GridNoise(torch.device("cpu")))
        sampler = SerializedSampler(model, point, setting, WARMUP_STEPS, CHAINS, CHAINS)
        said_N = sampler.draw(Domain.CHAIN_AGREEMENT, CHAINS + SAMPLES).classes_N[CHAINS:]
        hits = np.flatnonzero(said_N == np.bincount(said_N[said_N >= 0]).argmax())
        denied = base.predict(point, Domain.CHAIN_AGREEMENT, CHAINS + hits).classes_N != said_N[hits]
        assert 0 < denied.sum() < len(hits) < SAMPLES, "the samples tell these things apart"
        shares.append(denied.sum() / len(hits))
    assert found.false_mean[1] == pytest.approx(np.mean(shares))
    assert found.false_worst[1] == pytest.approx(max(shares))
    assert (found.points, found.samples, found.chains) == (2, SAMPLES, CHAINS)


def test_no_noise_of_a_certification_is_drawn(model: MDEQ, digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    domains = set()
    draws = GridNoise.draws

    def noted(self, sigma, seed, point, stage, samples, size):
        domains.add(stage)
        return draws(self, sigma, seed, point, stage, samples, size)

    monkeypatch.setattr(GridNoise, "draws", noted)
    chain_agreement(model, digits[:1], SIGMA, SEED, samples=20, chains=4)
    assert domains == {Domain.CHAIN_AGREEMENT}


def test_false_hits_are_divided_by_the_hits() -> None:
    said_N, reference_N = np.array([2, 2, 2, 2, 5, -1, -1]), np.array([2, 2, 5, -1, 5, 2, -1])
    assert false_share(said_N, reference_N) == 0.5
    assert false_share(said_N[:2], reference_N[:2]) == 0.0


def test_a_model_that_says_no_class_does_not_pass_for_one_that_agrees() -> None:
    assert false_share(np.array([-1, -1, 3]), np.array([-1, -1, 3])) == 1.0
