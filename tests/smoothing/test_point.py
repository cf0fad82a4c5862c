from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

import srs_ray
from srs_ray.data import open_dataset
from srs_ray.errors import PointError
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.runs.schema import LIPSCHITZ_COLUMNS, RESULT_COLUMNS, ROW_SCHEMA
from srs_ray.smoothing.audit import Audit, Fixed, audit_samples
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier
from srs_ray.smoothing.bounds import p_lower
from srs_ray.smoothing.certificate import AuditedCertificate, UnauditedCertificate
from srs_ray.smoothing.judge import SmoothingJudge, selected_class, sparse_counts
from srs_ray.smoothing.noise import Domain, GridNoise, NoisyPoint, Philox4x64
from srs_ray.smoothing.radius import certified_radius
from srs_ray.smoothing.row import PointRow
from srs_ray.smoothing.samplers import SerializedSampler, SerializedSampling, StandardSampling
from srs_ray.smoothing.smoothing import Smoothing, smoothing_of
from srs_ray.solvers.iteration import SolverSetting

HERE = {"index": 4, "label": 6, "sigma": 0.25, "alpha": 0.001}
SRS = HERE | {"n0": 30, "n": 400, "chains": 40, "steps": 3, "audit": 100}
STANDARD = HERE | {"method": "standard", "n0": 30, "n": 200}
HOW = ("seconds", "finished_at", "worker")


def results(row: PointRow) -> dict[str, object]:
    """The row without its times and places."""
    return {name: value for name, value in dataclasses.asdict(row).items() if name not in HOW}


def test_a_row_has_the_columns_of_a_run_directory(model, digit):
    row = srs_ray.certify_point(model, digit, **SRS)
    columns = [name for name in ROW_SCHEMA.names if name not in LIPSCHITZ_COLUMNS]
    assert [field.name for field in dataclasses.fields(PointRow)] == columns
    assert all(getattr(row, name) is not None for name in RESULT_COLUMNS)


@pytest.mark.parametrize("settings", [SRS, STANDARD], ids=["srs", "standard"])
def test_a_row_is_the_same_each_time_and_another_for_another_seed_or_index(model, digit, settings):
    row = results(srs_ray.certify_point(model, digit, **settings))
    assert results(srs_ray.certify_point(model, digit, **settings)) == row
    for change in ({"seed": 1}, {"index": 5}):
        other = results(srs_ray.certify_point(model, digit, **(settings | change | {"sigma": 1.0})))
        assert other["counts"] != results(srs_ray.certify_point(model, digit, **(settings | {"sigma": 1.0})))["counts"]


@pytest.mark.parametrize("settings", [SRS, STANDARD], ids=["srs", "standard"])
def test_another_batch_gives_the_same_counts(model, digit, settings):
    rows = [srs_ray.certify_point(model, digit, **settings, batch=batch) for batch in (16, 50, 256)]
    for row in rows:
        assert (row.classes, row.counts, row.audited, row.disagreed) == (
            rows[0].classes,
            rows[0].counts,
            rows[0].audited,
            rows[0].disagreed,
        )


@pytest.mark.parametrize("settings", [SRS, STANDARD], ids=["srs", "standard"])
def test_counts_add_up_and_the_bound_is_that_of_the_counts(model, digit, settings):
    row = srs_ray.certify_point(model, digit, **settings)
    assert sum(row.selection_counts) == row.n0 == 30
    assert sum(row.counts) == row.n == settings["n"]
    hits = dict(zip(row.classes, row.counts, strict=True))[row.selected]
    kind = "cohen" if settings is STANDARD else "exact"
    assert row.audited == min(settings.get("audit", 0), hits)
    assert row.p_lower == pytest.approx(p_lower(kind, hits, row.n, row.audited, row.disagreed, 0.001), rel=1e-12)
    assert row.radius == certified_radius(row.p_lower, 0.25)
    assert row.correct == (row.predicted == 6)


