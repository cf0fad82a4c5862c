from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.checkpoints import build_model, inference_model, random_weights, read_weights
from srs_ray.models.mdeq.fused import JoinedBottleneck
from srs_ray.models.mdeq.inference import PairedConvolution, arrange_for_inference
from srs_ray.models.mdeq.model import MDEQ, in_parts
from srs_ray.models.mdeq.winograd import WinogradConvolution

CPU = torch.device("cpu")


def trained_norms(arch: str) -> MDEQ:
    """A random model in float64 whose batch norms do something."""
    model = build_model(arch, random_weights(arch), dtype="float64")
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            if module.affine:
                module.weight.normal_(1, 0.2, generator=generator)
                module.bias.normal_(generator=generator)
    return model


@pytest.mark.parametrize("arch", ["mdeq-tiny-digits", "mdeq-small-cifar10", "mdeq-large-cifar10"])
@torch.inference_mode()
def test_the_arranged_model_computes_the_same_function(arch: str) -> None:
    x_BCHW = torch.rand(4, *ARCHITECTURES[arch].input_shape, dtype=torch.float64)
    plain = trained_norms(arch)
    expected = plain.logits(x_BCHW, steps=3)
    injection = plain.inject(x_BCHW)
    arranged = arrange_for_inference(plain, CPU, torch.float64)
    assert torch.allclose(arranged.inject(x_BCHW), injection, atol=1e-12)
    assert torch.allclose(arranged.logits(x_BCHW, steps=3), expected, atol=1e-9)


def test_a_state_is_taken_apart_and_joined_again_in_either_order() -> None:
    arranged = inference_model("mdeq-tiny-digits", read_weights("mdeq-tiny-digits-sigma25"))
    z_BD = torch.arange(2.0 * arranged.config.state_size).view(2, -1)
    for arranged.channels_last in (False, True):
        branches = arranged.split(z_BD)
        assert [tuple(z.shape[1:]) for z in branches] == arranged.config.branch_shapes
        assert torch.equal(arranged.join(branches), z_BD)


def test_no_batch_norm_is_left_and_narrow_convolutions_are_paired() -> None:
    arranged = inference_model("mdeq-small-cifar10", random_weights("mdeq-small-cifar10"))
    assert not [module for module in arranged.modules() if isinstance(module, nn.BatchNorm2d)]
    blocks = [branch.blocks[0] for branch in arranged.fullstage.branches]
    head = [incre[0] for incre in arranged.incre_modules]
    for several in (blocks, head):
        assert [isinstance(block.conv2, PairedConvolution) for block in several] == [True, False, False]
    assert all(isinstance(arranged.downsample[place], PairedConvolution) for place in (0, 3))


@pytest.mark.parametrize(
    ("arch", "dtype", "filtered"),
    [
        ("mdeq-tiny-digits", "float32", [False] * 2),
        ("mdeq-small-cifar10", "float32", [False] * 3),
        ("mdeq-large-cifar10", "float32", [True] * 4),
        ("mdeq-large-cifar10", "bfloat16", [False] * 4),
        ("mdeq-small-imagenet", "float32", [True] * 4),
    ],
)
def test_large_convolutions_are_filtered_where_precision_allows(arch: str, dtype: str, filtered: list[bool]) -> None:
    arranged = inference_model(arch, random_weights(arch), dtype=dtype)
    blocks = [branch.blocks[0] for branch in arranged.fullstage.branches]
    for name in ("conv1", "conv2"):
        assert [isinstance(getattr(block, name), WinogradConvolution) for block in blocks] == filtered


@pytest.fixture(params=[1, 3], ids=lambda threads: f"{threads} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("arch", "batch", "steps"),
    [
        *(("mdeq-small-cifar10", batch, 30) for batch in (64, 50, 25)),
        *(("mdeq-large-cifar10", batch, 3) for batch in (32, 11)),
        ("mdeq-small-imagenet", 8, 3),
    ],
)
@torch.inference_mode()
def test_a_sample_says_the_same_bit_for_bit_whichever_others_go_with_it_and_wherever_it_is(
    arch: str, batch: int, steps: int
) -> None:
    small = arch == "mdeq-small-cifar10"
    arranged = inference_model(arch, read_weights(f"{arch}-sigma50") if small else random_weights(arch))
    generator = torch.Generator().manual_seed(3)
    shape = (batch, *arranged.config.input_shape)
    x_BCHW, others_BCHW = (torch.rand(shape, generator=generator) for _ in range(2))
    logits = arranged.logits(x_BCHW, steps=steps, tolerance=1e-3)
    others_BCHW[::7] = x_BCHW[::7]
    assert torch.equal(arranged.logits(others_BCHW, steps=steps, tolerance=1e-3)[::7], logits[::7])
    shuffled = torch.randperm(batch, generator=generator)
    assert torch.equal(arranged.logits(x_BCHW[shuffled], steps=steps, tolerance=1e-3), logits[shuffled])


