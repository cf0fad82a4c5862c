from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from srs_ray.models.mdeq.architectures import ARCHITECTURES, architecture
from srs_ray.models.mdeq.checkpoints import build_model, load_model, random_weights
from srs_ray.solvers.iteration import SolverSetting, solve

ARCH = "mdeq-tiny-digits"


@pytest.fixture(scope="module")
def model():
    return build_model(ARCH, random_weights(ARCH))


def test_split_takes_apart_what_join_puts_together(model):
    z_BD = torch.randn(3, model.config.state_size)
    assert torch.equal(model.join(model.split(z_BD)), z_BD)
    assert [tuple(z.shape[1:]) for z in model.split(z_BD)] == model.config.branch_shapes


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_branches_halve_their_resolution(name):
    config = architecture(name)
    heights = [h for _, h, _ in config.branch_shapes]
    assert all(fine == 2 * coarse for fine, coarse in pairwise(heights))
    assert heights[0] == config.input_shape[1] // 2**config.downsample_times


def test_a_samples_logits_do_not_depend_on_its_neighbours(model):
    x_BCHW = torch.rand(6, 1, 16, 16)
    together = model.logits(x_BCHW, "anderson", 8, tolerance=1e-2)
    for row in range(6):
        alone = model.logits(x_BCHW[row : row + 1], "anderson", 8, tolerance=1e-2)
        assert torch.allclose(alone[0], together[row], atol=1e-4)


def test_without_a_setting_logits_are_those_of_the_architectures_reference():
    model, x_BCHW = load_model(ARCH, "mdeq-tiny-digits-sigma25"), torch.rand(2, 1, 16, 16)
    assert torch.equal(model.logits(x_BCHW), model.logits(x_BCHW, "anderson", 30, 1e-3))
    assert not torch.equal(model.logits(x_BCHW), model.logits(x_BCHW, steps=30)), "steps alone: all of them are taken"
    assert str(architecture("mdeq-small-imagenet").reference) == "14B"


@pytest.mark.parametrize("setting", [{"steps": 0}, {"solver": ""}, {"tolerance": 0.0}], ids=str)
def test_a_setting_that_is_no_setting_is_refused_and_not_replaced_by_the_default(model, setting):
    with pytest.raises(ValueError, match=r"not 0|no solver ''"):
        model.logits(torch.rand(1, 1, 16, 16), **setting)


def test_only_the_highest_resolution_is_injected(model):
    x_BCHW = torch.rand(1, 1, 16, 16)
    injection_BCHW = model.inject(x_BCHW)
    assert tuple(injection_BCHW.shape[1:]) == model.config.branch_shapes[0]
    found = solve(lambda z: model.f(z, injection_BCHW), model.zero_state(1), SolverSetting.named("naive", 1))
    assert torch.equal(found.z_BD, model.f(model.zero_state(1), injection_BCHW))