def test_evaluations_are_counted(model, digit):
    row = srs_ray.certify_point(model, digit, **SRS, warmup_steps=7)
    assert row.function_evaluations == 40 * 7 + (30 + 400 - 40) * 3
    assert row.audited <= row.reference_evaluations <= 30 * row.audited
    assert srs_ray.certify_point(model, digit, **STANDARD).reference_evaluations == 0


class OtherDigitInEstimation(Philox4x64):
    """Noise that turns one image into another, in the estimation samples alone."""

    def __init__(self, from_CHW: torch.Tensor, to_CHW: torch.Tensor, sigma: float) -> None:
        object.__setattr__(self, "shift_D", ((to_CHW - from_CHW) / sigma).flatten())

    def normals(self, seed, point, stage, samples, size):
        e_ND = super().normals(seed, point, stage, samples, size)
        return e_ND + self.shift_D if stage == Domain.ESTIMATION else e_ND


def test_the_class_is_fixed_by_the_selection_samples_alone(model, digit):
    """What estimation says most often must not become the candidate, or its count would be of a class chosen by it."""
    other = open_dataset("digits", None, "test", (1, 16, 16)).image(5)
    row = _judge(model, OtherDigitInEstimation(digit, other, 0.25)).certify(digit, 4, 6)
    said = dict(zip(row.classes, row.counts, strict=True))
    assert row.selected == 6
    assert max(said, key=said.__getitem__) == 7
    assert (row.predicted, row.radius) == (-1, 0.0)
    assert row.correct is False, "the candidate is the label, but it was not certified"


def test_the_audit_is_of_the_hits_by_the_reference_from_zero_on_the_same_noise(model, digit):
    """A poor reference, which often disagrees: its answers and evaluations are told from any other solver's."""
    reference = SolverSetting.named("anderson", 4, 0.3)
    row = srs_ray.certify_point(model, digit, **(SRS | {"sigma": 0.4}), reference=reference)
    point = NoisyPoint(digit, 0.4, 0, 4, GridNoise(torch.device("cpu")))
    sampler = SerializedSampler(model, point, SolverSetting.named("anderson", 3), 10, 40, 128)
    sampler.draw(Domain.SELECTION, 30)
    hits = np.flatnonzero(sampler.draw(Domain.ESTIMATION, 400).classes_N == row.selected)
    said = BaseClassifier(model, reference, 128).predict(point, Domain.ESTIMATION, point.audit_choice(hits, 100))
    assert row.disagreed == (said.classes_N != row.selected).sum() > 0
    assert row.reference_evaluations == said.evaluations < 4 * 100


def test_the_base_classifier_sees_one_padded_shape_in_standard_sampling_and_in_the_audit(model, digit):
    shapes: set[int] = set()
    stages = (model.stage0, model.fullstage.branches[0], model.classifier)
    hooks = [stage.register_forward_pre_hook(lambda module, inputs: shapes.add(len(inputs[0]))) for stage in stages]
    try:
        srs_ray.certify_point(model, digit, **(STANDARD | {"n": 70}), batch=23)
        assert shapes == {23}
        shapes.clear()
        srs_ray.certify_point(model, digit, **(SRS | {"n": 70, "chains": 5, "audit": 30}), batch=23)
        assert shapes == {5, 23}, "at most 5 chains at a time, and the audit at the batch of the run"
    finally:
        for hook in hooks:
            hook.remove()


def test_float32_means_float32(model, digit):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    srs_ray.certify_point(model, digit, **(STANDARD | {"n": 20}))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def audit_hits(base: BaseClassifier, point: NoisyPoint, hits: np.ndarray, selected: int, audit: int) -> Audit:
    """The audit of `audit` of these hits, as a plan of fixed n has it."""
    hit_N = np.zeros(100, dtype=bool)
    hit_N[hits] = True
    return audit_samples(base, point, Fixed(audit).due(point, hit_N), selected)


