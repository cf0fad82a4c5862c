"""The first evaluation from a constant start, with derivatives, as trainings take it: alike states are one."""

from __future__ import annotations

import pytest
import torch

from srs_ray.models.mdeq.checkpoints import build_model, random_weights
from srs_ray.models.mdeq.model import ResidualBlock


@pytest.mark.parametrize("batch", [1, 5])
def test_states_logits_and_gradients_are_those_of_as_many_copies(batch: int) -> None:
    model = build_model("mdeq-tiny-digits", random_weights("mdeq-tiny-digits")).double().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.rand(batch, 1, 16, 16, generator=generator, dtype=torch.float64)
    start_D = torch.randn(model.config.state_size, generator=generator, dtype=torch.float64).requires_grad_()
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            module.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    found = []
    for state_BD in (start_D.expand(batch, -1), start_D.repeat(batch, 1)):
        seen.clear()
        logits_BK = model.head(model.f(state_BD, model.inject(x_BCHW)))
        weights = list(model.parameters())
        gradients = torch.autograd.grad(logits_BK.square().sum(), [start_D, *weights], allow_unused=True)
        found.append((logits_BK, *(gradient for gradient in gradients if gradient is not None)))
        assert set(seen) == {1 if state_BD.stride(0) == 0 else batch}
    for once, each in zip(*found, strict=True):
        torch.testing.assert_close(once, each, rtol=1e-9, atol=1e-9)
