"""That sampling keeps a GPU busy, looked at without one: tensors that only claim to lie on it, and hold no values.

To read a value of one is an error (torch's FakeTensorMode), and so is here to copy one from or to the host: each would
have a GPU's queue run dry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.smoothing.base_classifier import PredictionsOnDevice
from srs_ray.smoothing.noise import Domain, NoisyPoint, noise_generator
from srs_ray.smoothing.samplers import SerializedSampler
from srs_ray.solvers.iteration import SolverSetting

CHAINS, BATCH = 24, 8


class NoCopies(TorchFunctionMode):
    """Refuses calls that make a GPU's tensor of the host's values, or the other way round."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        places = {tensor.device.type for tensor in tensors}
        if func in (torch.tensor, torch.as_tensor):
            places.add("cpu")
        if len(places) > 1:
            raise AssertionError(f"{func.__name__} copies between {' and '.join(sorted(places))}")
        return result


@pytest.fixture
def sampler(request: pytest.FixtureRequest) -> Iterator[SerializedSampler]:
    """On chains of a model whose weights nobody knows, by the solver that the test names."""
    with FakeTensorMode():
        with torch.device("cuda"):
            model = MDEQ(ARCHITECTURES["mdeq-tiny-digits"]).eval()
            x_CHW = torch.rand(model.config.input_shape)
        point = NoisyPoint(x_CHW, 0.25, 0, 0, noise_generator("auto", "cuda"))
        with torch.inference_mode():
            point.samples(Domain.ESTIMATION, range(1))  # takes the law's thresholds to the device, once and for all
            yield SerializedSampler(model, point, SolverSetting.named(request.param, 3), 5, CHAINS, BATCH)


@pytest.mark.parametrize("sampler", ["naive", "anderson", "broyden"], indirect=True)
def test_a_round_of_chains_asks_a_gpu_nothing(sampler: SerializedSampler):
    numbers = range(2 * CHAINS, 3 * CHAINS)
    drawn = PredictionsOnDevice(CHAINS, sampler.model.device)
    batches = sampler._batches(numbers)
    with NoCopies():
        for batch, x_BCHW in zip(batches, sampler.point.batches(Domain.ESTIMATION, batches), strict=True):
            chains = np.array(batch) - numbers.start
            for setting in (sampler.warmup, sampler.setting):
                solution = sampler._advance(x_BCHW, chains, setting)
                drawn.count(solution)
                drawn.classify(chains, sampler.model.head(solution.z_BD), solution.finite_B)
    assert drawn.classes_N.device.type == "cuda"


@pytest.mark.parametrize("sampler", ["anderson"], indirect=True)
def test_what_would_wait_for_a_gpu_is_noticed(sampler: SerializedSampler):
    scattered = np.array([0, 2, 5])
    with NoCopies(), pytest.raises(AssertionError, match="copies between cpu and cuda"):
        sampler._advance(sampler.point.samples(Domain.ESTIMATION, range(3)), scattered, sampler.setting)
    with NoCopies(), pytest.raises(AssertionError, match="tensor copies between cpu and cuda"):
        sampler.point.samples(Domain.ESTIMATION, [0, 2, 5])
    with pytest.raises(DataDependentOutputException):
        PredictionsOnDevice(CHAINS, sampler.model.device).read()