def test_an_audit_counts_the_samples_on_which_the_base_classifier_says_something_else(model, point):
    base = BaseClassifier(model, model.config.reference, 32)
    said = base.predict(point, Domain.ESTIMATION, range(60)).classes_N
    selected = int(np.bincount(said).argmax())
    audit = audit_hits(base, point, np.arange(60), selected, 60)
    assert (audit.audited, audit.disagreed) == (60, int((said != selected).sum()))
    some = audit_hits(base, point, np.arange(60), selected, 25)
    chosen = point.audit_choice(np.arange(60), 25)
    assert (some.audited, some.disagreed) == (25, int((said[chosen] != selected).sum()))


def test_an_audited_sample_that_is_not_finite_is_a_disagreement(model, point, broken_samples):
    base = BaseClassifier(model, model.config.reference, 32)
    said = base.predict(point, Domain.ESTIMATION, range(40)).classes_N
    selected = int(np.bincount(said).argmax())
    hits = np.flatnonzero(said == selected)
    broken = dataclasses.replace(point, generator=broken_samples(set(hits[:3].tolist())))
    assert audit_hits(base, broken, hits, selected, len(hits)).disagreed == 3


def test_samples_without_a_prediction_stay_in_n_and_are_no_hits(model, digit, broken_samples):
    broken = set(range(0, 100, 10))
    judge = _judge(model, broken_samples(broken))
    row, whole = judge.certify(digit, 4, 6), _judge(model, Philox4x64()).certify(digit, 4, 6)
    counts, before = (
        dict(zip(row.classes, row.counts, strict=True)),
        dict(zip(whole.classes, whole.counts, strict=True)),
    )
    assert counts[NO_CLASS] == len(broken)
    assert row.n == 100 == sum(row.counts)
    assert counts[row.selected] < before[whole.selected]
    assert row.p_lower < whole.p_lower


def _judge(model, generator):
    smoothing = Smoothing(0.25, StandardSampling(n0=20, n=100), UnauditedCertificate(kind="cohen"))
    return SmoothingJudge(opened_mdeq(model), smoothing, generator, 0, 32)


@pytest.fixture(scope="module")
def overflowing(model, digit):
    """A copy of the model with a classifier so large that the logits of some noisy samples exceed float32."""
    x_BCHW = NoisyPoint(digit, 0.25, 1, 4, GridNoise(torch.device("cpu"))).samples(Domain.ESTIMATION, range(50))
    larger = copy.deepcopy(model)
    usual = model.logits(x_BCHW).abs().amax(dim=1).quantile(0.8)
    larger.classifier.weight.data *= torch.finfo(torch.float32).max / usual
    return larger


@pytest.mark.parametrize("settings", [SRS, STANDARD], ids=["srs", "standard"])
def test_a_point_is_an_error_when_more_samples_than_allowed_have_no_finite_logits(overflowing, digit, settings):
    settings = settings | {"seed": 0}
    row = srs_ray.certify_point(overflowing, digit, **settings, max_nonfinite=1.0)
    broken = dict(zip(row.classes, row.counts, strict=True))[NO_CLASS]
    in_selection = dict(zip(row.selection_classes, row.selection_counts, strict=True)).get(NO_CLASS, 0)
    share = broken / row.n
    assert in_selection / row.n0 < share < 0.5, "the samples that decide are those of estimation"
    assert results(srs_ray.certify_point(overflowing, digit, **settings, max_nonfinite=share)) == results(row)
    with pytest.raises(PointError, match=rf"^{broken} of {row.n} estimation samples have no finite logits.*weights"):
        srs_ray.certify_point(overflowing, digit, **settings, max_nonfinite=share - 1e-9)
    hits = dict(zip(row.classes, row.counts, strict=True))[row.selected]
    kind = "cohen" if "method" in settings else "exact"
    bound = p_lower(kind, hits, row.n, row.audited, row.disagreed, 0.001)
    assert row.p_lower == pytest.approx(bound, rel=1e-12), "what has no class counts in n, and as no hit"


def test_a_model_that_overflows_at_once_is_found_in_the_selection_samples(model, digit):
    broken = copy.deepcopy(model)
    broken.classifier.weight.data *= 1e38
    with pytest.raises(PointError, match=r"^30 of 30 selection samples"):
        srs_ray.certify_point(broken, digit, **SRS)


