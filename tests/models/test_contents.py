"""What belongs to a user's network: found for the digest, moved to the device, and checked for training mode."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from srs_ray.errors import WeightsError
from srs_ray.models.contents import modules_of, move, tensors_of
from srs_ray.models.opened import training_modules
from srs_ray.models.opening import load_weights
from srs_ray.models.weights import Weights, read_tensors

CPU = torch.device("cpu")


class Plain(nn.Module):
    """Tensors in every place but a parameter or a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.scale = torch.tensor(2.0)
        self.taps = [torch.ones(2), (torch.ones(1), 4)]
        self.by_name = {"mean": torch.zeros(3)}
        self.table = np.arange(4)
        self.layers = [nn.Linear(2, 2)]  # no ModuleList: torch itself does not see it


class Holder:
    """No module itself."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def names_of(network: Any) -> set[str]:
    return {name for name, _ in tensors_of(network)}


def test_every_tensor_of_a_module_is_found_by_name():
    assert names_of(Plain()) == {
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "scale",
        "taps.0",
        "taps.1.0",
        "by_name.mean",
        "table",
        "layers.0.weight",
        "layers.0.bias",
    }


@pytest.mark.parametrize("how", ["closure", "partial", "method", "object", "object in a list"])
def test_a_module_is_found_however_it_is_held(how):
    inner = nn.Linear(2, 2)
    network = {
        "closure": lambda: lambda x: inner(x),
        "partial": lambda: functools.partial(lambda net, x: net(x), inner),
        "method": lambda: Holder(inner).__call__,
        "object": lambda: Holder(inner),
        "object in a list": lambda: Holder([Holder(inner)]),
    }[how]()
    assert [module for _, module in modules_of(network)] == [inner]
    assert len(names_of(network)) == 2
    assert training_modules(network)
    move(network, CPU, torch.float64)
    assert inner.weight.dtype == torch.float64
    inner.eval()
    assert not training_modules(network)


def test_tensors_that_torch_does_not_know_of_move_along():
    network = Plain()
    move(network, CPU, torch.bfloat16)
    kept = ("norm.num_batches_tracked", "table")  # whole numbers
    types = {name: tensor.dtype for name, tensor in tensors_of(network)}
    assert {dtype for name, dtype in types.items() if name not in kept} == {torch.bfloat16}
    assert not any(types[name].is_floating_point for name in kept)
    assert network.taps[1][1] == 4


def test_a_tensor_that_a_function_closes_over_moves_along():
    weight = torch.ones(2)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * weight

    move(scaled, CPU, torch.float64)
    assert weight.dtype == torch.float64
    assert scaled(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_another_value_anywhere_is_another_digest():
    def digest_after(change: Any) -> str:
        torch.manual_seed(0)
        network = Plain()
        change(network)
        return Weights(dict(tensors_of(network)), {}).digest

    changes = [
        lambda network: None,
        lambda network: network.scale.fill_(3.0),
        lambda network: network.taps[1][0].fill_(3.0),
        lambda network: network.by_name["mean"].fill_(3.0),
        lambda network: network.table.fill(7),
        lambda network: network.layers[0].bias.data.fill_(3.0),
        lambda network: network.norm.running_mean.fill_(3.0),
    ]
    assert len({digest_after(change) for change in changes}) == len(changes)
    assert digest_after(changes[0]) == digest_after(changes[0])


def test_an_object_that_holds_itself_is_walked_once():
    holder = Holder(nn.Linear(1, 1))
    holder.me = [holder]
    assert names_of(holder) == {"inner.weight", "inner.bias"}


def test_weights_fit_with_and_without_module_before_the_names(tmp_path):
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 3)

    for network in (Wrapper(), nn.Linear(2, 3)):
        state = network.state_dict()
        for number, names in enumerate(({"": ""}, {"": "module."})):
            [prefix] = names.values()
            path = tmp_path / f"{type(network).__name__}-{number}.pth"
            torch.save({"state_dict": {f"{prefix}{name}": tensor + 1 for name, tensor in state.items()}}, path)
            load_weights(network, read_tensors(path), "net")
            assert all((network.state_dict()[name] != 0).any() for name in state)
    with pytest.raises(WeightsError, match=r"missing: bias\n  not in this model: bios"):
        load_weights(nn.Linear(2, 3), Weights({"weight": torch.ones(3, 2), "bios": torch.ones(3)}, {}), "net")
