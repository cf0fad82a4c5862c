from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srs_ray.models.as_opened import as_opened
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier
from srs_ray.smoothing.noise import Domain
from srs_ray.smoothing.samplers import SerializedSampler, StandardSampler
from srs_ray.solvers.iteration import SolverSetting, solve

CHAINS, WARMUP = 12, 6


def srs(model, point, steps: int = 1, batch: int = 64, chains: int = CHAINS) -> SerializedSampler:
    return SerializedSampler(model, point, SolverSetting.named("anderson", steps), WARMUP, chains, batch)


@torch.inference_mode()
def chain_by_chain(model, point, steps: int, draws: list[tuple[Domain, int]]) -> list[list[int]]:
    """Serialized sampling as its definition reads: every chain by itself, one sample after another."""
    states: dict[int, torch.Tensor] = {}
    said: list[list[int]] = []
    for stage, count in draws:
        classes = []
        for sample in range(count):
            chain = sample % CHAINS
            injection = model.inject(point.samples(stage, [sample]))
            start, of = (states[chain], steps) if chain in states else (model.zero_state(1), WARMUP)
            setting = SolverSetting.named("anderson", of)
            states[chain] = solve(lambda z, u=injection: model.f(z, u), start, setting).z_BD
            classes.append(int(model.head(states[chain]).argmax()))
        said.append(classes)
    return said


@pytest.mark.parametrize("steps", [1, 3])
def test_serialized_sampling_is_its_definition(model, point, steps):
    """Selection starts 7 of 12 chains, estimation goes on with them, starts the others, and ends on a ragged step."""
    sampler = srs(model, point, steps)
    draws = [(Domain.SELECTION, 7), (Domain.ESTIMATION, 43)]
    found = [sampler.draw(stage, count) for stage, count in draws]
    assert [f.classes_N.tolist() for f in found] == chain_by_chain(model, point, steps, draws)
    assert found[0].evaluations == 7 * WARMUP
    assert found[1].evaluations == 5 * WARMUP + 38 * steps


def test_classes_do_not_depend_on_how_many_go_through_the_network_at_once(model, point):
    found = [srs(model, point, 1, batch).draw(Domain.ESTIMATION, 100).classes_N.tolist() for batch in (1, 5, 12, 64)]
    assert all(classes == found[0] for classes in found)
    assert len(set(found[0])) > 1, "the point must be one on which predictions differ"


def test_the_number_of_chains_is_statistics_and_changes_what_is_said(model, point):
    few = srs(model, point, 1, chains=2).draw(Domain.ESTIMATION, 200).classes_N
    many = srs(model, point, 1, chains=50).draw(Domain.ESTIMATION, 200).classes_N
    assert not np.array_equal(few, many)


def test_only_the_state_is_carried_from_sample_to_sample(model, point):
    """A chain that goes on from a state does what a new solve from that state does."""
    sampler = srs(model, point, 3)
    sampler.draw(Domain.ESTIMATION, CHAINS)
    z_JD = sampler.z_JD.clone()
    sampler.draw(Domain.SELECTION, CHAINS)
    injection = model.inject(point.samples(Domain.SELECTION, range(CHAINS)))
    expected = solve(lambda z: model.f(z, injection), z_JD, SolverSetting.named("anderson", 3)).z_BD
    assert torch.allclose(sampler.z_JD, expected, atol=1e-5)


def test_a_chain_whose_state_is_not_finite_starts_again_with_a_warm_up(model, point, broken_samples):
    broken = dataclasses.replace(point, generator=broken_samples({CHAINS + 4}))
    sampler, whole = srs(model, broken), srs(model, point)
    found = sampler.draw(Domain.ESTIMATION, 4 * CHAINS)
    expected = whole.draw(Domain.ESTIMATION, 4 * CHAINS)
    assert found.classes_N[CHAINS + 4] == NO_CLASS
    chain = np.arange(4 * CHAINS) % CHAINS
    assert np.array_equal(found.classes_N[chain != 4], expected.classes_N[chain != 4])
    assert np.isin(found.classes_N[[2 * CHAINS + 4, 3 * CHAINS + 4]], np.arange(10)).all()
    assert found.evaluations == expected.evaluations + WARMUP - 1


def test_standard_sampling_predicts_the_samples_from_0_on(model, point):
    base = BaseClassifier(model, SolverSetting.named("anderson", 8, 1e-2), 16)
    drawn = StandardSampler(base, point).draw(Domain.SELECTION, 21)
    assert drawn.classes_N.tolist() == base.predict(point, Domain.SELECTION, range(21)).classes_N.tolist()


@pytest.mark.parametrize(("chains", "batch"), [(12, 64), (12, 5), (5, 2), (50, 16), (1, 8)])
@pytest.mark.parametrize("pieces", [(7, 36, 1, 26), (12, 24, 34), (70,)])
def test_samples_that_are_drawn_in_pieces_are_those_drawn_at_once(model, point, chains, batch, pieces):
    """Pieces end within a round of the chains and at its end; the states that are left are the same too."""
    whole, parts = (srs(model, point, 1, batch, chains) for _ in range(2))
    for sampler in (whole, parts):
        sampler.draw(Domain.SELECTION, 9)
    expected = whole.draw(Domain.ESTIMATION, 70)
    firsts = np.cumsum((0, *pieces[:-1]))
    drawn = [parts.draw(Domain.ESTIMATION, count, int(first)) for count, first in zip(pieces, firsts, strict=True)]
    assert np.concatenate([part.classes_N for part in drawn]).tolist() == expected.classes_N.tolist()
    assert sum(part.evaluations for part in drawn) == expected.evaluations
    assert torch.allclose(parts.z_JD, whole.z_JD, atol=1e-4)


def test_standard_samples_that_are_drawn_in_pieces_are_those_drawn_at_once(model, point):
    sampler = StandardSampler(BaseClassifier(model, SolverSetting.named("anderson", 8, 1e-2), 16), point)
    whole, one = sampler.draw(Domain.ESTIMATION, 30), sampler.draw(Domain.ESTIMATION, 11)
    two = sampler.draw(Domain.ESTIMATION, 19, 11)
    assert [*one.classes_N, *two.classes_N] == whole.classes_N.tolist()
    assert one.evaluations + two.evaluations == whole.evaluations


class Feedforward(nn.Module):
    """A classifier that counts the images it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16 * 16, 10)
        self.images = 0

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.images += len(x_BCHW)
        return self.linear(x_BCHW.flatten(1))


def test_looks_at_samples_of_one_evaluation_pad_no_batch(point):
    network = Feedforward().eval()
    ready = as_opened(network, tuple(point.x_CHW.shape))
    base = BaseClassifier(ready, ready.reference, 16)
    whole = base.predict(point, Domain.ESTIMATION, range(100)).classes_N.tolist()
    sampler = StandardSampler(base, point)
    sampler.draw(Domain.SELECTION, 7)
    network.images = 0
    classes, sizes = [], (5, 2, 9, 4, 60, 20)
    for size in sizes:
        drawn = sampler.draw(Domain.ESTIMATION, size, len(classes))
        assert (len(drawn.classes_N), drawn.evaluations) == (size, size)
        classes += drawn.classes_N.tolist()
    assert classes == whole
    assert network.images == 7 * 16, "100 samples"
