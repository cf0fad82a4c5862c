from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.models.opened import Opened
from srs_ray.models.out_of_memory import is_out_of_memory
from srs_ray.smoothing.batch_size import (
    climb,
    default_batch,
    fastest_batch,
    seconds_a_sample,
)
from srs_ray.smoothing.noise import Philox4x64
from srs_ray.smoothing.samplers import SerializedSampling, StandardSampling
from srs_ray.solvers.iteration import SolverSetting

REFERENCE = SolverSetting.named("anderson", 12, 1e-2)
SERIALIZED = SerializedSampling(solver="anderson", steps=2, n0=20, n=100, chains=24, warmup_steps=5)
STANDARD = StandardSampling(n0=20, n=100)


@pytest.fixture(scope="module")
def opened(model) -> Opened:
    return opened_mdeq(model).with_reference(REFERENCE)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_the_default_batch_falls_with_the_size_of_a_state(device_type):
    batches = [default_batch(it.state_size, it.input_shape, device_type) for it in ARCHITECTURES.values()]
    assert batches == sorted(batches, reverse=True)
    assert all(1 <= batch <= 1024 for batch in batches)


@pytest.mark.parametrize(
    ("seconds", "best", "tried"),
    [
        ({8: 1.0, 16: 1.0, 32: 0.95}, 16, {8, 16, 32}),  # another that is hardly faster is not worth it
        ({16: 1.0, 32: 0.8, 64: 0.7, 128: 0.1}, 64, {16, 32, 64}),  # and four times the rule's is enough
        ({16: 1.0, 32: 0.8, 64: 0.75}, 32, {16, 32, 64}),
        ({4: 0.6, 8: 0.8, 16: 1.0, 32: 1.5}, 4, {4, 8, 16, 32}),
        ({8: 0.8, 16: math.inf, 32: math.inf, 4: 0.9}, 8, {4, 8, 16, 32}),  # memory suffices for 8
        ({4: math.inf, 8: math.inf, 16: math.inf, 32: math.inf}, 16, {8, 16, 32}),
    ],
)
def test_the_batch_changes_only_for_a_tenth_of_the_time(seconds, best, tried):
    found = climb(16, 10**6, seconds.__getitem__)
    assert (found.batch, set(found.seconds)) == (best, tried)


def test_no_batch_holds_more_than_there_are_chains_but_the_rules():
    assert set(climb(16, 40, lambda batch: 1 / batch).seconds) == {16, 32}
    assert set(climb(16, 10, lambda batch: 1 / batch).seconds) == {16, 8}
    assert set(climb(1, 10, lambda batch: 1.0).seconds) == {1, 2}


@given(st.integers(0, 10), st.integers(1, 4096), st.lists(st.floats(0.955, 1.045), min_size=12, max_size=12))
def test_noise_below_half_of_the_gain_leaves_the_rules_batch(power, most, noise):
    found = climb(2**power, most, lambda batch: noise[batch.bit_length() % 12])
    assert found.batch == 2**power


@pytest.mark.parametrize("sampling", [SERIALIZED, STANDARD])
def test_the_measured_batch_is_one_of_those_whose_time_was_taken(opened, sampling):
    found = fastest_batch(opened, sampling, 0.25, Philox4x64(), 16)
    assert {16} < set(found.seconds) <= {4, 8, 16, 32, 64}
    assert all(0 < seconds < math.inf for seconds in found.seconds.values())
    assert str(found).startswith(f"{found.batch}, measured (ms a sample: ")
    assert not (isinstance(sampling, SerializedSampling) and 32 in found.seconds), "there are 24 chains"


def test_a_measurement_draws_whole_batches_by_the_steps_of_the_sampling(model, opened, point, monkeypatch):
    """Counted, not timed: the base classifier's one step, then three rounds of each chain's two steps."""
    evaluated: list[int] = []
    monkeypatch.setattr(type(model), "f", counting(type(model).f, evaluated))
    seconds_a_sample(opened, SERIALIZED, point, 8)
    assert evaluated == [8] * (1 + 3 * 2)


def counting(f, evaluated: list[int]):
    def counted(self, z_BD, injection_BCHW):
        evaluated.append(len(z_BD))
        return f(self, z_BD, injection_BCHW)

    return counted


def test_a_batch_that_memory_does_not_suffice_for_takes_forever(opened, point):
    assert seconds_a_sample(opened, SERIALIZED, point, 2**40) == math.inf


def test_other_errors_are_not_taken_for_too_large_a_batch(model, point):
    broken = copy.deepcopy(model)
    broken.classifier = torch.nn.Linear(3, 10)
    with pytest.raises(RuntimeError, match="shapes"):
        seconds_a_sample(opened_mdeq(broken).with_reference(REFERENCE), SERIALIZED, point, 4)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
