"""Independent warm starts: what each sample is, what it costs, and that its audit corrects it."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

import srs_ray
from srs_ray import Looks
from srs_ray.analysis import comparison_table, load_points, recertify
from srs_ray.job import Job
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.bounds import exact_p_lower
from srs_ray.smoothing.noise import Domain
from srs_ray.smoothing.samplers import AnchoredSampler, AnchoredSampling
from srs_ray.smoothing.samplers.anchor import ANCHOR_SAMPLES
from srs_ray.solvers.iteration import SolverSetting, solve

ONE_STEP = {"sigma": 0.5, "index": 12, "method": "anchored", "steps": 1, "n0": 30, "n": 600, "alpha": 0.01}


@pytest.fixture(scope="module")
def ready(model):
    return opened_mdeq(model)


def by_hand(ready, point, domain: Domain, samples: int, setting: SolverSetting, numbers: range) -> list[int]:
    """Classes after the setting's steps from the mean equilibrium of so many samples of the domain."""
    with torch.inference_mode():
        injection = ready.inject(point.samples(domain, range(samples)))
        ended = solve(lambda z: ready.f(z, injection), ready.zero_state(samples), ready.reference)
        assert ended.finite_B.all()
        anchor_D = ended.z_BD.double().mean(dim=0).float()
        injection = ready.inject(point.samples(Domain.ESTIMATION, numbers))
        few = solve(lambda z: ready.f(z, injection), anchor_D.repeat(len(numbers), 1), setting)
        return ready.head(few.z_BD).argmax(dim=1).tolist()


@pytest.mark.parametrize("setting", [SolverSetting.named("naive", 1), SolverSetting.named("anderson", 3)], ids=str)
@pytest.mark.parametrize("selection", [20, 0])
def test_a_sample_takes_its_steps_from_the_mean_equilibrium(ready, point, setting, selection) -> None:
    base = BaseClassifier.of(ready, 16)
    sampler = AnchoredSampler(base, point, setting)
    if selection:
        assert sampler.draw(Domain.SELECTION, 20) is not None
    drawn = sampler.draw(Domain.ESTIMATION, 40)
    domain, samples = (Domain.SELECTION, 20) if selection else (Domain.ANCHOR, ANCHOR_SAMPLES)
    expected = by_hand(ready, point, domain, samples, setting, range(40))
    assert np.mean(drawn.classes_N != np.array(expected)) <= 1 / 40, "up to one that ties within rounding"
    spent = 0 if selection else base.predict(point, Domain.ANCHOR, range(ANCHOR_SAMPLES)).evaluations
    assert drawn.evaluations == 40 * setting.steps + spent
    far = by_hand(ready, point, domain, 1, setting, range(40))
    assert setting.steps > 1 or far != expected, "another anchor would be seen"


def test_selection_is_the_base_classifiers_own_and_samples_are_the_same_in_any_pieces(ready, point) -> None:
    base, setting = BaseClassifier.of(ready, 16), SolverSetting.named("anderson", 2)
    whole, pieces = (AnchoredSampler(base, point, setting) for _ in range(2))
    selection = [sampler.draw(Domain.SELECTION, 20) for sampler in (whole, pieces)]
    assert selection[0].classes_N.tolist() == base.predict(point, Domain.SELECTION, range(20)).classes_N.tolist()
    assert selection[0].evaluations == selection[1].evaluations
    at_once = whole.draw(Domain.ESTIMATION, 100)
    classes, evaluations = [], 0
    for size in (5, 2, 60, 33):
        drawn = pieces.draw(Domain.ESTIMATION, size, len(classes))
        classes += drawn.classes_N.tolist()
        evaluations += drawn.evaluations
    assert (classes, evaluations) == (at_once.classes_N.tolist(), at_once.evaluations)


def test_a_row_is_audited_and_bounded_by_what_the_audit_says(model, digit) -> None:
    row = srs_ray.certify_point(model, digit, audit=150, **ONE_STEP)
    hits = dict(zip(row.classes, row.counts, strict=True))[row.selected]
    assert (row.method, row.audited) == ("anchored", 150)
    assert 0 < row.disagreed < 50, "one step is not the base classifier"
    assert row.p_lower == pytest.approx(exact_p_lower(hits, 600, 150, row.disagreed, 0.01), rel=1e-12)
    three = srs_ray.certify_point(model, digit, audit=150, **(ONE_STEP | {"steps": 3}))
    assert three.disagreed < row.disagreed
    sampling = AnchoredSampling(solver="anderson", steps=1, n0=30, n=600)
    assert sampling.evaluations_by_steps(asdict(row), 3) == three.function_evaluations
    fewer = srs_ray.certify_point(model, digit, audit=150, **(ONE_STEP | {"n": 200}))
    assert sampling.evaluations_of(asdict(row), 200) == fewer.function_evaluations


@pytest.mark.parametrize("certificate", ["exact", "two-sided"])
def test_by_looks_it_sees_the_first_of_all_samples_and_saves(model, digit, certificate) -> None:
    row = srs_ray.certify_point(
        model, digit, label=6, certificate=certificate, looks=Looks((0.0, 0.25), first=50), audit_share=0.5, **ONE_STEP
    )
    whole = srs_ray.certify_point(model, digit, audit=150, **ONE_STEP)
    assert row.stopped == "resolved"
    assert row.n < 600
    assert row.selection_counts == whole.selection_counts
    assert row.function_evaluations < whole.function_evaluations
    label = srs_ray.certify_point(
        model, digit, label=6, candidate="label", looks=Looks((0.0, 0.25), first=50), audit_share=0.5,
        **{name: value for name, value in ONE_STEP.items() if name != "n0"},
    )  # fmt: skip
    assert (label.n0, label.predicted) == (0, 6)


def test_a_run_of_it_is_named_and_recomputes(digits_settings, run_in_process, tmp_path) -> None:
    sampling = {"method": "anchored", "n0": 20, "n": 150, "steps": 1}
    settings = digits_settings(data={"stop": 30}, output=str(tmp_path / "run"))
    job = Job.model_validate({**settings, "sampling": sampling})
    assert run_in_process(job).exit_code == 0
    df = load_points(job.output)
    assert df["audited"].gt(0).all()
    assert "anchored 1A" in comparison_table([df], [0.0])
    assert recertify(df)["radius"].tolist() == pytest.approx(df["radius"].tolist(), rel=1e-12)
    assert recertify(recertify(df, "union"), "exact")["radius"].tolist() == pytest.approx(df["radius"].tolist())


def test_it_needs_an_equilibrium() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
    with pytest.raises(ValueError, match="anchored needs inject, f and head; Sequential has none of them"):
        srs_ray.certify_point(network, torch.zeros(1, 2, 2), sigma=0.5, method="anchored", n0=5, n=10)
