from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier, _Pass, predicted_classes
from srs_ray.smoothing.noise import Domain
from srs_ray.solvers.iteration import SolverSetting

SETTINGS = [
    SolverSetting.named("anderson", 12, 1e-2),
    SolverSetting.named("broyden", 8, 1e-2),
    SolverSetting.named("naive", 5),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("count", [1, 7, 16, 50])
def test_predictions_are_those_of_each_sample_by_itself(model, point, setting, count):
    base = BaseClassifier(model, setting, batch=16)
    predictions = base.predict(point, Domain.ESTIMATION, range(100, 100 + count))
    logits = [
        model.logits(point.samples(Domain.ESTIMATION, [number]), setting.solver.name, setting.steps, setting.tolerance)
        for number in range(100, 100 + count)
    ]
    assert predictions.classes_N.tolist() == torch.cat(logits).argmax(dim=1).tolist()


class RecordingPass(_Pass):
    """Keeps the final state of every sample."""

    def __init__(self, *args) -> None:
        self.states: dict[int, bytes] = {}
        super().__init__(*args)

    def _classify(self, *, final: bool) -> None:
        for samples, z_ND, _ in self.solved:
            for sample, z_D in zip(samples, z_ND, strict=True):
                self.states[int(self.numbers[sample])] = z_D.numpy().tobytes()
        super()._classify(final=final)


@torch.inference_mode()
def test_it_is_one_function_bit_for_bit_whatever_is_predicted_with_a_sample(model, point):
    base = BaseClassifier(model, SolverSetting.named("anderson", 20, 1e-3), batch=16)
    seen: dict[int, bytes] = {}
    for numbers in (range(40), range(39, -1, -1), [7], [3, 35, 12], range(0, 40, 3)):
        recording = RecordingPass(base, point, Domain.ESTIMATION, np.asarray(numbers))
        recording.run()
        assert recording.states.keys() == set(numbers)
        for number, state in recording.states.items():
            assert seen.setdefault(number, state) == state
    z_BD = torch.stack([torch.frombuffer(bytearray(state), dtype=torch.float32) for state in list(seen.values())[:16]])
    places = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.head(z_BD)[places], model.head(z_BD[places]))


def test_stopping_early_saves_evaluations(model, point):
    patient = BaseClassifier(model, SolverSetting.named("anderson", 30, None), 16)
    stopping = BaseClassifier(model, SolverSetting.named("anderson", 30, 1e-2), 16)
    assert patient.predict(point, Domain.ESTIMATION, range(40)).evaluations == 40 * 30
    predictions = stopping.predict(point, Domain.ESTIMATION, range(40))
    assert 40 <= predictions.evaluations < 40 * 30
    assert predictions.unconverged == 0


def test_solves_that_miss_the_tolerance_are_counted(model, point):
    base = BaseClassifier(model, SolverSetting.named("naive", 2, 1e-9), 16)
    assert base.predict(point, Domain.ESTIMATION, range(20)).unconverged == 20


def test_a_sample_that_is_not_finite_has_no_class_and_harms_no_other(model, point, broken_samples):
    base = BaseClassifier(model, SolverSetting.named("anderson", 12, 1e-3), 8)
    whole = base.predict(point, Domain.ESTIMATION, range(30)).classes_N
    broken = dataclasses.replace(point, generator=broken_samples({2, 17}))
    found = base.predict(broken, Domain.ESTIMATION, range(30)).classes_N
    assert found[[2, 17]].tolist() == [NO_CLASS, NO_CLASS]
    others = np.setdiff1d(np.arange(30), [2, 17])
    assert np.array_equal(found[others], whole[others])


def test_logits_that_are_not_finite_are_no_class_and_never_class_0():
    logits = torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [torch.inf, 1.0], [-torch.inf, 1.0]])
    assert predicted_classes(logits, torch.ones(4, dtype=torch.bool)).tolist() == [1, NO_CLASS, NO_CLASS, NO_CLASS]


def test_a_solve_that_was_not_finite_is_no_class_even_where_its_logits_are():
    logits = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    assert predicted_classes(logits, torch.tensor([True, False])).tolist() == [1, NO_CLASS]
