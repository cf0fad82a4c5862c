"""Python's door: any torch module, any kind of image, and noise that two images never share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import srs_ray
from srs_ray import interface
from srs_ray.data import open_dataset
from srs_ray.models.as_opened import as_opened
from srs_ray.smoothing.noise import GridNoise, NoisyPoint
from srs_ray.solvers.iteration import SolverSetting

HERE = {"sigma": 0.25, "n0": 20, "n": 100, "alpha": 0.01}


class Net(nn.Module):
    """A small classifier of RGB images with batch normalisation, in evaluation mode."""

    def __init__(self, classes: int = 5, width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.out = nn.Linear(width, classes)
        self.eval()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.conv(x_BCHW))).mean(dim=(2, 3))) * 20


class TwoStates(nn.Module):
    """An equilibrium of two tensors: f is a contraction of both."""

    state_shape = ((4, 6, 6), (5,))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.across = nn.Linear(144, 5)
        self.out = nn.Linear(149, 5)
        self.eval()
        with torch.no_grad():
            for parameter in (self.conv.weight, self.across.weight):
                parameter *= 0.2

    def inject(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        u_BCHW = self.stem(x_BCHW)
        return u_BCHW, u_BCHW.mean(dim=(2, 3))

    def f(self, z: tuple[Tensor, Tensor], injection: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        image_BCHW, vector_BD = z
        u_BCHW, mean_BC = injection
        pushed_BCHW = torch.relu(self.conv(image_BCHW) + u_BCHW + 0.1 * vector_BD.mean(dim=1)[:, None, None, None])
        return pushed_BCHW, torch.tanh(self.across(image_BCHW.flatten(1)) + mean_BC.mean(dim=1, keepdim=True))

    def head(self, z: tuple[Tensor, Tensor]) -> Tensor:
        return self.out(torch.cat([z[0].flatten(1), z[1]], dim=1)) * 20


class OneState(nn.Module):
    """The same with its state flattened by hand."""

    state_shape = (149,)

    def __init__(self) -> None:
        super().__init__()
        self.inner = TwoStates()
        self.eval()

    def inject(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([part.flatten(1) for part in self.inner.inject(x_BCHW)], dim=1)

    def f(self, z_BD: Tensor, injection_BD: Tensor) -> Tensor:
        injection = injection_BD[:, :144].unflatten(1, (4, 6, 6)), injection_BD[:, 144:]
        image_BCHW, vector_BD = self.inner.f((z_BD[:, :144].unflatten(1, (4, 6, 6)), z_BD[:, 144:]), injection)
        return torch.cat([image_BCHW.flatten(1), vector_BD], dim=1)

    def head(self, z_BD: Tensor) -> Tensor:
        return self.inner.head((z_BD[:, :144].unflatten(1, (4, 6, 6)), z_BD[:, 144:]))


@pytest.fixture(autouse=True)
def _no_image_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "_UNNAMED", {})


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (4, 3, 12, 12), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def counts_of(row: srs_ray.PointRow) -> tuple[object, ...]:
    return row.selected, row.classes, row.counts, row.p_lower, row.radius


def test_a_torch_module_is_certified_by_standard_sampling(images):
    row = srs_ray.certify_point(Net(), images[0], **HERE, label=1)
    assert (row.method, row.n, row.function_evaluations, row.reference_evaluations) == ("standard", 100, 120, 0)
    assert row.p_lower == pytest.approx(srs_ray.clopper_pearson_lower(max(row.counts), 100, 0.01), rel=1e-12)


def test_its_counts_are_those_of_a_plain_loop_over_the_same_noise(images):
    net, x_CHW = Net(), images[0].float() / 255
    row = srs_ray.certify_point(net, images[0], **HERE, batch=32)
    point = NoisyPoint(x_CHW, 0.25, 0, 0, GridNoise(torch.device("cpu")))
    with torch.inference_mode():
        said = net(point.samples(1, range(100))).argmax(dim=1)
    assert dict(zip(row.classes, row.counts, strict=True)) == {int(c): int((said == c).sum()) for c in said.unique()}


@pytest.mark.parametrize("kind", ["float", "numpy last", "numpy first", "pil"])
def test_all_forms_of_an_image_give_the_same_row(images, kind):
    as_kind = {
        "float": images[0].float() / 255,
        "numpy last": images[0].permute(1, 2, 0).numpy(),
        "numpy first": images[0].numpy(),
        "pil": Image.fromarray(images[0].permute(1, 2, 0).numpy()),
    }[kind]
    assert counts_of(srs_ray.certify_point(Net(), as_kind, **HERE)) == counts_of(
        srs_ray.certify_point(Net(), images[0], **HERE)
    )


def test_a_second_image_of_a_seed_needs_an_index_of_its_own(images):
    net = Net()
    srs_ray.certify_point(net, images[0], **HERE)
    srs_ray.certify_point(net, images[0], **HERE | {"n": 50})  # the same image again
    with pytest.raises(ValueError, match="share its noise: give each image its own index"):
        srs_ray.certify_point(net, images[1], **HERE)
    srs_ray.certify_point(net, images[1], **HERE, seed=1)
    srs_ray.certify_point(net, images[1], **HERE, index=1)


def test_several_images_have_the_rows_that_each_has_alone(images):
    net = Net()
    df = srs_ray.certify_points(net, images, [0, 1, 2, 3], **HERE, progress=False)
    for index in range(4):
        row = srs_ray.certify_point(net, images[index], **HERE, index=index, label=index)
        assert (df["counts"][index], df["radius"][index], df["correct"][index]) == (row.counts, row.radius, row.correct)
    assert srs_ray.certified_accuracy(df, [0])["points"][0] == 4


def test_a_data_set_of_pairs_and_one_of_a_job_bring_their_labels(images):
    pairs = [(image, label) for image, label in zip(images, [4, 4, 4, 4], strict=True)]
    df = srs_ray.certify_points(Net(), pairs, **HERE, indices=[1, 3], progress=False)
    assert (list(df["index"]), list(df["label"])) == ([1, 3], [4, 4])
    model = srs_ray.load_model("mdeq-tiny-digits", "mdeq-tiny-digits-sigma25")
    digits = open_dataset("digits", None, "test", (1, 16, 16))
    df = srs_ray.certify_points(
        model, digits, **HERE, method="standard", indices=[5], progress=False, round_pixels=True
    )
    assert df["label"][0] == digits.label(5)


def test_a_bad_image_or_label_is_an_error_row_and_the_others_go_on(images):
    pairs = [(images[0], 0), (images[1].float(), 1), (images[2], 9), (torch.zeros(3, 5, 5), 0), (images[3], 2)]
    df = srs_ray.certify_points(Net(), pairs, **HERE, progress=False)
    assert list(df["status"]) == ["ok", "error", "error", "error", "ok"]
    assert "from 1 to 255, expected 0 to 1: divide by 255" in df["error"][1]
    assert "image 2: label is 9" in df["error"][2]
    assert "(3, 12, 12)" in df["error"][3]


def test_looks_are_enough_as_radii(images):
    row = srs_ray.certify_point(Net(), images[0], **HERE | {"n": 400}, looks=[0, 0.05])
    assert row.stopped in ("resolved", "futile", "spent")
    assert row.look_n


def test_what_is_no_class_no_image_or_no_model_is_refused(images):
    with pytest.raises(ValueError, match="label is 5"):
        srs_ray.certify_point(Net(), images[0], **HERE, label=5)
    with pytest.raises(ValueError, match="expected 0 to 1: divide by 255"):
        srs_ray.certify_point(Net(), images[0].float(), **HERE)
    with pytest.raises(ValueError, match="found a str as the model"):
        srs_ray.certify_point("resnet", images[0], **HERE)
    with pytest.raises(ValueError, match="channels first or last"):
        srs_ray.certify_point(Net(), np.zeros((3, 4, 3)), **HERE)
    with pytest.raises(TypeError, match="no setting samples"):
        srs_ray.certify_point(Net(), images[0], **HERE, samples=10)


def test_a_submodule_in_training_mode_is_refused_by_name(images):
    net = Net()
    net.norm.train()
    for certify in (srs_ray.certify_point, srs_ray.predict):
        with pytest.raises(ValueError, match=r"training mode \(norm: BatchNorm2d\)"):
            certify(net, images[0], sigma=0.25)
    with pytest.raises(ValueError, match="srs needs inject, f and head; Net has none of them"):
        srs_ray.certify_point(Net(), images[0], **HERE, method="srs")


class DependsOnOthers(Net):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_BK = super().forward(x_BCHW)
        return logits_BK + 0.01 * logits_BK.mean(dim=0)


class DependsOnItsPlace(Net):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW) * (1 + 0.01 * torch.arange(len(x_BCHW)))[:, None]


class DrawsNumbers(Net):
    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW + 0.01 * torch.randn_like(x_BCHW))


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (DependsOnOthers(), "depend on the other images in its batch"),
        (DependsOnItsPlace(), "depend on its place in the batch"),
        (DrawsNumbers(), "draws random numbers"),
    ],
)
def test_logits_of_more_than_the_image_are_refused(images, model, named):
    for _ in range(2):  # the second time too
        with pytest.raises(ValueError, match=named):
            srs_ray.certify_points(model, images, **HERE, progress=False)
        with pytest.raises(ValueError, match=named):
            srs_ray.predict(model, images[0], sigma=0.25)


def test_a_state_of_several_tensors_is_the_same_as_one_flattened_by_hand(images):
    settings = HERE | {"steps": 2, "chains": 10, "audit": 40}
    several = srs_ray.certify_point(TwoStates(), images[0], **settings)
    flat = srs_ray.certify_point(OneState(), images[0], **settings)
    assert several.method == "srs"
    assert counts_of(several) == counts_of(flat)
    assert several.function_evaluations == flat.function_evaluations
    assert several.audited == min(40, max(several.counts))
    chosen = srs_ray.certify_point(TwoStates(), images[0], **settings, method="auto", looks=[0, 0.05], index=0)
    assert chosen.method in ("anchored", "standard")


def test_calling_a_model_gives_the_base_classifiers_logits_and_their_derivatives(images):
    model = srs_ray.load_model("mdeq-tiny-digits", "mdeq-tiny-digits-sigma25")
    x_BCHW = open_dataset("digits", None, "test", (1, 16, 16)).image(3)[None]
    assert torch.equal(model(x_BCHW), model.logits(x_BCHW))
    x_BCHW.requires_grad_(True)
    logits_BK = model(x_BCHW)
    torch.testing.assert_close(logits_BK.detach(), model.logits(x_BCHW.detach()), rtol=1e-4, atol=1e-4)
    [found] = torch.autograd.grad(logits_BK.logsumexp(dim=1).sum(), x_BCHW)
    # Against an unrolled solve, which is at the equilibrium after so many steps.
    z_BD = model.zero_state(1)
    injection = model.inject(x_BCHW)
    for _ in range(60):
        z_BD = model.f(z_BD, injection)
    [expected] = torch.autograd.grad(model.head(z_BD).logsumexp(dim=1).sum(), x_BCHW)
    cosine = torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    assert cosine > 0.99


def test_a_prediction_is_the_class_that_noise_says_most_or_an_abstention(images):
    answer = srs_ray.predict(Net(), images[0], sigma=0.05, n=200)
    assert answer.predicted == answer.classes[0]
    assert (answer.n, sum(answer.counts)) == (200, 200)
    assert srs_ray.predict(Net(), images[0], sigma=0.05, n=5).abstains  # five samples never give a p-value of 0.001


@pytest.mark.parametrize("first", [0.5, -10, True])
def test_the_first_index_of_a_call_is_a_whole_number_from_0_on(first):
    images = [torch.full((3, 8, 8), 0.4)] * 2
    with pytest.raises((TypeError, ValueError), match=r"integer|whole number from 0 on|at least 0"):
        srs_ray.certify_points(Net(), images, first=first, **HERE, progress=False)
    with pytest.raises((TypeError, ValueError), match=r"integer|whole number from 0 on|at least 0"):
        srs_ray.predict(Net(), images[0], sigma=0.1, n=10, index=first)


def test_an_equilibrium_of_ones_own_solves_from_the_start_that_it_holds():
    network, images = TwoStates(), torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(8))
    one_step = SolverSetting.named("naive", 1, start="stored")
    image = (images[0] * 255).round() / 255
    with pytest.raises(ValueError, match="hold no start"):
        srs_ray.certify_point(network, image, method="standard", reference=one_step, seed=71, **HERE)
    network.stored_start = torch.full((4, 6, 6), 0.7), torch.linspace(-1, 1, 5)
    ready = as_opened(network, (3, 12, 12)).with_reference(one_step)
    with torch.inference_mode():
        start = tuple(part.expand(3, *part.shape) for part in network.stored_start)
        by_hand = network.head(network.f(start, network.inject(images)))
        assert torch.allclose(ready(images), by_hand, atol=1e-5)
    row = srs_ray.certify_point(network, image, method="standard", reference=one_step, seed=72, **HERE)
    assert row.function_evaluations == HERE["n0"] + HERE["n"]
    network.stored_start = torch.zeros(4, 6, 6)
    with pytest.raises(ValueError, match="stored_start has"):
        as_opened(network, (3, 12, 12))