@pytest.mark.parametrize("weights", ["mdeq-tiny-digits-sigma25", "mdeq-small-cifar10-sigma50"])
@torch.inference_mode()
def test_float32_logits_are_those_of_the_plain_model_in_float64(weights: str) -> None:
    content = read_weights(weights)
    arch = str(content.card["architecture"])
    x_BCHW = torch.rand(32, *ARCHITECTURES[arch].input_shape, generator=torch.Generator().manual_seed(4))
    exact = build_model(arch, content, dtype="float64").logits(x_BCHW.double(), steps=5)
    assert (inference_model(arch, content).logits(x_BCHW, steps=5) - exact).abs().max() < 5e-4


LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("arch", ["mdeq-tiny-digits", "mdeq-small-cifar10", "mdeq-large-cifar10"])
def test_the_arranged_layer_has_derivatives_by_its_state(arch: str) -> None:
    """A layer's spectral radius is measured through them."""
    arranged = inference_model(arch, random_weights(arch), dtype="float64")
    generator = torch.Generator().manual_seed(7)
    z_BD, v_BD = torch.randn(2, 2, arranged.config.state_size, generator=generator, dtype=torch.float64)
    injection_BCHW = arranged.inject(torch.rand(2, *arranged.config.input_shape, generator=generator).double()).detach()
    fz_BD = arranged.f(z_BD.requires_grad_(), injection_BCHW)
    (g_BD,) = torch.autograd.grad(fz_BD, z_BD, v_BD)
    step_BD = 1e-6 * torch.randn(z_BD.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        along = ((arranged.f(z_BD + step_BD, injection_BCHW) - arranged.f(z_BD - step_BD, injection_BCHW)) * v_BD).sum()
    assert (2 * g_BD * step_BD).sum() == pytest.approx(along.item(), rel=1e-3)


@torch.inference_mode()
def test_in_bfloat16_the_network_computes_and_states_and_logits_stay_float32() -> None:
    weights = read_weights("mdeq-small-cifar10-sigma50")
    x_BCHW = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    single = inference_model("mdeq-small-cifar10", weights)
    half = inference_model("mdeq-small-cifar10", weights, dtype="bfloat16")
    assert half.network_dtype == torch.bfloat16
    assert torch.equal(half.mean, single.mean)  # pixels are standardised as they were
    z_BD = half.f(half.zero_state(32), half.inject(x_BCHW))
    assert z_BD.dtype == half.zero_state(1).dtype == torch.float32
    assert torch.equal(z_BD, z_BD.bfloat16().float())  # nothing finer came out of the network
    expected = single.logits(x_BCHW)
    logits = half.logits(x_BCHW, steps=8)
    assert logits.dtype == torch.float32
    assert 0 < (logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_paired_convolution_is_the_convolution(bias: bool) -> None:
    convolution = nn.Conv2d(5, 7, 3, padding=1, bias=bias).double()
    x_BCHW = torch.randn(3, 5, 6, 8, dtype=torch.float64)
    paired = PairedConvolution(convolution)
    for layout in LAYOUTS:
        assert torch.allclose(paired(x_BCHW.contiguous(memory_format=layout)), convolution(x_BCHW), atol=1e-12)


@torch.inference_mode()
def test_a_bottleneck_with_its_shortcut_joined_is_the_bottleneck() -> None:
    plain = trained_norms("mdeq-small-cifar10")
    z_branches = [torch.randn(3, *shape, dtype=torch.float64) for shape in plain.config.branch_shapes]
    expected = [incre(z) for incre, z in zip(plain.incre_modules, z_branches, strict=True)]
    arranged = arrange_for_inference(plain, CPU, torch.float64)
    for incre, z, y in zip(arranged.incre_modules, z_branches, expected, strict=True):
        assert isinstance(incre[0], JoinedBottleneck)
        assert torch.allclose(incre(z), y, atol=1e-12)


@pytest.mark.parametrize(
    ("batch", "at_once", "sizes"),
    [
        (64, 16, [16] * 4),
        (24, 16, [8] * 3),
        (16, 16, [16]),
        (8, 16, [8]),
        (50, 16, [50]),  # in twos it would be slower than whole
        (6, 1, [1] * 6),
        (6, None, [6]),
    ],
)
def test_parts_of_a_batch_are_equal_and_not_far_smaller_than_asked_for(batch, at_once, sizes) -> None:
    seen = []

    def double(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return 2 * part

    x_BCHW = torch.randn(batch, 1, 2, 2)
    assert torch.equal(in_parts(double, x_BCHW, at_once), 2 * x_BCHW)
    assert seen == sizes
