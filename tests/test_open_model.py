"""`open_model`: the model of a job file with the base classifier that the job names."""

from __future__ import annotations

import pytest
import torch
import yaml

import srs_ray
from srs_ray.errors import JobError
from srs_ray.job import Job
from srs_ray.models.opening import read_model


@pytest.fixture
def job_file(digits_settings, tmp_path):
    def write(**sections):
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(digits_settings(**sections)))
        return path

    return write


def test_a_jobs_model_has_the_jobs_base_classifier(job_file):
    reference = {"solver": "naive", "steps": 2, "tolerance": None}
    model = srs_ray.open_model(job_file(sampling={"reference": reference}))
    assert model.reference == srs_ray.SolverSetting.named("naive", 2, None)
    own = srs_ray.open_model({"arch": "mdeq-tiny-digits", "weights": "mdeq-tiny-digits-sigma25"})
    assert own.reference != model.reference
    x_BCHW = torch.rand(3, *model.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(x_BCHW), own.with_reference(model.reference)(x_BCHW))
        assert not torch.equal(model(x_BCHW), own(x_BCHW))


def test_a_prediction_is_of_the_jobs_base_classifier(job_file):
    reference = {"solver": "naive", "steps": 1, "tolerance": None}
    path = job_file(sampling={"reference": reference})
    source = read_model(Job.model_validate(yaml.safe_load(path.read_text())).model)
    image = torch.rand(source.input_shape, generator=torch.Generator().manual_seed(4))
    settings = {"sigma": 0.25, "n": 200, "seed": 3, "round_pixels": True}
    found = srs_ray.predict(srs_ray.open_model(path), image, **settings)
    expected = srs_ray.SolverSetting.named("naive", 1, None)
    assert found == srs_ray.predict(source.open(), image, reference=expected, **settings)
    assert found.counts != srs_ray.predict(source.open(), image, **settings).counts


def test_the_jobs_type_is_taken_unless_another_is_given(job_file):
    path = job_file(execution={"dtype": "float64"})
    assert srs_ray.open_model(path).dtype == torch.float64
    assert srs_ray.open_model(path, dtype="float32").dtype == torch.float32


def test_a_job_that_certify_refuses_is_refused(job_file, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    path = job_file(model={})
    settings = yaml.safe_load(path.read_text())
    settings["model"] = {"import": f"{tmp_path}/net.py:make", "input_shape": [1, 8, 8], "classes": 10}
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(JobError, match="use method: standard"):
        srs_ray.open_model(path)
