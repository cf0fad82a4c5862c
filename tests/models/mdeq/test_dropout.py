from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srs_ray.models.mdeq.checkpoints import build_model, random_weights
from srs_ray.models.mdeq.dropout import variational_dropout
from srs_ray.models.mdeq.model import MDEQ

ARCH, BATCH = "mdeq-tiny-digits", 64


@pytest.fixture(scope="module")
def model() -> MDEQ:
    return build_model(ARCH, random_weights(ARCH))


def first_convolutions_output(model: MDEQ, z_BCHW: Tensor) -> Tensor:
    return model.fullstage.branches[0].blocks[0].conv2(z_BCHW)


def test_one_mask_per_image_and_channel_holds_for_every_evaluation_of_a_solve(model: MDEQ) -> None:
    z_BCHW = torch.randn(BATCH, 40, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = first_convolutions_output(model, z_BCHW)
    with variational_dropout(model, 0.25, BATCH, torch.Generator().manual_seed(1)):
        once, again = (first_convolutions_output(model, z_BCHW) for _ in range(2))
    assert torch.equal(once, again)
    dropped_BC = (once == 0).all(dim=(2, 3))
    kept = once[~dropped_BC]
    assert torch.allclose(kept, plain[~dropped_BC] / 0.75, rtol=1e-6)
    # 512 masks, each 0 with probability 1/4: five standard deviations are 0.096.
    assert float(dropped_BC.float().mean()) == pytest.approx(0.25, abs=0.096)
    assert len(torch.unique(dropped_BC, dim=0)) > 10  # images have masks of their own


def test_the_layer_is_one_map_under_dropout_and_itself_again_after_it(model: MDEQ) -> None:
    generator = torch.Generator().manual_seed(2)
    injection_BCHW = model.inject(torch.rand(BATCH, 1, 16, 16, generator=generator))
    z_BD = torch.randn(BATCH, model.config.state_size, generator=generator)
    plain_BD = model.f(z_BD, injection_BCHW)
    with variational_dropout(model, 0.25, BATCH, generator):
        dropped_BD = model.f(z_BD, injection_BCHW)
        assert torch.equal(model.f(z_BD, injection_BCHW), dropped_BD)
    assert not torch.allclose(dropped_BD, plain_BD)
    assert torch.equal(model.f(z_BD, injection_BCHW), plain_BD)


def test_no_rate_changes_nothing_and_draws_nothing(model: MDEQ) -> None:
    generator = torch.Generator().manual_seed(3)
    z_BCHW = torch.randn(BATCH, 40, 16, 16)
    with variational_dropout(model, 0.0, BATCH, generator):
        assert torch.equal(first_convolutions_output(model, z_BCHW), first_convolutions_output(model, z_BCHW))
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state())
