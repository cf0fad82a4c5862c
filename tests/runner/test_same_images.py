"""A run is continued with the images that it began with, whatever their files are called."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from srs_ray.analysis import comparison_table, load_points, plot_curves
from srs_ray.analysis.pairing import different_data
from srs_ray.data import open_dataset
from srs_ray.data.folders import FILES_READ
from srs_ray.errors import DataError, RunDirectoryError
from srs_ray.job import Job
from srs_ray.models.mdeq.checkpoints import read_weights
from srs_ray.models.weights import Weights, write_weights
from srs_ray.planning.pilot import run_pilot
from srs_ray.runner.backend import InProcess
from srs_ray.runner.preparation import JobInputs
from srs_ray.runner.same_images import POINTS_COMPARED, evenly_spread
from srs_ray.runner.worker import PointWorker
from srs_ray.runs import RunDirectory

STANDARD = {"method": "standard", "n0": 10, "n": 20, "reference": {"steps": 3}}


def picture(index: int) -> np.ndarray:
    digit = open_dataset("digits", None, "test", (1, 16, 16)).image(index)
    return (digit[0].numpy() * 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten classes of one digit each, as BMP files: they have the same size whatever they show."""
    for index in range(10):
        (tmp_path / "data" / f"d{index}").mkdir(parents=True)
        Image.fromarray(picture(index)).save(tmp_path / "data" / f"d{index}" / "00.bmp")
    return tmp_path / "data"


@pytest.fixture
def inverted(folder, tmp_path) -> Path:
    """The same names and file sizes, other pixels."""
    shutil.copytree(folder, tmp_path / "inverted")
    for file in (tmp_path / "inverted").glob("*/*"):
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    return tmp_path / "inverted"


@pytest.fixture
def job_of(digits_job) -> Callable[..., Job]:
    def make(path: Path, **sections: Any) -> Job:
        data = {"kind": "imagefolder", "path": str(path), "stop": None, "every": 1, **sections.pop("data", {})}
        return digits_job(data=data, **{"sampling": STANDARD, "certificate": {"alpha": 0.05}, **sections})

    return make


@pytest.fixture
def digits_job(digits_job) -> Callable[..., Job]:
    """The quick job of all tests, with sections that replace those of serialized sampling."""

    def make(**sections: Any) -> Job:
        settings = digits_job().model_dump(mode="json", by_alias=True)
        return Job.model_validate({**settings, **sections})

    return make


