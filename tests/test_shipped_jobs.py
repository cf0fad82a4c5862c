"""Jobs that come with the package are named where a path of a job file is expected."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from srs_ray.errors import JobError
from srs_ray.interface import open_model
from srs_ray.job_file import load_job, load_train_job
from srs_ray.shipped_jobs import shipped_jobs

JOBS = Path(__file__).resolve().parent.parent / "jobs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_job_file_has_a_name() -> None:
    files = {path.relative_to(JOBS).with_suffix("").as_posix() for path in JOBS.rglob("*.y*ml")}
    assert set(shipped_jobs()) == files
    assert {"digits-srs", "digits-train", "paper/cifar10-small-srs-3a"} < files


@pytest.mark.parametrize("name", ["digits-srs", "paper/cifar10-small-srs-3a"])
def test_a_name_is_the_job_of_the_file_wherever_it_is_called_from(name: str) -> None:
    assert load_job(name) == load_job(JOBS / f"{name}.yaml")
    assert load_job(name, {"noise.sigma": 0.4}).noise.sigma == 0.4
    assert not Path(load_job(name).output).is_absolute()


def test_trainings_have_names_too() -> None:
    assert load_train_job("digits-train") == load_train_job(JOBS / "digits-train.yaml")


def test_an_existing_file_wins_over_a_name(tmp_path: Path) -> None:
    own = yaml.safe_load((JOBS / "digits-srs.yaml").read_text()) | {"output": "runs/own"}
    (tmp_path / "digits-srs").write_text(yaml.safe_dump(own))
    assert load_job("digits-srs").output == "runs/own"


def test_a_folder_does_not_hide_a_name(tmp_path: Path) -> None:
    (tmp_path / "digits-srs").mkdir()
    assert load_job("digits-srs").output == "runs/demo-srs"


def test_an_unknown_name_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(JobError) as refused:
        load_job("digits-sr")
    first, second = str(refused.value).splitlines()
    assert first == "no job file at digits-sr, and no shipped job of that name; did you mean digits-srs?"
    assert second == f"shipped jobs: {', '.join(sorted(shipped_jobs()))}"


def test_a_path_that_does_not_exist_is_refused_without_names() -> None:
    with pytest.raises(JobError) as refused:
        load_job("digits-srs.yaml")
    assert str(refused.value) == "no job file at digits-srs.yaml"


def test_a_model_is_opened_by_the_name_of_a_shipped_job() -> None:
    assert open_model("digits-standard").classes == 10
