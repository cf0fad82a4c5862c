"""A point by looks: what it draws, what it audits, when and why it ends, and the bound that its row then holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import srs_ray
from srs_ray import Looks
from srs_ray.errors import PointError
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.smoothing.audit import Fixed, Share, ShareOfAll
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier
from srs_ray.smoothing.bounds import Evidence, bound_named
from srs_ray.smoothing.certificate import UnauditedCertificate
from srs_ray.smoothing.judge import SmoothingJudge, sparse_counts
from srs_ray.smoothing.noise import Domain, GridNoise, NoisyPoint, Philox4x64
from srs_ray.smoothing.plan import Plan
from srs_ray.smoothing.radius import certified_radius
from srs_ray.smoothing.row import PointRow
from srs_ray.smoothing.samplers import AutoSampling, SerializedSampler, StandardSampler, StandardSampling
from srs_ray.smoothing.smoothing import Smoothing
from srs_ray.solvers.iteration import SolverSetting

HERE = {"sigma": 0.5, "alpha": 0.01, "index": 12, "label": 6, "n0": 30, "n": 600}
SRS = HERE | {"chains": 20, "steps": 1, "audit_share": 0.5}
STANDARD = HERE | {"method": "standard"}
BOTH = pytest.mark.parametrize("settings", [SRS, STANDARD], ids=["srs", "standard"])
HOW = ("seconds", "finished_at", "worker")


def by_looks(*radii: float) -> Looks:
    """Every setting named, so that other defaults leave these points as they are."""
    return Looks(radii, first=50, growth=1.5, power=1.0, futility=0.01)


def results(row: PointRow) -> dict[str, object]:
    """The row without its times and places."""
    return {name: value for name, value in dataclasses.asdict(row).items() if name not in HOW}


def read_looks(row: PointRow) -> list[Evidence]:
    columns = (row.look_n, row.look_hits, row.look_audited, row.look_disagreed)
    return [Evidence(*counts) for counts in zip(*columns, strict=True)]


def all_classes(model, digit, settings, n: int) -> np.ndarray:
    """What the first n estimation samples say when they are drawn at once, as without looks."""
    point = NoisyPoint(digit, settings["sigma"], 0, settings["index"], GridNoise(torch.device("cpu")))
    sampler = StandardSampler(BaseClassifier(model, model.config.reference, 64), point)
    if settings is SRS:
        sampler = SerializedSampler(model, point, SolverSetting.named("anderson", 1), 10, SRS["chains"], 64)
    sampler.draw(Domain.SELECTION, settings["n0"])
    return sampler.draw(Domain.ESTIMATION, n).classes_N


@BOTH
def test_a_point_ends_early_and_has_then_seen_the_first_of_the_samples_that_all_n_would_be(model, digit, settings):
    looks = by_looks(0.1, 0.3)
    row = srs_ray.certify_point(model, digit, **settings, looks=looks)
    assert (row.stopped, row.radius >= 0.3) == ("resolved", True)
    assert row.n < 300
    classes_N = all_classes(model, digit, settings, settings["n"])
    assert (row.classes, row.counts) == sparse_counts(classes_N[: row.n])
    assert row.look_hits == [int((classes_N[:n] == row.selected).sum()) for n in row.look_n]
    fixed = {name: value for name, value in settings.items() if name != "audit_share"}
    whole = srs_ray.certify_point(model, digit, **fixed)
    assert (whole.classes, whole.counts) == sparse_counts(classes_N)
    assert (whole.stopped, whole.audit_share, whole.look_n) == (None, None, None)
    assert (row.selected, row.selection_counts) == (whole.selected, whole.selection_counts)
    assert row.function_evaluations + row.reference_evaluations < 0.7 * (
        whole.function_evaluations + whole.reference_evaluations
    )


@pytest.mark.parametrize(("chains", "share", "sigma"), [(20, 0.5, 0.5), (3, 1.0, 0.5), (20, 0.15, 0.45)])
def test_every_read_look_is_of_all_hits_below_the_share_run_again_by_the_base_classifier(
    model, digit, chains, share, sigma
):
    settings = SRS | {"chains": chains, "audit_share": share, "sigma": sigma}
    looks = by_looks(0.1, 0.33)
    row = srs_ray.certify_point(model, digit, **settings, looks=looks)
    assert len(row.look_n) > 1
    assert row.disagreed > 0, "the audit must have something to find"
    point = NoisyPoint(digit, sigma, 0, 12, GridNoise(torch.device("cpu")))
    sampler = SerializedSampler(model, point, SolverSetting.named("anderson", 1), 10, chains, 64)
    sampler.draw(Domain.SELECTION, 30)
    hit_N = sampler.draw(Domain.ESTIMATION, row.n).classes_N == row.selected
    due = np.flatnonzero(hit_N & (point.audit_uniforms(600)[: row.n] < share))
    said = BaseClassifier(model, model.config.reference, 64).predict(point, Domain.ESTIMATION, due)
    denied = due[said.classes_N != row.selected]
    expected = [Evidence(n, int(hit_N[:n].sum()), int((due < n).sum()), int((denied < n).sum())) for n in row.look_n]
    assert read_looks(row) == expected
    assert (row.audited, row.disagreed) == (len(due), len(denied)), "nothing is audited that no bound was read on"
    assert row.reference_evaluations == said.evaluations


def test_with_two_sided_every_read_look_is_of_all_samples_below_the_share_run_again(model, digit):
    settings = SRS | {"chains": 20, "audit_share": 0.3, "certificate": "two-sided"}
    row = srs_ray.certify_point(model, digit, **settings, looks=by_looks(0.1, 0.3))
    assert len(row.look_n) > 2
    assert 0 < row.found < row.audited_misses
    point = NoisyPoint(digit, 0.5, 0, 12, GridNoise(torch.device("cpu")))
    sampler = SerializedSampler(model, point, SolverSetting.named("anderson", 1), 10, 20, 64)
    sampler.draw(Domain.SELECTION, 30)
    hit_N = sampler.draw(Domain.ESTIMATION, row.n).classes_N == row.selected
    due_N = np.flatnonzero(point.audit_uniforms(row.n) < 0.3)
    said = BaseClassifier(model, model.config.reference, 64).predict(point, Domain.ESTIMATION, due_N)
    f_N = np.zeros(row.n, dtype=bool)
    f_N[due_N] = said.classes_N == row.selected
    audited_N = np.zeros(row.n, dtype=bool)
    audited_N[due_N] = True
    kinds = (hit_N, hit_N & audited_N, hit_N & audited_N & ~f_N, ~hit_N & audited_N, ~hit_N & f_N)
    expected = [Evidence(n, *(int(which_N[:n].sum()) for which_N in kinds)) for n in row.look_n]
    columns = (
        row.look_n, row.look_hits, row.look_audited, row.look_disagreed, row.look_audited_misses, row.look_found
    )  # fmt: skip
    assert [Evidence(*counts) for counts in zip(*columns, strict=True)] == expected
    assert (row.audited_misses, row.found) == (expected[-1].audited_misses, expected[-1].found)
    assert row.reference_evaluations == said.evaluations, "nothing is audited twice, nor for no bound"
    plan = Plan.geometric(
        bound_named("two-sided"), 0.01, 600, first=50, growth=1.5, power=1.0, audit=ShareOfAll(0.3)
    )  # fmt: skip
    assert row.p_lower == pytest.approx(plan.p_lower(expected), rel=1e-12)
    exact = srs_ray.certify_point(model, digit, **settings | {"certificate": "exact"}, looks=by_looks(0.1, 0.3))
    assert (exact.audited_misses, exact.look_found) == (None, None)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [(SRS, "exact"), (SRS, "union"), (SRS, "paper"), (STANDARD, "mixture"), (STANDARD, "cohen")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_bound_is_that_of_the_plan_on_the_looks_of_the_row(model, digit, settings, kind):
    looks = by_looks(0.1, 0.33)
    row = srs_ray.certify_point(model, digit, **settings, certificate=kind, looks=looks)
    audit = Share(0.5) if settings is SRS else Fixed(0)
    plan = Plan.geometric(bound_named(kind), 0.01, 600, first=50, growth=1.5, power=1.0, audit=audit)
    assert row.audit_share == audit.share == (0.5 if settings is SRS else 0.0)
    assert row.p_lower == pytest.approx(plan.p_lower(read_looks(row)), rel=1e-12)
    assert row.p_lower > 0.5
    assert row.radius == certified_radius(row.p_lower, 0.5)
    assert (row.n, row.look_n[-1], sum(row.counts)) == (row.look_n[-1], row.n, row.n)
    assert (row.method, row.predicted) == ("srs" if settings is SRS else "standard", row.selected)


def test_the_certificates_defaults_are_those_for_looks(model, digit):
    looks = by_looks(0.1)
    for settings, kind in ((SRS, "exact"), (STANDARD, "mixture")):
        named = srs_ray.certify_point(model, digit, **settings, certificate=kind, looks=looks)
        assert results(srs_ray.certify_point(model, digit, **settings, looks=looks)) == results(named)


@BOTH
@pytest.mark.parametrize(
    ("n", "target", "stopped"), [(600, 0.01, "resolved"), (10_000, 1.9, "futile"), (200, 0.35, "spent")]
)
def test_a_point_says_why_it_ended(model, digit, settings, n, target, stopped):
    """The digit earns a radius of about 0.34 of 200 samples, and never 1.9."""
    row = srs_ray.certify_point(model, digit, **(settings | {"n": n}), looks=by_looks(target))
    assert row.stopped == stopped
    assert (row.radius >= target) == (stopped == "resolved")
    assert (row.n == n) == (stopped == "spent")
    if stopped == "futile":
        assert row.n <= 80, "at the first look or the second"


def test_a_point_beyond_hope_abstains_at_the_first_looks_and_nothing_of_it_is_audited(model, digit):
    row = srs_ray.certify_point(model, digit, **(SRS | {"sigma": 1.0, "n": 10_000}), looks=by_looks(0.0, 0.5))
    assert (row.predicted, row.radius, row.p_lower, row.stopped) == (-1, 0.0, 0.0, "futile")
    assert row.n < 200
    assert (row.audited, row.reference_evaluations, row.look_n) == (0, 0, [])
    assert sum(row.counts) == row.n, "what was drawn is in the row"


def judged(model, generator, digit, **settings) -> PointRow:
    """The digit by standard sampling and the mixture."""
    smoothing = Smoothing(0.5, StandardSampling(n0=30, **settings), UnauditedCertificate(kind="mixture"))
    return SmoothingJudge(opened_mdeq(model), smoothing, generator, 0, 64).certify(digit, 12, 6)


def test_a_selection_without_a_class_draws_and_reads_nothing(model, digit):
    class NothingIsFinite(Philox4x64):
        def normals(self, seed, point, stage, samples, size):
            return super().normals(seed, point, stage, samples, size) * float("inf")

    row = judged(model, NothingIsFinite(), digit, n=600, max_nonfinite=1.0, target_radii=(0.0,))
    assert (row.selected, row.predicted, row.n, row.stopped, row.look_n) == (NO_CLASS, -1, 0, None, None)


def test_too_many_samples_without_a_prediction_are_an_error_at_the_first_look_that_sees_them(
    model, digit, broken_samples
):
    looks = by_looks(1.9, 0.3)
    settings = {"target_radii": looks.target_radii, "looks": looks.model_dump(exclude={"target_radii"})}
    generator = broken_samples(set(range(20)))
    with pytest.raises(PointError, match=r"^20 of 54 estimation samples"):
        judged(model, generator, digit, n=600, max_nonfinite=0.1, **settings)
    with pytest.raises(PointError, match=r"^20 of 60"):
        judged(model, generator, digit, n=200, max_nonfinite=0.1, **settings)


@BOTH
def test_another_batch_gives_the_same_looks(model, digit, settings):
    looks = by_looks(0.1, 0.3)
    rows = [results(srs_ray.certify_point(model, digit, **settings, looks=looks, batch=b)) for b in (7, 64, 100)]
    for row in rows:
        row.pop("batch")
    assert rows[0] == rows[1] == rows[2]


def never(*args, **settings):
    raise AssertionError("a point was to be sampled")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"certificate": "released"}, "released does not go with sampling.method srs and target_radii"),
        ({"certificate": "mixture"}, "mixture does not go with sampling.method srs and target_radii"),
        ({"audit_share": 0.0}, "audit_share: .*greater than 0, found 0.0"),
        ({"audit_share": 1.5}, "audit_share: .*less than or equal to 1, found 1.5"),
        ({"looks": ()}, "target_radii: .*at least 1 item"),
        ({"looks": (-0.1,)}, "target_radii.0: .*greater than or equal to 0, found -0.1"),
        ({"looks": Looks((50.0,))}, "no probability below 1 earns radius 50"),
        ({"looks": Looks((0.1,), power=1e-18)}, "no level"),
        ({"method": "auto", "looks": Looks((0.1,), power=1e-18)}, "no level"),
        ({"method": "auto", "looks": None}, "auto needs sampling.target_radii"),
        ({"method": "auto", "most_lost": 1.1}, "most_lost: .*less than or equal to 1, found 1.1"),
        ({"method": "standard", "certificate": "exact"}, "exact does not go with sampling.method standard"),
        ({"method": "standard", "looks": None, "certificate": "mixture"}, "mixture does not go .*takes cohen"),
    ],
    ids=str,
)
def test_settings_of_looks_out_of_range_are_refused_before_anything_is_sampled(
    model, digit, change, found, monkeypatch
):
    monkeypatch.setattr(SmoothingJudge, "certify", never)
    settings = SRS | {"looks": Looks((0.1,))} | change
    with pytest.raises(ValueError, match=found):
        srs_ray.certify_point(model, digit, **settings)


@pytest.mark.parametrize(
    ("radii", "settings", "found"),
    [
        ((), {}, r"target_radii[\s\S]*at least 1 item"),
        ((-0.1,), {}, r"target_radii.0[\s\S]*greater than or equal to 0"),
        ((float("nan"),), {}, r"target_radii.0[\s\S]*finite number"),
        ((0.1,), {"first": 0}, r"first[\s\S]*greater than or equal to 1"),
        ((0.1,), {"growth": 1.0}, r"growth[\s\S]*greater than 1"),
        ((0.1,), {"power": 0.0}, r"power[\s\S]*greater than 0"),
        ((0.1,), {"futility": 0.0}, r"futility[\s\S]*greater than 0"),
        ((0.1,), {"futility": 1.0}, r"futility[\s\S]*less than 1"),
        ((0.1,), {"grwoth": 2.0}, r"grwoth[\s\S]*not permitted"),
    ],
    ids=str,
)
def test_looks_out_of_range_cannot_be_made(radii, settings, found):
    with pytest.raises(ValueError, match=found):
        Looks(radii, **settings)


def test_a_share_of_lost_targets_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"most_lost[\s\S]*less than or equal to 1"):
        AutoSampling(solver="anderson", steps=1, target_radii=(0.1,), most_lost=1.1)
