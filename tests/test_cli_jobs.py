"""The commands about job files: `srs-ray settings`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from srs_ray.cli import app
from srs_ray.errors import JobError
from srs_ray.job import Job
from srs_ray.settings_reference import setting_names
from srs_ray.training.settings import TrainJob


def call(*arguments: str) -> str:
    """What `srs-ray` with these arguments prints; its error is raised."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def names_in(text: str) -> set[str]:
    return {each["name"] for section in json.loads(text) for group in section["groups"] for each in group["settings"]}


@pytest.mark.parametrize(("arguments", "job"), [((), Job), (("--train",), TrainJob)])
def test_every_setting_of_a_job_is_told(arguments, job):
    text = call("settings", *arguments, "--format", "json")
    assert names_in(text) == setting_names(job)
    told = [each for section in json.loads(text) for group in section["groups"] for each in group["settings"]]
    assert [each["name"] for each in told if not each["meaning"]] == []
    table = call("settings", *arguments)
    assert [name for name in setting_names(job) if f"  {name}  (" not in table] == []


def test_a_section_or_a_setting_is_told_alone():
    assert names_in(call("settings", "noise", "--format", "json")) == {"noise.sigma", "noise.generator"}
    assert names_in(call("settings", "execution.seed", "--format", "json")) == {"execution.seed"}
    assert "sampling.looks.growth" in names_in(call("settings", "sampling.looks", "--format", "json"))
    assert call("settings", "noise.sigma") == (
        "noise: The noise.\n  noise.sigma  (float > 0; required)\n      Standard deviation, in pixel units of [0, 1].\n"
    )
    assert "| `noise.sigma` | float > 0 | **required** |" in call("settings", "noise", "--format", "markdown")


@pytest.mark.parametrize(
    ("place", "near"), [("samplng", "sampling"), ("noise.sgma", "noise.sigma"), ("execution.se", "execution.seed")]
)
def test_an_unknown_section_is_refused_with_the_one_that_was_meant(place, near):
    with pytest.raises(
        JobError, match=rf"no section or setting '{place}'; did you mean {near}\? \(sections: model, data"
    ):
        call("settings", place)


def test_settings_are_told_without_torch_ray_or_pandas():
    script = (
        "import sys; from typer.testing import CliRunner; from srs_ray.cli import app\n"
        "assert CliRunner().invoke(app, ['settings']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['settings', '--train']).exit_code == 0\n"
        "print([m for m in ('torch', 'ray', 'pandas', 'numba', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
