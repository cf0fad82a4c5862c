"""Our MDEQ against the published implementation: logits of a trained checkpoint in the published format."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.checkpoints import load_model
from srs_ray.models.mdeq.model import MDEQ

SETTINGS = [
    ("naive", 1),
    ("naive", 5),
    ("anderson", 1),
    ("anderson", 3),
    ("anderson", 10),
    ("broyden", 1),
    ("broyden", 3),
    ("broyden", 8),
]


@pytest.mark.parametrize(("solver", "steps"), SETTINGS)
def test_logits_agree_with_the_published_implementation(shared, solver, steps):
    expected = np.load(shared / "parity" / "mdeq-small-cifar10-sigma50.logits.npz")
    model = load_model("mdeq-small-cifar10", shared / "parity" / "mdeq-small-cifar10-sigma50.pth.tar")
    logits = model.logits(torch.from_numpy(expected["x"]), solver=solver, steps=steps).numpy()
    reference = expected[f"{solver}{steps}"]
    assert np.abs(logits - reference).max() < 1e-4 * np.abs(reference).max()


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "digits" not in name])
def test_every_tensor_has_its_published_name_and_shape(shared, name):
    published = json.loads((shared / "parity" / "state_dict_shapes.json").read_text())[name]
    ours = {key: list(tensor.shape) for key, tensor in MDEQ(ARCHITECTURES[name]).state_dict().items()}
    folded = {key.removesuffix("_v"): shape for key, shape in published.items() if not key.endswith("weight_g")}
    assert ours == folded
