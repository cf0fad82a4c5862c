from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from srs_ray.models.mdeq import loops
from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.checkpoints import build_model, inference_model, random_weights, read_weights
from srs_ray.models.mdeq.fused import FusedFeatures, FusedLayer
from srs_ray.models.mdeq.loops import normalize_into, normalize_relu
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.solvers import loops as solver_loops


@pytest.fixture(params=[1, 3], ids=lambda threads: f"{threads} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def drawn_norms(arch: str) -> MDEQ:
    """A random model in float64 whose norms have parameters that are not all the same."""
    model = build_model(arch, random_weights(arch), dtype="float64")
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm) and module.affine:
            module.weight.normal_(1, 0.5, generator=generator)
            module.bias.normal_(generator=generator)
    model.channels_last = True
    return model.to(memory_format=torch.channels_last)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.inference_mode()
def test_it_is_the_layer_and_leaves_state_and_injection_as_they_are(arch: str) -> None:
    model = drawn_norms(arch)
    generator = torch.Generator().manual_seed(2)
    z_BD = torch.randn(3, model.config.state_size, generator=generator, dtype=torch.float64)
    injection_BCHW = torch.randn(3, *model.config.branch_shapes[0], generator=generator, dtype=torch.float64)
    before = z_BD.clone(), injection_BCHW.clone()
    fused = FusedLayer(model.fullstage, model.config.branch_shapes)
    assert torch.allclose(fused(z_BD, injection_BCHW), model.f(z_BD, injection_BCHW), rtol=0, atol=1e-11)
    assert torch.equal(z_BD, before[0])
    assert torch.equal(injection_BCHW, before[1])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_models_arranged_for_a_cpu_have_it_but_in_bfloat16(dtype: str) -> None:
    arranged = inference_model("mdeq-tiny-digits", read_weights("mdeq-tiny-digits-sigma25"), dtype=dtype)
    assert isinstance(arranged.fused_layer, FusedLayer) == (dtype != "bfloat16")
    assert isinstance(arranged.fused_features, FusedFeatures) == (dtype != "bfloat16")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["state", "injection"])
@torch.inference_mode()
def test_a_value_that_is_not_finite_spreads_through_its_sample_and_no_other(wrong: float, where: str) -> None:
    arranged = inference_model("mdeq-small-cifar10", read_weights("mdeq-small-cifar10-sigma50"))
    injection_BCHW = arranged.inject(torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3)))
    z_BD = arranged.f(arranged.zero_state(5), injection_BCHW)
    expected = arranged.f(z_BD, injection_BCHW)
    if where == "state":
        z_BD[2, -1] = wrong  # a corner of the coarsest branch
    else:
        injection_BCHW[2, 0, 0, 0] = wrong
    fz_BD = arranged.f(z_BD, injection_BCHW)
    finite_B = fz_BD.isfinite().all(dim=1)
    assert finite_B.tolist() == [True, True, False, True, True]
    for shape, branch in zip(arranged.config.branch_shapes, arranged.split(fz_BD), strict=True):
        assert not branch[2].isfinite().any(), f"something of the branch {shape} is finite"
    assert torch.equal(fz_BD[finite_B], expected[finite_B])


