"""The deterministic judge: against attacks, against what is unsound, and at its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srs_ray.data.digits import Digits
from srs_ray.errors import PointError
from srs_ray.lipschitz.judge import LipschitzJudge
from srs_ray.lipschitz.settings import LipschitzCertificate, lipschitz_radius
from srs_ray.models.monotone.checkpoints import random_monotone, read_monotone
from srs_ray.models.monotone.family import MonotoneFamily
from srs_ray.models.opened import Opened
from srs_ray.models.weights import Weights
from srs_ray.solvers.iteration import SolverSetting, solve

CPU = torch.device("cpu")
TRAINED = "lben-tiny-digits-gamma2"


def opened(arch: str, weights: Weights) -> Opened:
    return MonotoneFamily().open(arch, weights, CPU, torch.float64)


@pytest.fixture(scope="module")
def model() -> Opened:
    return opened("lben-tiny-digits", read_monotone(TRAINED))


@pytest.fixture(scope="module")
def judge(model: Opened) -> LipschitzJudge:
    return LipschitzJudge(model, LipschitzCertificate(kind="lipschitz"))


def digits(model: Opened) -> Digits:
    return Digits("test", model.input_shape)


def exact_logits(model: Opened, x_BCHW: torch.Tensor) -> torch.Tensor:
    """By a long solve, and the derivative of the equilibrium by the last of it."""
    v = model.inject(x_BCHW)
    with torch.no_grad():
        start = torch.zeros(len(x_BCHW), model.state_size, dtype=torch.float64)
        z = solve(lambda z: model.f(z, v), start, SolverSetting.named("naive", 200, 1e-12)).z_BD
    for _ in range(25):
        z = model.f(z, v)
    return model.head(z)


def attacked(model: Opened, x_CHW: torch.Tensor, row, size: float, steps: int = 25) -> float:
    """The least margin of the row's class over another that gradient steps within an l2 ball find; below 0: changed."""
    centre = x_CHW.double().unsqueeze(0)
    others = [c for c in range(model.classes) if c != row.leading]
    moved = centre.repeat(len(others), 1, 1, 1)
    moved = moved + 1e-3 * torch.randn(moved.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    least = float("inf")
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        logits = exact_logits(model, moved)
        margins = logits[:, row.leading] - logits[torch.arange(len(others)), others]
        least = min(least, float(margins.min().detach()))
        (gradient,) = torch.autograd.grad(margins.sum(), moved)
        step = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        delta = moved.detach() - 0.3 * size * step - centre
        length = delta.flatten(1).norm(dim=1)[:, None, None, None]
        moved = centre + delta * (size / length).clamp(max=1.0)
    return least


def test_no_attack_within_the_radius_changes_the_class_and_some_not_far_beyond_do(model, judge) -> None:
    data, changed = digits(model), 0
    for index in range(0, 60, 20):
        row = judge.certify(data.image(index), index, data.label(index))
        assert row.predicted >= 0
        assert attacked(model, data.image(index), row, row.radius) > 0
        changed += attacked(model, data.image(index), row, 4 * row.radius) < 0
    assert changed >= 2, "an attack that finds nothing says nothing"


def test_a_radius_by_a_constant_from_power_iteration_is_broken_by_the_attack(model, judge) -> None:
    """The slope at one random point taken for a bound: a lower one, as a few rounds of power iteration give."""
    data = digits(model)
    x = torch.rand(1, *model.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x.requires_grad_()
    logits = exact_logits(model, x)
    broken = 0
    for index in range(0, 60, 20):
        row = judge.certify(data.image(index), index, data.label(index))
        (slope,) = torch.autograd.grad(logits[0, row.leading] - logits[0, row.runner_up], x, retain_graph=True)
        unsound = row.logit_margin / float(slope.norm())
        assert float(slope.norm()) <= row.pair_constant
        broken += attacked(model, data.image(index), row, unsound) < 0
    assert broken >= 1


def test_the_answer_of_a_loose_solver_can_be_wrong_where_the_judge_is_not() -> None:
    """As released programs end: at a tolerance of 1e-2, step size 1, then an undamped step; the class of some images is
    another than the equilibrium's, yet their margin over the constant is a radius above 0."""
    arch = "mondeq-tiny-digits"
    tensors = dict(random_monotone(arch, 3, m=20.0).tensors)
    tensors["A.weight"], tensors["B.weight"] = 8 * tensors["A.weight"], 8 * tensors["B.weight"]
    model = opened(arch, Weights(tensors, {}))
    network = model.network.network
    x = torch.rand(300, *model.input_shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    v = network.inject(x)
    eye = torch.eye(24, dtype=torch.float64)
    H = network.M(eye).T
    inverse = torch.linalg.inv(eye + H)
    z = u = torch.zeros_like(v)
    for _ in range(300):
        h = 2 * z - u
        u = 2 * (h + v) @ inverse.T - h
        after = u.relu()
        close = float((after - z).norm() / after.norm()) < 1e-2  # over the whole batch, as they do
        z = after
        if close:
            break
    loose = (z - z @ H.T + v).relu()  # F(z)
    classes = model.head(loose).argmax(dim=1)
    true = exact_logits(model, x).argmax(dim=1)
    assert int((classes != true).sum()) >= 1
    logits, error = model.network.proved_logits(loose, x)
    top = logits.argmax(dim=1)
    margins = logits.gather(1, top[:, None]) - logits
    worst = torch.stack([error[b, top[b]] for b in range(len(x))])
    proved = ((margins > worst) | (torch.arange(10) == top[:, None])).all(dim=1)
    assert not (proved & (top != true)).any()


def test_a_row_says_what_its_radius_is_made_of(model, judge) -> None:
    data = digits(model)
    row = judge.certify(data.image(7), 7, data.label(7))
    assert row.radius == lipschitz_radius(row.logit_margin, row.allowance, row.pair_constant) > 0
    logits = exact_logits(model, data.image(7).double().unsqueeze(0))[0]
    assert row.leading == row.predicted == int(logits.argmax())
    assert float(logits[row.leading] - logits[row.runner_up]) == pytest.approx(row.logit_margin, abs=row.allowance)
    assert row.pair_constant == float(model.network.lipschitz()[row.leading, row.runner_up])
    radii = [
        (float(logits[row.leading] - logits[j])) / float(model.network.lipschitz()[row.leading, j])
        for j in range(10)
        if j != row.leading
    ]
    assert row.radius == pytest.approx(min(radii), rel=1e-4)
    assert 0 < row.allowance <= 1e-6


@pytest.mark.parametrize("arch", ["mondeq-tiny-digits-conv", "mondeq-tiny-digits-tiers", "lben-tiny-digits-conv"])
def test_convolutional_models_are_certified_too(arch: str) -> None:
    model = opened(arch, random_monotone(arch, 2))
    judge = LipschitzJudge(model, LipschitzCertificate(kind="lipschitz"))
    image = digits(model).image(3)
    row = judge.certify(image, 3, 0)
    assert row.radius > 0
    assert row.correct == (row.predicted == 0)
    assert attacked(model, image, row, row.radius, steps=10) > 0


def test_a_solve_that_ends_early_abstains_or_is_right(model) -> None:
    data, abstained = digits(model), 0
    for steps in (1, 3, 6):
        judge = LipschitzJudge(model, LipschitzCertificate(kind="lipschitz", steps=steps))
        for index in range(0, 40, 4):
            row = judge.certify(data.image(index), index, None)
            abstained += row.predicted == -1
            if row.predicted >= 0:
                assert row.predicted == int(exact_logits(model, data.image(index).double()[None]).argmax())
                assert attacked(model, data.image(index), row, row.radius, steps=4) > 0
    assert abstained > 0


def test_a_tie_of_logits_abstains() -> None:
    tensors = dict(random_monotone("mondeq-tiny-digits", 5).tensors)
    tensors["Wout.weight"], tensors["Wout.bias"] = tensors["Wout.weight"].clone(), tensors["Wout.bias"].clone()
    tensors["Wout.weight"][4], tensors["Wout.bias"][4] = tensors["Wout.weight"][7], tensors["Wout.bias"][7]
    tensors["Wout.bias"][4] += 100.0
    tensors["Wout.bias"][7] += 100.0
    model = opened("mondeq-tiny-digits", Weights(tensors, {}))
    row = LipschitzJudge(model, LipschitzCertificate(kind="lipschitz")).certify(digits(model).image(0), 0, 4)
    assert (row.leading, row.runner_up, row.predicted, row.radius, row.correct) == (4, 7, -1, 0.0, False)


@pytest.mark.parametrize(
    ("image", "label", "said"),
    [
        (torch.zeros(1, 9, 8), 0, "takes images of shape"),
        (torch.full((1, 8, 8), 2.0), 0, "pixels lie in"),
        (torch.full((1, 8, 8), float("nan")), 0, "pixels lie in"),
        (torch.zeros(1, 8, 8), 10, "label is 10"),
    ],
)
def test_what_is_no_image_of_the_model_is_refused(judge, image, label, said) -> None:
    with pytest.raises(PointError, match=said):
        judge.certify(image, 0, label)


def test_a_model_in_float32_is_no_model_for_this_judge() -> None:
    model = MonotoneFamily().open("lben-tiny-digits", read_monotone(TRAINED), CPU, torch.float32)
    with pytest.raises(ValueError, match="needs proved Lipschitz constants"):
        LipschitzJudge(model, LipschitzCertificate(kind="lipschitz"))


def test_a_radius_is_rounded_towards_zero_and_never_negative() -> None:
    assert lipschitz_radius(1.0, 1.0, 2.0) == 0.0
    assert lipschitz_radius(0.5, 1.0, 2.0) == 0.0
    assert lipschitz_radius(1.0, 0.0, 0.0) == 0.0
    found = lipschitz_radius(1.0, 0.1, 3.0)
    assert 0.3 * (1 - 1e-13) < found < 0.3
    assert np.isfinite(found)