def test_a_point_without_any_prediction_abstains_where_that_is_allowed(model, digit):
    broken = copy.deepcopy(model)
    broken.classifier.weight.data *= 1e38
    row = srs_ray.certify_point(broken, digit, **SRS, max_nonfinite=1.0)
    assert (row.predicted, row.radius, row.selected, row.p_lower) == (-1, 0.0, NO_CLASS, 0.0)
    assert (row.selection_classes, row.selection_counts, row.n) == ([NO_CLASS], [30], 0)
    assert row.correct is False


def test_the_selected_class_is_the_most_frequent_and_the_lowest_of_those_tied():
    assert selected_class(np.array([3, 1, 1, 3, 2])) == 1
    assert selected_class(np.array([-1, -1, 2, 2])) == 2
    assert selected_class(np.array([-1, -1, 2])) == NO_CLASS
    assert selected_class(np.array([-1])) == NO_CLASS


def test_sparse_counts_keep_what_occurred_with_no_class_among_it():
    assert sparse_counts(np.array([5, -1, 5, 2])) == ([-1, 2, 5], [1, 1, 2])
    assert sparse_counts(np.array([], dtype=int)) == ([], [])


def test_settings_that_do_not_go_together_are_refused(model, digit):
    with pytest.raises(ValueError, match="does not go with"):
        srs_ray.certify_point(model, digit, sigma=0.5, certificate="cohen")
    with pytest.raises(ValueError, match="does not go with"):
        srs_ray.certify_point(model, digit, sigma=0.5, method="standard", certificate="exact")
    with pytest.raises(ValueError, match="no sampling method"):
        srs_ray.certify_point(model, digit, sigma=0.5, method="sequential")


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"sigma": float("inf")}, "sigma is inf"),
        ({"n0": 0}, "n0 is 0: without samples nothing selects a class"),
        ({"n": 0}, r"\bn: .*equal to 1, found 0"),
        ({"chains": 0}, "chains: .*equal to 1, found 0"),
        ({"warmup_steps": 0}, "warmup_steps: .*equal to 1, found 0"),
        ({"warmup_steps": 2}, r"warmup_steps \(2\) is below steps \(3\)"),
        ({"steps": 0}, r"\.steps: .*equal to 1, found 0"),
        ({"solver": ""}, "solver: .*'naive', 'anderson' or 'broyden', found ''"),
        ({"batch": 0}, "batch is 0"),
        ({"audit": -1}, "audit: .*equal to 0, found -1"),
        ({"alpha": 1.0}, "alpha: .*found 1.0"),
        ({"alpha": 0.0}, "alpha: .*found 0.0"),
        ({"certificate": "exat"}, "certificate 'exat'"),
        ({"max_nonfinite": 1.5}, "max_nonfinite: .*equal to 1, found 1.5"),
        ({"max_nonfinite": -0.1}, "max_nonfinite: .*equal to 0, found -0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"index": -1}, "index is -1"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_with_what_was_found(model, digit, setting, found):
    with pytest.raises(ValueError, match=found):
        srs_ray.certify_point(model, digit, **(SRS | setting))


@pytest.mark.parametrize(
    ("certificate", "found"),
    [
        ({"kind": "exat"}, "certificate.kind: unknown certificate 'exat'"),
        ({"kind": "exact", "alpha": 1.0}, r"certificate\.alpha: .*found 1\.0"),
        ({"kind": "cohen"}, "certificate.kind cohen does not go with sampling.method srs"),
    ],
    ids=str,
)
def test_a_wrong_certificate_is_refused_before_anything_is_sampled(certificate, found):
    sampling = {"method": "srs", "solver": "anderson"}
    with pytest.raises(ValueError, match=found):
        smoothing_of(0.25, sampling, certificate)


def test_sections_are_refused_where_they_do_not_go_together_however_they_were_made(model):
    serialized, standard = SerializedSampling(solver="anderson"), StandardSampling()
    audited, unaudited = AuditedCertificate(kind="exact"), UnauditedCertificate(kind="cohen")
    for sampling, certificate in ((serialized, unaudited), (standard, audited)):
        with pytest.raises(ValueError, match="does not go with"):
            Smoothing(0.25, sampling, certificate)
    with pytest.raises(ValueError, match=r"sigma is 0\.0"):
        Smoothing(0.0, serialized, audited)
    for setting, found in (({"seed": -1}, "seed is -1"), ({"batch": 0}, "batch is 0")):
        with pytest.raises(ValueError, match=found):
            SmoothingJudge(
                opened_mdeq(model),
                Smoothing(0.25, serialized, audited),
                **{"generator": Philox4x64(), "seed": 0, "batch": 32, **setting},
            )


def test_a_model_in_training_mode_is_refused(model, digit):
    training = copy.deepcopy(model).train()
    with pytest.raises(ValueError, match=r"training mode.*call model\.eval\(\)"):
        srs_ray.certify_point(training, digit, **SRS)
    smoothing = Smoothing(0.25, SerializedSampling(solver="anderson"), AuditedCertificate(kind="exact"))
    with pytest.raises(ValueError, match=r"training mode.*call model\.eval\(\)"):
        SmoothingJudge(opened_mdeq(training), smoothing, Philox4x64(), 0, 32)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (torch.full((1, 16, 16), 255, dtype=torch.int32), "torch.int32"),
        (torch.full((1, 16, 16), 1.001), "1.001 to 1.001"),
        (torch.full((1, 16, 16), -0.5), "-0.5 to -0.5"),
        (torch.zeros(1, 16, 16).index_fill_(2, torch.tensor([3]), torch.nan), "nan to nan"),
        (torch.full((1, 16, 16), torch.inf), "inf to inf"),
        (torch.zeros(3, 16, 16), r"\(3, 16, 16\)"),
    ],
)
def test_what_is_no_image_is_the_callers_mistake_here_and_an_error_row_in_a_run(model, image, found):
    with pytest.raises(ValueError, match=found):
        srs_ray.certify_point(model, image, sigma=0.5)
    with pytest.raises(PointError, match=found):
        _judge(model, Philox4x64()).certify(image, 4, 6)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_that_is_no_class_is_refused_everywhere(model, digit, label):
    with pytest.raises(ValueError, match=f"label is {label}, expected 0 to 9"):
        srs_ray.certify_point(model, digit, **(STANDARD | {"label": label}))
    with pytest.raises(PointError, match=f"label is {label}, expected 0 to 9"):
        _judge(model, Philox4x64()).certify(digit, 4, label)
    settings = {name: STANDARD[name] for name in STANDARD if name not in ("index", "label")}
    with pytest.warns(UserWarning, match="1 of 1 images ended in error"):
        df = srs_ray.certify_points(model, digit[None], [label], **settings, seed=77, progress=False)
    assert (df["status"][0], df["radius"][0]) == ("error", None)
    assert f"label is {label}" in df["error"][0]


def test_8_bit_pixels_are_divided_by_255_for_the_caller_and_refused_from_a_data_set(model, digit):
    image = digit.mul(255).round().to(torch.uint8)
    row = srs_ray.certify_point(model, image, **(STANDARD | {"n": 50}))
    assert results(row) == results(srs_ray.certify_point(model, image / 255, **(STANDARD | {"n": 50})))
    with pytest.raises(PointError, match=r"torch.uint8: divide 8-bit pixels by 255"):
        _judge(model, Philox4x64()).certify(image, 4, 6)


def test_serialized_and_standard_sampling_agree_on_the_shipped_model(model, digit):
    """Both bound the same p_A from below; with an audit of every hit the bounds must be close."""
    whole = srs_ray.certify_point(model, digit, **(SRS | {"audit": 400}))
    standard = srs_ray.certify_point(model, digit, **(STANDARD | {"n": 400}))
    assert whole.predicted == standard.predicted == 6
    assert whole.p_lower <= standard.p_lower
    assert whole.p_lower > 0.8 * standard.p_lower
