from __future__ import annotations

import pytest
from PIL import Image

import srs_ray
from srs_ray.data import PointDataset, open_dataset
from srs_ray.models.mdeq.architectures import architecture
from srs_ray.models.mdeq.checkpoints import build_model, random_weights
from srs_ray.solvers.iteration import SolverSetting

ARCH = "mdeq-small-imagenet"


@pytest.fixture(scope="module")
def imagenet(shared) -> PointDataset:
    config = architecture(ARCH)
    return open_dataset("imagenet", shared / "data" / "imagenet-sample", None, config.input_shape, class_count=1000)


def test_a_grayscale_imagenet_image_is_certified_by_serialized_broyden(shared, imagenet):
    files = sorted((shared / "data" / "imagenet-sample").glob("*/*"))
    gray = next(index for index, file in enumerate(files) if Image.open(file).mode == "L")
    model = build_model(ARCH, random_weights(ARCH))
    row = srs_ray.certify_point(
        model,
        imagenet.image(gray),
        sigma=1.0,
        steps=1,
        warmup_steps=2,
        chains=2,
        n0=2,
        n=4,
        audit=1,
        reference=SolverSetting.named("broyden", 3, 1e-3),
        index=gray,
        label=imagenet.label(gray),
    )
    assert row.status == "ok"
    assert row.label == gray, "the sample holds one image of each class, in order"
    assert row.function_evaluations == 2 * 2 + 4 * 1
    assert (row.n, sum(row.counts), row.audited) == (4, 4, 1)
    assert row.reference_evaluations <= 3
    assert 0 <= row.selected < 1000