def test_each_row_says_what_was_certified(job_of, folder, run_in_process):
    (folder / "d9" / "00.bmp").write_bytes(b"no image")
    job = job_of(folder, data={"start": 7})
    run_in_process(job)
    rows = RunDirectory.open(job.output).rows().to_pylist()
    assert [row["source"] for row in rows] == [f"data/d{index}/00.bmp" for index in (7, 8, 9)]
    assert [row["class_name"] for row in rows] == ["d7", "d8", "d9"]
    for row in rows[:2]:
        pixels = (picture(row["index"]).astype(np.float32) / np.float32(255)).astype("<f4")
        assert row["pixels"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert (rows[2]["status"], rows[2]["pixels"]) == ("error", None)
    df = load_points(job.output)
    assert df["source"].tolist() == [row["source"] for row in rows]


@pytest.mark.parametrize("stop", [None, 3])
def test_a_folder_with_the_same_names_and_other_pixels_does_not_continue_a_run(
    job_of, folder, inverted, run_in_process, stop
):
    job = job_of(folder, data={"stop": stop})
    run_in_process(job)
    before = RunDirectory.open(job.output).sessions
    with pytest.raises(RunDirectoryError, match=r"data\.sample differs, and point 0 \(inverted/d0/00\.bmp\) has other"):
        run_in_process(job_of(inverted))
    assert RunDirectory.open(job.output).sessions == before
    assert run_in_process(job_of(folder)).exit_code == 0


def test_a_plan_refuses_it_too(job_of, folder, inverted, run_in_process, console):
    run_in_process(job_of(folder))
    with pytest.raises(RunDirectoryError, match=r"point 0 .* has other pixels"):
        run_pilot(job_of(inverted), lambda: InProcess(job_of(inverted).execution), console, 2)


def test_an_image_that_is_edited_in_place_does_not_join_its_run(job_of, folder, run_in_process):
    job = job_of(folder)
    run_in_process(job)
    file = folder / "d4" / "00.bmp"
    was = RunDirectory.open(job.output).rows(["pixels"])["pixels"][4].as_py()
    Image.fromarray(picture(5)).save(file)
    with pytest.raises(
        RunDirectoryError, match=rf"point 4 \(data/d4/00\.bmp\) .*sha256 {was} in its row, [0-9a-f]+ now"
    ):
        run_in_process(job)
    file.unlink()
    with pytest.raises(DataError, match="no image in d4"):
        run_in_process(job)


@pytest.mark.parametrize("pixels", [None, "rounded"])
def test_nor_does_one_that_no_sample_of_files_or_of_points_would_find(job_of, folder, run_in_process, pixels):
    for index in range(10, 100):
        Image.fromarray(picture(index)).save(folder / f"d{index // 10}" / f"{index % 10 + 1:02}.bmp")
    job = job_of(folder, data={"stop": 20, "pixels": pixels})
    assert run_in_process(job).done == 20
    files = sorted(folder.glob("*/*"))
    assert 19 not in {number * len(files) // FILES_READ for number in range(FILES_READ)}
    assert 19 not in evenly_spread(list(range(20)), POINTS_COMPARED)
    for file in files:
        file.touch()
    assert run_in_process(job).exit_code == 0
    Image.fromarray(255 - np.asarray(Image.open(files[19]))).save(files[19])
    name = re.escape(f"data/{files[19].parent.name}/{files[19].name}")
    with pytest.raises(RunDirectoryError, match=rf"point 19 \({name}\) has other pixels now"):
        run_in_process(job)


def test_a_broken_image_may_be_mended_because_no_certificate_speaks_of_it(job_of, folder, run_in_process, caplog):
    good = (folder / "d3" / "00.bmp").read_bytes()
    (folder / "d3" / "00.bmp").write_bytes(good[:100])
    job = job_of(folder)
    assert run_in_process(job).errors == 1
    (folder / "d3" / "00.bmp").write_bytes(good)
    assert run_in_process(job).exit_code == 0
    assert (
        "files of the data have changed since the run began (data.sample), but not the pixels of its 9" in caplog.text
    )


def test_a_certified_image_that_can_no_longer_be_read_is_named(job_of, folder, run_in_process):
    job = job_of(folder)
    run_in_process(job)
    (folder / "d2" / "00.bmp").write_bytes(b"")
    with pytest.raises(RunDirectoryError, match=r"point 2 .* cannot be read now: data/d2/00\.bmp: the image is empty"):
        run_in_process(job)


DATA_OF_ONES_OWN = """
import numpy as np

class Digits:
    identity = "digits of one's own"
    def __init__(self, file): self.images = np.load(file)
    def __len__(self): return len(self.images)
    def __getitem__(self, index): return self.images[index], index
"""


def test_data_that_says_its_own_identity_is_compared_with_the_rows(job_of, digits_job, tmp_path, run_in_process):
    (tmp_path / "my_data.py").write_text(DATA_OF_ONES_OWN)
    for name, invert in (("a", 0), ("b", 255)):
        np.save(
            tmp_path / f"{name}.npy",
            np.stack([np.abs(invert - picture(index).astype(int)) for index in range(10)])[:, None].astype(np.uint8),
        )

    def job(name: str) -> Job:
        data = {"import": f"{tmp_path}/my_data.py:Digits", "args": {"file": str(tmp_path / f"{name}.npy")}}
        return digits_job(data=data, sampling=STANDARD, certificate={"alpha": 0.05})

    run_in_process(job("a"))
    with pytest.raises(RunDirectoryError, match=r"point 0 \(item 0 of my_data\.py:Digits\) has other pixels now"):
        run_in_process(job("b"))


def test_a_worker_whose_node_has_other_files_under_the_names_refuses_to_start(job_of, folder, inverted):
    inputs = JobInputs.read(job_of(folder))
    spec = dataclasses.replace(inputs.resolve("cpu"), data_path=str(inverted))
    with pytest.raises(DataError, match=r"not what the driver sees \(sample differ\)"):
        PointWorker(spec, inputs.cargo, 1)


def test_runs_of_different_images_under_one_index_are_not_compared_without_a_warning(
    job_of, folder, inverted, tmp_path, run_in_process, caplog
):
    jobs = [job_of(folder, data={"stop": 2}), job_of(inverted, data={"stop": 2}, output=str(tmp_path / "other"))]
    for job in jobs:
        run_in_process(job)
    frames = [load_points(job.output) for job in jobs]
    assert different_data(*frames) is not None
    assert "are over different data" in comparison_table(frames, [0.0])
    assert "are over different data" not in comparison_table([frames[0], frames[0].copy()], [0.0])
    plot_curves(frames, tmp_path / "curves.png")
    assert "are over different data (2 points that both have differ in their pixels" in caplog.text


def test_rows_of_two_images_under_one_index_in_one_run_are_warned_of(job_of, folder, run_in_process, caplog):
    job = job_of(folder, data={"stop": 2})
    run_in_process(job)
    run = RunDirectory.open(job.output)
    row = run.rows().to_pylist()[1]
    run.append([{**row, "pixels": "0" * 64}])
    with caplog.at_level(logging.WARNING):
        load_points(job.output)
    assert "1 points have rows of different images (pixels differ), the first of them point 1" in caplog.text


def test_compared_points_are_spread_over_all_and_bounded():
    assert evenly_spread(list(range(0, 5000, 10)), 4) == [0, 1250, 2500, 3750]
    assert evenly_spread([7, 9], 16) == [7, 9]
    assert evenly_spread([], 16) == []


def test_data_whose_classes_are_a_permutation_of_the_weights_are_refused_before_anything_starts(
    digits_job, tmp_path, run_in_process
):
    shipped = read_weights("mdeq-tiny-digits-sigma25")
    names = [str(digit) for digit in range(10)]

    def job(classes: list[str]) -> Job:
        write_weights(Weights(shipped.tensors, {"classes": json.dumps(classes)}), tmp_path / "named.safetensors")
        model = {"arch": "mdeq-tiny-digits", "weights": str(tmp_path / "named.safetensors")}
        return digits_job(
            model=model,
            sampling=STANDARD,
            certificate={"alpha": 0.05},
            data={"kind": "digits", "stop": 1, "pixels": "rounded"},
        )

    with pytest.raises(DataError, match=r"class 0 is '0', which is class 9 of mdeq-tiny-digits"):
        run_in_process(job(names[::-1]))
    assert run_in_process(job(names)).exit_code == 0
