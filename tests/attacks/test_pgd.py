"""Steps, projections and gradients of PGD."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from srs_ray.attacks.gradients import LogProbability
from srs_ray.attacks.pgd import Ball, ascend, smoothed_slope
from srs_ray.attacks.valid_images import as_it_is, on_the_grid

SHAPE = (3, 5, 4)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_projection_shortens_what_is_too_long_and_keeps_the_rest():
    ball = Ball(torch.full(SHAPE, 0.5), 0.25, clipped=False)
    long, short = drawn(0, *SHAPE), 0.001 * drawn(1, *SHAPE)
    assert torch.allclose(ball.project(long), 0.25 * long / long.norm())
    assert torch.equal(ball.project(short), short)


def test_clipped_images_are_valid_and_no_further_away():
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    ball = Ball(x, 2.0, clipped=True)
    moved = ball.project(drawn(0, *SHAPE))
    assert moved.norm() <= 2.0
    assert (x + moved).min() >= 0.0
    assert (x + moved).max() <= 1.0
    free = Ball(x, 2.0, clipped=False).project(drawn(0, *SHAPE))
    assert (x + free).min() < 0.0, "or the test shows nothing of clipping"


def test_a_step_is_two_and_a_half_radii_over_all_steps_along_the_gradient():
    ball = Ball(torch.full(SHAPE, 0.5), 1.0, clipped=False)
    slope = drawn(0, *SHAPE)
    moved = ball.step(torch.zeros(SHAPE), slope, steps=10)
    assert torch.allclose(moved, 0.25 * slope / slope.norm())


def test_ascent_of_a_linear_loss_ends_at_the_best_image_of_the_ball():
    slope = drawn(0, *SHAPE)
    ball = Ball(torch.full(SHAPE, 0.5), 0.3, clipped=False)
    start = 0.3 * drawn(1, *SHAPE) / drawn(1, *SHAPE).norm()
    assert torch.allclose(ascend(lambda x: slope, ball, start, 40), 0.3 * slope / slope.norm(), atol=2e-2)


def test_a_gradient_that_is_not_finite_moves_nothing():
    ball = Ball(torch.full(SHAPE, 0.5), 0.3, clipped=False)
    moved = ascend(lambda x: torch.full(SHAPE, math.nan), ball, torch.zeros(SHAPE), 5)
    assert torch.equal(moved, torch.zeros(SHAPE))


def test_the_gradient_of_the_smoothed_loss_is_its_finite_difference():
    weight = drawn(0, 3, 60).double()
    noise = 0.3 * drawn(1, 8, *SHAPE).double()
    x, direction = torch.full(SHAPE, 0.5).double(), drawn(2, *SHAPE).double()

    def log_p(x_MCHW: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax((x_MCHW.flatten(1) @ weight.T).sin() * 3, dim=1)[:, 1]

    def loss(x_CHW: torch.Tensor) -> float:
        return -float(log_p(x_CHW + noise).exp().mean().log())

    h = 1e-6
    difference = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
    slope = smoothed_slope(log_p, x, iter([noise]))
    assert float((slope * direction).sum()) == pytest.approx(difference, rel=1e-6)


def test_noise_in_parts_gives_the_gradient_of_all_of_it():
    noise = 0.3 * drawn(1, 7, *SHAPE).double()

    def log_p(x_MCHW: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(5 * x_MCHW.flatten(1)[:, :4], dim=1)[:, 2]

    x = torch.full(SHAPE, 0.5).double()
    whole, parts = (smoothed_slope(log_p, x, iter(noise.split(size))) for size in (7, 3))
    assert torch.allclose(whole, parts, rtol=1e-10)


@pytest.mark.parametrize("radius", [0.02, 0.25, 1.0])
@pytest.mark.parametrize("clipped", [True, False])
def test_found_images_on_the_grid_are_whole_255ths_within_the_radius_and_near_it(radius, clipped):
    x = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0)).float() / 255
    moved = drawn(1, 3, 32, 32)
    image, distance = on_the_grid(x, radius * moved / moved.norm(), radius, clipped)
    exact = (image.double() - x.double()).norm().item()
    assert distance == pytest.approx(exact, abs=1e-6)
    assert 0.8 * radius < distance <= radius
    assert torch.equal((image.double() * 255).round().float() / 255, image)
    if clipped:
        assert image.min() >= 0.0
        assert image.max() <= 1.0


def test_images_for_float_noise_are_within_the_radius_as_float32_has_them():
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        moved = drawn(seed, *SHAPE)
        image, distance = as_it_is(x, 0.25 * moved / moved.norm(), 0.25, clipped=False)
        assert 0.2499 < distance <= 0.25
        assert (image.double() - x.double()).norm().item() == distance


def test_few_steps_are_unrolled_exactly(digits_model):
    from srs_ray.solvers.iteration import SolverSetting

    model = digits_model.with_reference(SolverSetting.named("naive", 3))
    log_p = LogProbability(model, "final")
    x = torch.rand(1, *model.input_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (slope,) = torch.autograd.grad(log_p(x, 3).sum(), x)
    z = model.start_state(1)
    for _ in range(3):
        z = model.f(z, model.inject(x))
    (expected,) = torch.autograd.grad(torch.log_softmax(model.head(z), dim=1)[:, 3].sum(), x)
    assert torch.allclose(slope, expected, rtol=1e-4, atol=1e-6)
    assert log_p.evaluations == 3


def test_the_phantom_gradient_is_near_that_of_a_long_unrolled_solve(digits_model):
    x = torch.rand(2, *digits_model.input_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (slope,) = torch.autograd.grad(LogProbability(digits_model, "final")(x, 3).sum(), x)
    z, injection = digits_model.start_state(2), digits_model.inject(x)
    for _ in range(40):
        z = digits_model.f(z, injection)
    (whole,) = torch.autograd.grad(torch.log_softmax(digits_model.head(z), dim=1)[:, 3].sum(), x)
    cosine = torch.nn.functional.cosine_similarity(slope.flatten(1), whole.flatten(1))
    assert bool((cosine > 0.95).all()), cosine


def test_intermediate_states_are_averaged(digits_model):
    from srs_ray.attacks.gradients import INTERMEDIATE_STATES

    x = torch.rand(1, *digits_model.input_shape, generator=torch.Generator().manual_seed(0))
    z, injection, seen = digits_model.start_state(1), digits_model.inject(x), []
    for _ in range(INTERMEDIATE_STATES):
        z = digits_model.f(z, injection)
        seen.append(torch.log_softmax(digits_model.head(z), dim=1)[:, 5])
    found = partial(LogProbability(digits_model, "intermediate"), label=5)(x)
    assert torch.allclose(found, torch.stack(seen).mean(dim=0), rtol=1e-4)
