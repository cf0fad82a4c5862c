"""A base classifier of few steps from a start that the weights hold: one function of one input, and named as such."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import srs_ray
from srs_ray.errors import JobError, WeightsError
from srs_ray.job import Job
from srs_ray.models.mdeq.checkpoints import build_model, describe, inference_model, read_weights
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.models.weights import STORED_START, Weights
from srs_ray.runner.preparation import JobInputs, fingerprint_of
from srs_ray.runs.beside import _chosen_otherwise
from srs_ray.smoothing.base_classifier import BaseClassifier, _Pass
from srs_ray.smoothing.noise import Domain
from srs_ray.solvers.iteration import SolverSetting, solve
from srs_ray.solvers.settings import SolverSettings

ARCH, SHIPPED = "mdeq-tiny-digits", "mdeq-tiny-digits-sigma25"


@pytest.fixture(scope="module")
def started() -> Weights:
    """The shipped weights of digits with some start, far from zero."""
    weights = read_weights(SHIPPED)
    size = opened_mdeq(inference_model(ARCH, weights)).state_size
    start_D = torch.randn(size, generator=torch.Generator().manual_seed(1))
    return replace(weights, tensors={**weights.tensors, STORED_START: start_D})


@pytest.fixture(scope="module")
def model(started):
    """Ready, and with one plain step from the start as its base classifier."""
    return opened_mdeq(inference_model(ARCH, started)).with_reference(SolverSetting.named("naive", 1, start="stored"))


def test_a_start_is_part_of_the_weights_and_of_their_digest(started) -> None:
    bare = read_weights(SHIPPED)
    assert started.digest != bare.digest
    assert (describe(started)["start"], str(describe(bare)["start"])[:4]) == ("stored", "none")
    assert describe(started)["fits"] == describe(bare)["fits"] == [ARCH]
    short = replace(started, tensors={**started.tensors, STORED_START: torch.zeros(7)})
    with pytest.raises(WeightsError, match=r"start: found shape \(7,\), expected"):
        build_model(ARCH, short)


def test_every_arrangement_of_a_model_starts_from_the_same_state(started, point) -> None:
    plain, fast = build_model(ARCH, started), inference_model(ARCH, started)
    assert not plain.channels_last
    assert fast.channels_last
    x_BCHW = point.samples(Domain.SELECTION, range(8))
    logits = []
    for network in (plain, fast):
        ready = opened_mdeq(network)
        assert torch.equal(network.storable(ready.stored_D), started.tensors[STORED_START])
        logits.append(ready.with_reference(SolverSetting.named("naive", 2, start="stored"))(x_BCHW))
    assert torch.allclose(logits[0], logits[1], atol=1e-4)
    zero = opened_mdeq(fast).with_reference(SolverSetting.named("naive", 2))(x_BCHW)
    assert not torch.allclose(zero, logits[1], atol=0.1)


@pytest.mark.parametrize(
    "setting",
    [
        SolverSetting.named("naive", 1, start="stored"),
        SolverSetting.named("naive", 3, start="stored"),
        SolverSetting.named("anderson", 3, start="stored"),
        SolverSetting.named("anderson", 30, 1e-3, start="stored"),
    ],
    ids=str,
)
@torch.inference_mode()
def test_it_is_a_solve_from_the_start_bit_for_bit_whatever_is_predicted_with_a_sample(model, point, setting) -> None:
    ready = model.with_reference(setting)
    base = BaseClassifier.of(ready, 16)
    whole = base.predict(point, Domain.ESTIMATION, range(40))
    x_BCHW = point.samples(Domain.ESTIMATION, range(16))
    injection = ready.inject(x_BCHW)
    by_hand = solve(lambda z: ready.f(z, injection), ready.stored_D.repeat(16, 1), replace(setting, start="zero"))
    assert whole.classes_N[:16].tolist() == ready.head(by_hand.z_BD).argmax(dim=1).tolist()
    for numbers in (range(39, -1, -1), [7], [3, 35, 12]):
        part = base.predict(point, Domain.ESTIMATION, numbers)
        assert part.classes_N.tolist() == whole.classes_N[list(numbers)].tolist()
    if setting.tolerance is None:
        assert whole.evaluations == 40 * setting.steps


@pytest.mark.parametrize("steps", [1, 4])
def test_samples_that_go_in_step_say_what_they_say_one_by_one(model, point, steps) -> None:
    base = BaseClassifier.of(model.with_reference(SolverSetting.named("naive", steps)), 16)
    ended: tuple[list, list] = ([], [])
    together = base.predict(point, Domain.ESTIMATION, range(40), ended[0])
    refilled = _Pass(base, point, Domain.ESTIMATION, np.arange(40), ended[1]).run()
    assert together.classes_N.tolist() == refilled.classes_N.tolist()
    assert (together.evaluations, together.fallbacks) == (refilled.evaluations, refilled.fallbacks)
    assert (together.unconverged, refilled.unconverged) == (0, 0)
    assert torch.equal(torch.cat(ended[0]), torch.cat(ended[1]))


def test_a_point_is_certified_by_it(model, digit) -> None:
    settings = {"sigma": 0.6, "index": 12, "method": "standard", "n0": 20, "n": 300}
    row = srs_ray.certify_point(model, digit, **settings)
    assert row.function_evaluations == 320
    full = srs_ray.certify_point(model, digit, reference=SolverSetting.named("anderson", 30, 1e-3), **settings)
    assert full.counts != row.counts, "it is another classifier"


@pytest.fixture
def job_with(digits_settings, tmp_path):
    """A job of standard sampling whose base classifier is this setting."""

    def make(reference: dict) -> Job:
        sampling = {"method": "standard", "n0": 20, "n": 100, "reference": reference}
        settings = digits_settings(output=str(tmp_path / "run"))
        return Job.model_validate({**settings, "sampling": sampling, "certificate": {}})

    return make


def test_a_model_without_a_start_says_what_to_do(job_with) -> None:
    bare = opened_mdeq(inference_model(ARCH, read_weights(SHIPPED)))
    with pytest.raises(ValueError, match="weights calibrate"):
        bare.with_reference(SolverSetting.named("naive", 1, start="stored"))
    job = job_with({"solver": "naive", "steps": 1, "tolerance": None, "start": "stored"})
    with pytest.raises(JobError, match="hold no start: `srs-ray weights calibrate`"):
        JobInputs.read(job)
    with pytest.raises(ValueError, match="not 'clean'"):
        SolverSetting.named("naive", 1, start="clean")


def fingerprint(job: Job, weights: Weights) -> dict:
    inputs = JobInputs.read(job)
    return fingerprint_of(inputs.resolve("cpu"), replace(inputs.source, weights=weights))


def test_the_start_is_named_in_the_fingerprint_where_it_is_stored_and_in_words(started, job_with, monkeypatch) -> None:
    monkeypatch.setattr("srs_ray.models.mdeq.checkpoints.read_weights", lambda source: started)
    jobs = {}
    for start in ("zero", "stored", None):
        given = {} if start is None else {"start": start}
        reference = {"solver": "naive", "steps": 1, "tolerance": None, **given}
        jobs[start] = job_with(reference)
    found = {start: fingerprint(job, started) for start, job in jobs.items()}
    assert found["zero"] == found[None]
    assert not any("start" in name for name in found[None])
    assert found["stored"] == found[None] | {"sampling.reference.start": "stored"}
    assert _chosen_otherwise(found["zero"], found["stored"]) == [], "another classifier, not one chosen by results"
    assert jobs["stored"].sampling.reference.title == "1N from the stored start"
    assert str(jobs["stored"].sampling.reference.setting()) == "1N from the stored start"
    assert SolverSettings(solver="naive", steps=1, start="zero").start is None