@pytest.mark.parametrize(("groups", "channels"), [(8, 8), (8, 16), (4, 8), (4, 160), (1, 6)])
def test_a_norm_is_torchs(groups: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(4)
    x_BCHW = 3 * torch.randn(3, channels, 6, 8, generator=generator, dtype=torch.float64) + 1
    weight_C, bias_C = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    expected_BCHW = F.group_norm(x_BCHW, groups, weight_C, bias_C)
    parameters = weight_C.numpy(), bias_C.numpy(), groups
    for pixels in (1, 2, 16):  # in a row
        x_BRL = x_BCHW.permute(0, 2, 3, 1).reshape(3, -1, pixels * channels).numpy().copy()
        z_BD = np.full((3, x_BRL[0].size + 5), 7.0)
        normalize_into(x_BRL, *parameters, z_BD, 3)
        y_BCHW = torch.from_numpy(z_BD[:, 3:-2]).reshape(3, 6, 8, channels).permute(0, 3, 1, 2)
        assert torch.allclose(y_BCHW, expected_BCHW, rtol=0, atol=1e-12)
        assert (z_BD[:, :3] == 7.0).all()
        assert (z_BD[:, -2:] == 7.0).all()
        normalize_relu(x_BRL, *parameters)
        y_BCHW = torch.from_numpy(x_BRL).reshape(3, 6, 8, channels).permute(0, 3, 1, 2)
        assert torch.allclose(y_BCHW, expected_BCHW.relu(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [16, 56])
def test_a_norm_is_exact_where_means_are_large(size: int) -> None:
    x_BCHW = torch.randn(4, 16, size, size, generator=torch.Generator().manual_seed(6)) + 30
    exact = F.group_norm(x_BCHW.double(), 8)
    x_BRL = x_BCHW.permute(0, 2, 3, 1).reshape(4, -1, 64).numpy()
    z_BD = np.empty((4, x_BRL[0].size), dtype=np.float32)
    normalize_into(x_BRL, np.ones(16, np.float32), np.zeros(16, np.float32), 8, z_BD, 0)
    found = torch.from_numpy(z_BD).view(4, size, size, 16).permute(0, 3, 1, 2)
    assert (found - exact).abs().max() < 2e-5


def test_norms_that_the_loops_do_not_know_are_refused() -> None:
    model = build_model("mdeq-tiny-digits", random_weights("mdeq-tiny-digits"))
    model.fullstage.branches[0].blocks[0].gn3.eps = 1e-3
    with pytest.raises(ValueError, match=r"not norms of 8 groups at an eps of 1e-05: .*eps=0.001"):
        FusedLayer(model.fullstage, model.config.branch_shapes)


@torch.inference_mode()
def test_the_head_leaves_its_states_as_they_are_and_gives_the_plain_heads_logits() -> None:
    for arch in ("mdeq-tiny-digits", "mdeq-small-cifar10", "mdeq-large-cifar10"):
        weights = random_weights(arch)
        z_BD = torch.randn(5, ARCHITECTURES[arch].state_size, generator=torch.Generator().manual_seed(5)).double()
        arranged = inference_model(arch, weights, dtype="float64")
        before_BD = z_BD.clone()
        logits = arranged.head(z_BD)
        assert torch.equal(z_BD, before_BD)
        plain = build_model(arch, weights, dtype="float64")
        plain.channels_last = True
        assert torch.allclose(logits, plain.head(z_BD), rtol=0, atol=1e-10)


@torch.inference_mode()
def test_logits_of_a_state_that_is_not_finite_are_not_finite_and_others_stay() -> None:
    arranged = inference_model("mdeq-small-cifar10", read_weights("mdeq-small-cifar10-sigma50"))
    z_BD = torch.randn(5, arranged.config.state_size, generator=torch.Generator().manual_seed(5))
    expected = arranged.head(z_BD)
    z_BD[1, 0], z_BD[3] = torch.nan, torch.nan
    logits = arranged.head(z_BD)
    assert logits.isfinite().all(dim=1).tolist() == [True, False, True, False, True]
    assert torch.equal(logits[::2], expected[::2])


def every_loop(place: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """What the loops make of the same arrays, wherever those are placed."""
    rng = np.random.default_rng(7)

    def drawn(*shape: int) -> np.ndarray:
        return place(rng.standard_normal(shape, dtype=np.float32))

    x, z, injection, y = drawn(3, 8, 80), drawn(3, 700), drawn(3, 8, 80), drawn(3, 8, 80)
    weights, biases = drawn(2, 8), drawn(2, 8)
    loops.end_block(x, injection, z, 7, weights, biases, 8, y)
    carried, onto = drawn(3, 2, 80), drawn(3, 8, 80)
    loops.add_carried(carried, weights[0], biases[0], 4, 2, True, onto)
    into = drawn(3, 700)
    loops.normalize_into(drawn(3, 8, 80), weights[1], biases[1], 8, into, 5)
    state, value, f, g = drawn(1, 640), drawn(1, 640), (drawn(1, 640), drawn(1, 640)), (drawn(1, 640), drawn(1, 640))
    products, length, following, taken = drawn(1, 2), drawn(1), drawn(1, 640), np.array([1])
    solver_loops.enter_difference(state, value, taken, g, products, length)
    solver_loops.sum_entries(f, drawn(1, 2), taken, following)
    step, weight, after, lengths = drawn(1, 640), drawn(1), drawn(1, 640), drawn(2, 1)
    solver_loops.broyden_step(state, value, np.array([2]), f, drawn(2, 1), step, weight, after, *lengths)
    sums, joined = drawn(6, 6 * 80), drawn(3, 8, 80)
    loops.filter_rows(drawn(3, 8, 80), sums, 0, 80)
    loops.join_rows(*sums, 80, joined)
    head, others = drawn(3, 640), drawn(3, 640)
    loops.add_relus(head, others)
    beside = drawn(3, 40, 16)
    loops.relu_beside(drawn(3, 40, 9), into, 5, beside)
    solver = [*g, products, length, following, step, weight, after, lengths]
    return [y, onto, into, *solver, sums, joined, head, beside]


@pytest.mark.parametrize("gap", [0, 1, 16])
def test_loops_round_alike_wherever_arrays_lie_in_memory(gap: int) -> None:
    """Neighbours without a gap are what compiled checks for overlapping arrays may take for overlapping."""
    memory, end = np.zeros(2**17, dtype=np.float32), 0

    def place(array: np.ndarray) -> np.ndarray:
        nonlocal end
        here = memory[end : end + array.size].reshape(array.shape)
        here[...] = array
        end += array.size + gap
        return here

    for found, expected in zip(every_loop(place), every_loop(lambda array: array), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("batch", [2, 64])
@torch.inference_mode()
def test_from_one_state_for_all_a_step_is_the_same_and_its_blocks_are_convolved_once(batch: int) -> None:
    arranged = inference_model("mdeq-small-cifar10", read_weights("mdeq-small-cifar10-sigma50-start"))
    injection_BCHW = arranged.inject(torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(3)))
    start_D, seen = arranged.stored_state(), []
    for block in arranged.fused_layer.blocks:
        for convolution in (block.block.conv1, block.block.conv2):
            convolution.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    once_BD = arranged.f(start_D.expand(batch, -1), injection_BCHW)
    assert seen == [1] * 6, "two convolutions in each of three blocks"
    each_BD = arranged.f(start_D.repeat(batch, 1), injection_BCHW)
    assert torch.allclose(once_BD, each_BD, rtol=0, atol=1e-4)
    assert not torch.allclose(once_BD[0], once_BD[1], atol=0.01), "images differ"
    few_BD = arranged.f(start_D.expand(2, -1), injection_BCHW[-2:])
    assert torch.allclose(few_BD, once_BD[-2:], rtol=0, atol=1e-4)
