"""The section `data` of a job: its settings belong to its kind, and older jobs are written down as ever."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from srs_ray.data.settings import DataSettings
from srs_ray.errors import JobError
from srs_ray.job_file import load_job, load_train_job
from srs_ray.training.settings import EvaluationSettings

JOBS = Path(__file__).resolve().parents[2] / "jobs"
OWN = {"import": "my_data.py:Patches", "args": {"root": "/data", "scale": 0.5, "sizes": [1, 2], "flip": True}}


@pytest.fixture
def loaded(tmp_path):
    def load(**data):
        job = {
            "model": {"arch": "mdeq-tiny-digits", "weights": "mdeq-tiny-digits-sigma25"},
            "data": data,
            "noise": {"sigma": 0.5},
            "sampling": {"method": "srs"},
            "output": "runs/x",
        }
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        return load_job(tmp_path / "job.yaml")

    return load


@pytest.mark.parametrize("mode", ["python", "json"])
def test_a_section_without_new_settings_is_written_down_as_it_always_was(mode):
    older = {"kind": "cifar10", "path": "data", "split": None, "start": 0, "stop": 500, "every": 20}
    section = DataSettings(kind="cifar10", path="data", stop=500, every=20)
    assert list(section.model_dump(mode=mode).items()) == list(older.items())
    assert DataSettings.model_validate(older) == section
    measured = EvaluationSettings(kind="digits").model_dump(mode=mode)
    assert list(measured)[:6] == list(older)
    assert list(measured)[6:] == ["epoch_points", "epoch_agreement_points", "draws", "agreement_points"]


def test_parts_of_a_section_can_be_written_down():
    section = DataSettings(kind="parquet", path="a", image_column="x")
    assert section.model_dump(include={"kind", "path", "split"}) == {"kind": "parquet", "path": "a", "split": None}
    assert section.model_dump(exclude_unset=True) == {"kind": "parquet", "path": "a", "image_column": "x"}


@pytest.mark.parametrize(
    "data",
    [
        OWN,
        {"import": "package.module:Data", "every": 3},
        {"kind": "parquet", "path": "a", "image_column": "picture"},
        {"kind": "parquet", "path": "a", "image_column": "picture", "label_column": "class"},
    ],
)
def test_settings_of_some_kinds_are_written_down_where_they_are_set_and_read_again(loaded, data):
    job = loaded(**data)
    dumped = job.model_dump(mode="json")["data"]
    assert data.items() <= dumped.items()
    assert dumped.keys() == {"kind", "path", "split", "start", "stop", "every"} | data.keys()
    assert loaded(**dumped) == job


def test_an_import_needs_no_kind():
    assert DataSettings.model_validate(OWN).kind == "import"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            {"kind": "mnist"},
            "data.kind: found 'mnist': expected one of cifar10, imagenet, imagefolder, parquet, digits",
        ),
        ({"kind": "cifar"}, "did you mean cifar10?"),
        ({}, "data.kind: missing"),
        ({"kind": "import"}, "data of kind import needs an import"),
        ({"kind": "digits", **OWN}, "import is 'my_data.py:Patches', but data of kind digits has no such setting"),
        ({**OWN, "path": "d"}, "path is 'd', but data of kind import has no such setting: leave it out (there are"),
        ({**OWN, "split": "test"}, "split is 'test', but data of kind import has no such setting"),
        ({"kind": "digits", "args": {}}, "args is {}, but data of kind digits has no such setting"),
        ({"kind": "cifar10", "path": "d", "label_column": "y"}, "label_column is 'y', but data of kind cifar10"),
        ({"import": "my_data.py"}, "data.import: found 'my_data.py'"),
        ({"import": ""}, "data.import: found ''"),
        ({**OWN, "arg": 1}, "data.arg: unknown setting; did you mean args? (allowed here: kind, path, split, start"),
        ({**OWN, "args": [1]}, "data.args: found [1]"),
        ({**OWN, "args": {"not-a-name": 1}}, "data.args: 'not-a-name' cannot be the name of an argument"),
        ({**OWN, "args": {"since": yaml.safe_load("2024-01-01")}}, "argument since is datetime.date(2024, 1, 1)"),
        ({**OWN, "args": {"x": float("nan")}}, "argument x is nan: expected text, a finite number"),
        ({**OWN, "args": {"x": {1: 2}}}, "argument x is {1: 2}"),
    ],
)
def test_a_setting_that_does_not_go_with_the_kind_is_refused_by_name(loaded, data, expected):
    with pytest.raises(JobError) as error:
        loaded(**data)
    assert expected in str(error.value)


def test_the_imports_python_name_is_no_setting(loaded):
    with pytest.raises(JobError, match=r"data\.import_: unknown setting; did you mean import\?"):
        loaded(kind="digits", import_="my_data.py:Patches")


@pytest.mark.parametrize(
    ("kind", "needed"), [("digits", True), ("cifar10", True), ("imagenet", True), ("parquet", False)]
)
def test_a_training_names_the_split_where_the_kind_would_take_the_test_split(tmp_path, kind, needed):
    job = yaml.safe_load((JOBS / "digits-train.yaml").read_text())
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**job, "data": {"kind": kind, "path": "d"}}))
    if not needed:
        assert load_train_job(tmp_path / "train.yaml").data.kind == kind
        return
    with pytest.raises(JobError, match=r"data\.split is missing: name the split to train on"):
        load_train_job(tmp_path / "train.yaml")
