from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from srs_ray.models.mdeq.architectures import architecture
from srs_ray.models.mdeq.checkpoints import build_model, random_weights
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.models.mdeq.weight_normalization import add_weight_normalization, folded_tensors
from srs_ray.models.weights import Weights

ARCH = "mdeq-tiny-digits"
X_BCHW = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_weight_normalization_leaves_the_function_as_it_is() -> None:
    model = build_model(ARCH, random_weights(ARCH))
    before = model.logits(X_BCHW)
    add_weight_normalization(model)
    torch.testing.assert_close(model.logits(X_BCHW), before)


def test_folded_tensors_are_a_plain_checkpoint_of_the_same_function_bit_for_bit() -> None:
    model = build_model(ARCH, random_weights(ARCH))
    add_weight_normalization(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    folded = build_model(ARCH, Weights(folded_tensors(model), {}))
    assert torch.equal(folded.logits(X_BCHW), model.logits(X_BCHW))


@pytest.mark.parametrize("name", ["mdeq-small-cifar10", "mdeq-large-cifar10", "mdeq-small-imagenet"])
def test_the_normalized_convolutions_are_those_of_the_published_checkpoints(name: str, shared: Path) -> None:
    published = json.loads((shared / "parity" / "state_dict_shapes.json").read_text())[name]
    model = MDEQ(architecture(name))
    add_weight_normalization(model)
    gains = {key for key in model.state_dict() if key.endswith(".parametrizations.weight.original0")}
    assert {key.replace(".parametrizations.weight.original0", ".weight_g") for key in gains} == {
        key for key in published if key.endswith(".weight_g")
    }
