"""The commands about job files: `srs-ray settings` and `init`."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import pytest
from typer.testing import CliRunner

import srs_ray
from srs_ray.cli import app
from srs_ray.data.registry import KINDS
from srs_ray.errors import JobError, SrsRayError
from srs_ray.job import Job
from srs_ray.job_file import load_job
from srs_ray.job_template import CHANGE, METHODS, job_template, model_choices
from srs_ray.runner.feasibility import check_feasible
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
        "from srs_ray.job_template import job_template; job_template('mdeq-tiny-digits', 'digits', None, 'runs/a')\n"
        "assert CliRunner().invoke(app, ['settings']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['settings', '--train']).exit_code == 0\n"
        "print([m for m in ('torch', 'ray', 'pandas', 'numba', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# init


def templates() -> list[tuple[str, str, str | None]]:
    """Every model, data and method that `init` takes together."""
    found = []
    for model, data, method in product(model_choices(), KINDS, [None, *METHODS]):
        try:
            job_template(model, data, method, "runs/a")
        except JobError:
            continue
        found.append((model, data, method))
    return found


def test_every_job_that_init_writes_is_a_job_that_can_earn_its_radii(tmp_path):
    written = templates()
    assert {model for model, _, _ in written} == set(model_choices())
    assert {data for _, data, _ in written} == set(KINDS)
    file = tmp_path / "job.yaml"
    for model, data, method in written:
        file.write_text(job_template(model, data, method, "runs/a"))
        job = load_job(file)
        assert check_feasible(job) == []
        assert method in (None, job.sampling.method_name)
        assert job.data.kind == data


def test_every_setting_that_init_writes_has_its_meaning_as_a_comment():
    text = job_template("mdeq-tiny-digits", "digits", "anchored", "runs/a b")
    assert "steps: 2                                        # Solver steps of a sample, from the anchor." in text
    assert 'output: "runs/a b"' in text
    for model, data, method in templates():
        lines = job_template(model, data, method, "runs/a").splitlines()
        assert max(map(len, lines)) <= 120
        for before, line in pairwise(lines):
            if line.strip() and not line.endswith(":") and not line.lstrip().startswith("#"):
                assert "#" in line or before.lstrip().startswith("#"), line


@pytest.mark.parametrize("method", [None, *METHODS])
def test_a_job_that_init_writes_for_digits_certifies(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call(
        "init", "job.yaml", "--model", "mdeq-tiny-digits", "--data", "digits", *(("--method", method) if method else ())
    )
    assert said == "wrote job.yaml; run: srs-ray certify job.yaml\n"
    assert CHANGE not in Path("job.yaml").read_text()
    small = ["--n", "200", "--every", "300", *(["--audit", "100"] if method in (None, "srs", "anchored") else [])]
    result = CliRunner().invoke(app, ["certify", "job.yaml", "--no-ray", "--device", "cpu", *small])
    assert result.exit_code == 0, result.output
    assert (srs_ray.load_points("runs/job")["status"] == "ok").all()


@pytest.mark.parametrize("model", ["import", "torchvision"])
def test_a_job_for_a_model_of_your_own_certifies_once_its_lines_are_changed(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call("init", "job.yaml", "--model", model, "--data", "digits")
    assert said == "wrote job.yaml; change 2 lines marked CHANGE, then run: srs-ray certify job.yaml\n"
    if model == "import":
        network = "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))"
        Path("my_model.py").write_text(f"import torch\ndef model():\n    return {network}\n")
    else:
        import torch
        from torchvision.models import resnet18

        Path("weights").mkdir()
        torch.save(resnet18(num_classes=10).state_dict(), "weights/resnet18.pt")
    weights = ["--weights", "weights/resnet18.pt"] if model == "torchvision" else []
    small = ["--n", "50", "--every", "300", "--set", "sampling.n0=10", "--set", "report.radii=[0]"]
    result = CliRunner().invoke(app, ["certify", "job.yaml", "--no-ray", "--device", "cpu", *small, *weights])
    assert result.exit_code == 0, result.output


def test_init_replaces_no_file_unasked(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("mine")
    arguments = ("init", str(file), "--model", "mdeq-tiny-digits", "--data", "digits")
    with pytest.raises(SrsRayError, match=r"job.yaml is there already: give another name, or --force"):
        call(*arguments)
    assert file.read_text() == "mine"
    call(*arguments, "--force")
    assert load_job(file).output == "runs/job"


@pytest.mark.parametrize(
    ("model", "data", "method", "said"),
    [
        ("mdeq-tiny-digit", "digits", None, "did you mean mdeq-tiny-digits"),
        ("import", "folder", None, "did you mean imagefolder"),
        ("import", "digits", "serial", "--method is 'serial': expected one of standard, srs"),
        ("torchvision", "digits", "srs", "no equilibrium: leave --method out"),
        ("mdeq-small-imagenet", "cifar10", None, "mdeq-small-imagenet classifies imagenet, not cifar10"),
    ],
)
def test_what_init_cannot_write_is_refused_with_what_there_is(model, data, method, said):
    with pytest.raises(JobError, match=said):
        job_template(model, data, method, "runs/a")
