"""An image in memory, of whatever library, becomes exactly the model's input, or says why it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from srs_ray.data.images import image_tensor
from srs_ray.errors import PointError

SHAPE = (3, 6, 8)


@pytest.fixture
def bytes_CHW():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8))


def channels_last(x_CHW):
    return x_CHW.permute(1, 2, 0).contiguous().numpy()


def test_eight_bit_images_of_every_library_are_the_same_input(bytes_CHW):
    expected = bytes_CHW.float() / 255
    for image in (bytes_CHW, bytes_CHW.numpy(), channels_last(bytes_CHW), Image.fromarray(channels_last(bytes_CHW))):
        x_CHW = image_tensor(image, SHAPE, "a")
        assert x_CHW.dtype == torch.float32
        assert x_CHW.is_contiguous()
        assert torch.equal(x_CHW, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_tensors_in_the_unit_range_are_taken_as_they_are(bytes_CHW, dtype):
    given = (bytes_CHW.double() / 255).to(dtype)
    assert torch.equal(image_tensor(given, SHAPE, "a"), given.float())
    assert torch.equal(image_tensor(given.requires_grad_(), SHAPE, "a"), given.detach().float())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8", "g"])
def test_floating_point_arrays_of_any_precision_and_byte_order_are_taken(bytes_CHW, dtype):
    given = (bytes_CHW.numpy() / 255).astype(dtype)
    expected = torch.from_numpy(given.astype("f8")).float()
    assert torch.equal(image_tensor(given, SHAPE, "a"), expected)
    assert torch.equal(image_tensor(given.transpose(1, 2, 0), SHAPE, "a"), expected)


def test_an_array_that_runs_backwards_or_cannot_be_written_is_taken(bytes_CHW):
    array = bytes_CHW.numpy()
    flipped = image_tensor(array[:, :, ::-1], SHAPE, "a")
    assert torch.equal(flipped, bytes_CHW.flip(2).float() / 255)
    array.setflags(write=False)
    assert torch.equal(image_tensor(array, SHAPE, "a"), bytes_CHW.float() / 255)


def test_zero_and_one_belong_to_the_range():
    x_CHW = torch.tensor([0.0, 1.0, -0.0, 1.0]).reshape(1, 2, 2)
    assert torch.equal(image_tensor(x_CHW, (1, 2, 2), "a"), x_CHW)


def test_the_input_never_shares_memory_with_the_image_given():
    for given in (torch.rand(SHAPE), torch.rand(6, 8, 3).numpy(), torch.rand(SHAPE).numpy()):
        before = given.copy() if isinstance(given, np.ndarray) else given.clone()
        x_CHW = image_tensor(given, SHAPE, "a")
        assert x_CHW.is_contiguous()
        x_CHW.zero_()
        assert (given == before).all()


def test_one_channel_may_be_left_out():
    gray_HW = np.arange(48, dtype=np.uint8).reshape(6, 8)
    expected = torch.arange(48).reshape(1, 6, 8).float() / 255
    images = (gray_HW, gray_HW[None], gray_HW[..., None], torch.from_numpy(gray_HW), Image.fromarray(gray_HW))
    assert all(torch.equal(image_tensor(image, (1, 6, 8), "a"), expected) for image in images)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_any_number_of_channels_is_taken(channels):
    x_CHW = torch.rand(channels, 6, 8)
    assert torch.equal(image_tensor(x_CHW, (channels, 6, 8), "a"), x_CHW)
    assert torch.equal(image_tensor(channels_last(x_CHW), (channels, 6, 8), "a"), x_CHW)


def test_an_array_as_high_and_wide_as_it_has_channels_is_refused_because_nobody_can_tell():
    x_CHW = torch.rand(3, 3, 3)
    with pytest.raises(
        PointError, match=r"^a: .*shape \(3, 3, 3\) could have its channels first or last.*torch tensor"
    ):
        image_tensor(x_CHW.numpy(), (3, 3, 3), "a")
    assert torch.equal(image_tensor(x_CHW, (3, 3, 3), "a"), x_CHW)
    assert image_tensor(np.ones((1, 1, 1)), (1, 1, 1), "a").item() == 1


def test_a_large_pil_image_gets_the_preprocessing_of_imagenet(picture):
    image = picture(300, 280)
    expected = Compose([Resize(256), CenterCrop(224), ToTensor()])(image)
    assert torch.equal(image_tensor(image, (3, 224, 224), "a"), expected)
    with pytest.raises(PointError, match=r"has the shape \(280, 300, 3\), the model takes \(3, 224, 224\)"):
        image_tensor(np.array(image), (3, 224, 224), "a")


def test_a_file_opened_by_pil_that_turns_out_damaged_is_named(tmp_path, picture, encoded):
    (tmp_path / "cut.jpg").write_bytes(encoded(picture(64, 64), "JPEG")[:-100])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(PointError, match=r"^a: not readable as an image"):
        image_tensor(image, (3, 64, 64), "a")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (torch.rand(3, 8, 6), r"has the shape \(3, 8, 6\), the model takes \(3, 6, 8\)$"),
        (torch.rand(6, 8, 3), r"has the shape \(6, 8, 3\), .*its channels are last: permute\(2, 0, 1\)"),
        (torch.rand(1, 3, 6, 8), r"has the shape \(1, 3, 6, 8\)"),
        (torch.rand(6, 8), r"has the shape \(6, 8\)"),
        (np.zeros((8, 6, 3)), r"has the shape \(8, 6, 3\), .*\(3, 6, 8\), or \(6, 8, 3\) with the channels last"),
        (np.zeros((0, 6, 8)), r"has the shape \(0, 6, 8\)"),
        (torch.full(SHAPE, 255.0), r"go from 255 to 255, expected 0 to 1: divide by 255"),
        (torch.full(SHAPE, -0.5), r"go from -0\.5 to -0\.5, expected 0 to 1: give the pixels without normalisation"),
        (np.full(SHAPE, 1 + 1e-9), r"expected 0 to 1"),
        (torch.full(SHAPE, float("nan")), r"go from nan to nan"),
        (np.full(SHAPE, np.inf), r"go from inf to inf"),
        (torch.zeros(SHAPE, dtype=torch.int64), r"pixels are torch\.int64, expected uint8 .* or floating point"),
        (torch.zeros(SHAPE, dtype=torch.bool), r"pixels are torch\.bool"),
        (torch.zeros(SHAPE, dtype=torch.float8_e5m2), r"pixels are torch\.float8"),
        (np.zeros(SHAPE, np.uint16), r"pixels are uint16"),
        (np.zeros(SHAPE, object), r"pixels are object"),
        (np.zeros(SHAPE, np.complex64), r"pixels are complex64"),
        ([[0.0]], r"the image is a list, expected a torch tensor, numpy array or PIL image"),
        (None, r"the image is a NoneType"),
        (Image.new("RGB", (6, 8)), r"is 6x8, the model takes 8x6"),
        (Image.new("F", (8, 6)), r"deeper than 8 bits"),
    ],
)
def test_an_image_that_is_not_the_models_input_is_refused_with_what_it_is(image, reason):
    with pytest.raises(PointError, match=rf"^patch 7: (its pixels )?.*{reason}"):
        image_tensor(image, SHAPE, "patch 7")


def test_a_pil_image_cannot_give_other_channels_than_one_or_three():
    with pytest.raises(PointError, match=r"PIL image, which gives 1 or 3 channels, and the model takes 4"):
        image_tensor(Image.new("RGBA", (8, 6)), (4, 6, 8), "a")
