from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srs_ray.solvers.gradients import implicit, unroll
from srs_ray.solvers.iteration import SolverSetting, solve

SIZE = 12
GENERATOR = torch.Generator().manual_seed(0)
NORM = 0.6


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


DIRECTIONS = normal(SIZE, SIZE)
COUPLING = NORM * DIRECTIONS / torch.linalg.matrix_norm(DIRECTIONS, 2)  # tanh(z W) contracts by NORM at least
BIAS = normal(SIZE)
READOUT = normal(SIZE)
INPUT_BD = normal(3, SIZE)


def layer(z_BD: Tensor, bias: Tensor) -> Tensor:
    return torch.tanh(z_BD @ COUPLING + INPUT_BD + bias)


def equilibrium(bias: Tensor) -> Tensor:
    return solve(lambda z_BD: layer(z_BD, bias), torch.zeros_like(INPUT_BD), SolverSetting.named("naive", 120)).z_BD


def loss(z_BD: Tensor) -> Tensor:
    return (z_BD @ READOUT).square().sum()


def implicit_gradient() -> Tensor:
    """Of the loss at the equilibrium with respect to the bias, by central differences."""
    step = 1e-5
    slopes = [
        (loss(equilibrium(BIAS + step * unit)) - loss(equilibrium(BIAS - step * unit))) / (2 * step)
        for unit in torch.eye(SIZE, dtype=torch.float64)
    ]
    return torch.stack(slopes)


def phantom_gradient(steps: int) -> Tensor:
    bias = BIAS.clone().requires_grad_()
    z_BD = unroll(lambda z: layer(z, bias), equilibrium(BIAS), steps)
    return torch.autograd.grad(loss(z_BD), bias)[0]


def test_phantom_gradient_tends_to_the_implicit_gradient_at_the_rate_of_the_contraction() -> None:
    implicit = implicit_gradient()
    error = {steps: float((phantom_gradient(steps) - implicit).norm() / implicit.norm()) for steps in (1, 5, 9, 40)}
    assert error[1] > 0.05  # one step is another gradient: the test can tell
    assert error[5] < error[1]
    assert error[9] < error[5]
    # The tail of the Neumann series is at most NORM^40 / (1 - NORM) = 3e-9 of its first term; the rest is the
    # differences' own error, of the order of step^2.
    assert error[40] < 1e-7


def test_unrolling_from_zero_keeps_the_gradient_of_every_evaluation() -> None:
    bias = BIAS.clone().requires_grad_()
    by_hand = layer(layer(layer(torch.zeros_like(INPUT_BD), bias), bias), bias)
    unrolled = unroll(lambda z: layer(z, bias), torch.zeros_like(INPUT_BD), 3)
    assert torch.equal(unrolled, by_hand)
    expected, found = (torch.autograd.grad(loss(z), bias)[0] for z in (by_hand, unrolled))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("solver", "steps"), [("naive", 80), ("anderson", 30), ("broyden", 30)])
def test_the_implicit_gradient_is_that_of_central_differences(solver: str, steps: int) -> None:
    bias = BIAS.clone().requires_grad_()
    setting = SolverSetting.named(solver, steps, 1e-10)
    z_BD = implicit(lambda z: layer(z, bias), equilibrium(BIAS), setting)
    (found,) = torch.autograd.grad(loss(z_BD), bias)
    expected = implicit_gradient()
    assert float((found - expected).norm() / expected.norm()) < 1e-7


def test_the_implicit_gradient_reaches_the_input_through_the_equilibrium() -> None:
    """What an adversary climbs: d loss / d x by central differences, x the input of every evaluation."""

    def loss_of(x_BD: Tensor) -> Tensor:
        def f(z_BD: Tensor) -> Tensor:
            return torch.tanh(z_BD @ COUPLING + x_BD)

        solved_BD = solve(f, torch.zeros_like(x_BD), SolverSetting.named("naive", 120)).z_BD
        return loss(implicit(f, solved_BD, SolverSetting.named("anderson", 30, 1e-10)))

    x_BD = INPUT_BD.clone().requires_grad_()
    (found_BD,) = torch.autograd.grad(loss_of(x_BD), x_BD)
    step = 1e-5
    for sample, element in ((0, 0), (1, 5), (2, 11)):
        shift_BD = torch.zeros_like(INPUT_BD)
        shift_BD[sample, element] = step
        slope = (loss_of(INPUT_BD + shift_BD) - loss_of(INPUT_BD - shift_BD)) / (2 * step)
        assert found_BD[sample, element].item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-8)


def test_the_backward_solve_of_the_implicit_gradient_is_cut_off_at_its_steps() -> None:
    """One naive step from g is `J' g + g`, the phantom gradient of two evaluations made at z* itself."""
    bias = BIAS.clone().requires_grad_()
    solved_BD = equilibrium(BIAS)
    z_BD = implicit(lambda z: layer(z, bias), solved_BD, SolverSetting.named("naive", 1))
    (found,) = torch.autograd.grad(loss(z_BD), bias)
    (expected,) = torch.autograd.grad(loss(unroll(lambda z: layer(z, bias), solved_BD, 2)), bias)
    assert torch.allclose(found, expected, rtol=1e-12)


def test_without_a_graph_the_implicit_gradient_is_one_evaluation() -> None:
    solved_BD = equilibrium(BIAS)
    with torch.no_grad():
        z_BD = implicit(lambda z: layer(z, BIAS), solved_BD, SolverSetting.named("naive", 1))
    assert torch.equal(z_BD, layer(solved_BD, BIAS))
