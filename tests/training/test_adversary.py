from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from srs_ray.training.adversary import attack, smoothed_loss

GENERATOR = torch.Generator().manual_seed(0)
CLASSES = 3
X_BCHW = torch.rand(4, 1, 3, 3, generator=GENERATOR, dtype=torch.float64)
Y_B = torch.tensor([0, 1, 2, 0])
NOISE_MBCHW = 0.25 * torch.randn(5, *X_BCHW.shape, generator=GENERATOR, dtype=torch.float64)
WEIGHT = torch.randn(9, CLASSES, generator=GENERATOR, dtype=torch.float64)


def logits_of(x_NCHW: Tensor) -> Tensor:
    return torch.tanh(x_NCHW.flatten(1) @ WEIGHT) * 3


def loss_of(x_BCHW: Tensor) -> Tensor:
    """The smoothed loss as Salman et al. write it: minus the log of the mean probability over the noise."""
    p_MB = torch.stack([logits_of(x_BCHW + noise_BCHW).softmax(1)[torch.arange(4), Y_B] for noise_BCHW in NOISE_MBCHW])
    return -p_MB.mean(0).log()


def test_the_smoothed_loss_is_of_the_mean_probability_and_not_the_mean_of_losses() -> None:
    logits_MBK = logits_of((X_BCHW + NOISE_MBCHW).flatten(0, 1)).unflatten(0, (5, 4))
    found_B = smoothed_loss(logits_MBK, Y_B)
    assert torch.allclose(found_B, loss_of(X_BCHW), atol=1e-6)
    mean_of_losses_B = torch.stack([torch.nn.functional.cross_entropy(x, Y_B, reduction="none") for x in logits_MBK])
    assert bool((found_B < mean_of_losses_B.mean(0) - 1e-6).all())


def test_one_step_goes_along_the_gradient_that_central_differences_find_as_far_as_the_radius() -> None:
    moved_BCHW = attack(logits_of, X_BCHW, Y_B, NOISE_MBCHW, radius=0.3, steps=1) - X_BCHW
    step = 1e-6
    slope_BP = torch.stack(
        [
            (loss_of(X_BCHW + shift) - loss_of(X_BCHW - shift)) / (2 * step)
            for shift in step * torch.eye(9, dtype=torch.float64).view(9, 1, 3, 3)
        ],
        dim=1,
    )
    along_BP = 0.3 * slope_BP / slope_BP.norm(dim=1, keepdim=True)
    assert torch.allclose(moved_BCHW.flatten(1), along_BP, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_images_stay_within_the_radius_and_their_loss_rises(steps: int) -> None:
    attacked_BCHW = attack(logits_of, X_BCHW, Y_B, NOISE_MBCHW, radius=0.3, steps=steps)
    distance_B = (attacked_BCHW - X_BCHW).flatten(1).norm(dim=1)
    assert float(distance_B.max()) <= 0.3 + 1e-9
    assert bool((loss_of(attacked_BCHW) > loss_of(X_BCHW)).all())


def test_more_steps_find_at_least_as_much_as_random_directions_of_the_same_length() -> None:
    attacked_B = loss_of(attack(logits_of, X_BCHW, Y_B, NOISE_MBCHW, radius=0.3, steps=10))
    for _ in range(200):
        direction_BCHW = torch.randn(X_BCHW.shape, generator=GENERATOR, dtype=torch.float64)
        norm_B111 = direction_BCHW.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        assert bool((loss_of(X_BCHW + 0.3 * direction_BCHW / norm_B111) <= attacked_B + 1e-6).all())


def test_a_flat_loss_moves_nothing() -> None:
    def flat(x_NCHW: Tensor) -> Tensor:
        return 0.0 * x_NCHW.flatten(1) @ WEIGHT

    attacked_BCHW = attack(flat, X_BCHW, Y_B, NOISE_MBCHW, radius=0.3, steps=3)
    assert torch.equal(attacked_BCHW, X_BCHW)
    assert math.isclose(float(smoothed_loss(flat(X_BCHW).unsqueeze(0), Y_B)[0]), math.log(CLASSES), rel_tol=1e-6)
