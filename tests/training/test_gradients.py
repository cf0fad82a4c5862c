from __future__ import annotations

import torch
from torch import Tensor

from srs_ray.models.solvers import SolverSetting, solve
from srs_ray.training.gradients import unroll

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
