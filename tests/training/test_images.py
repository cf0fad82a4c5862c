from __future__ import annotations

import pytest
import torch
from PIL import Image

from srs_ray.data.settings import DataSettings
from srs_ray.errors import DataError
from srs_ray.models.mdeq.architectures import architecture
from srs_ray.training.images import Images

CONFIG = architecture("mdeq-tiny-digits")
CPU = torch.device("cpu")
SECTION = DataSettings(kind="digits", split="train", start=3, stop=100, every=2)
ORDERS = [torch.tensor([5, 0, 48]), torch.tensor([7]), torch.tensor([1, 2])]


@pytest.mark.parametrize("loaders", [0, 1])
def test_images_that_are_read_as_needed_are_those_in_memory(loaders: int) -> None:
    in_memory, read = Images(SECTION, CONFIG, CPU), Images(SECTION, CONFIG, CPU, in_memory_bytes=0)
    assert len(in_memory) == len(read) == 49
    batches = list(zip(in_memory.batches(ORDERS), read.batches(ORDERS, loaders), strict=True))
    assert [len(y_B) for (_, y_B), _ in batches] == [3, 1, 2]
    for (x_BCHW, y_B), (other_BCHW, other_B) in batches:
        assert torch.equal(x_BCHW, other_BCHW)
        assert torch.equal(y_B, other_B)
    assert all(
        torch.equal(a, b)
        for pair in zip(in_memory.spread(10), read.spread(10), strict=True)
        for a, b in zip(*pair, strict=True)
    )


def test_the_points_of_the_section_in_its_order_and_evenly_spread_ones() -> None:
    every = Images(DataSettings(kind="digits", split="train"), CONFIG, CPU)
    whole_NCHW, whole_N = (torch.cat(parts) for parts in zip(*every.spread(len(every)), strict=True))
    assert len(whole_N) == len(every) > 128  # more than one batch

    images = Images(SECTION, CONFIG, CPU)
    [(x_NCHW, y_N)] = images.spread(1000)
    assert torch.equal(x_NCHW, whole_NCHW[3:100:2])
    assert torch.equal(y_N, whole_N[3:100:2])
    [(_, some_N)] = images.spread(4)
    assert torch.equal(some_N, y_N[[0, 12, 24, 36]])
    [(_, most_N)] = images.spread(40)  # not the first 40
    assert torch.equal(most_N[-1:], y_N[47:48])
    assert {"start", "stop", "every", "content"} <= images.record.keys()


@pytest.mark.parametrize("in_memory_bytes", [0, 2**30])
@pytest.mark.parametrize("loaders", [0, 1])
def test_an_image_that_cannot_be_read_is_named(tmp_path, in_memory_bytes: int, loaders: int) -> None:
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        Image.new("L", (16, 16), 25 * label).save(tmp_path / str(label) / "a.png")
    (tmp_path / "4" / "a.png").write_bytes(b"no image")
    section = DataSettings(kind="imagefolder", path=str(tmp_path))
    with pytest.raises(DataError, match=r"a\.png.*training needs every image: mend or remove this one"):
        list(Images(section, CONFIG, CPU, in_memory_bytes).batches([torch.arange(10)], loaders))
