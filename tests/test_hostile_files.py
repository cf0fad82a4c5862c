"""Files from anybody: pipes for files, YAML and archives that grow, many paths to few folders, locks that are held."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from srs_ray.data import open_dataset
from srs_ray.data.listing import list_images
from srs_ray.errors import JobError, PointError, RunDirectoryError, WeightsError
from srs_ray.job_file import load_job, parse_override
from srs_ray.models.weights import read_tensors
from srs_ray.regular_files import read_regular
from srs_ray.runner import signals
from srs_ray.runs import Lease, RunDirectory, storage

NINE = "[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]"
LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} {NINE.format(a)}\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x: " + "[" * 1000, "line 1, column 33: more than 30 levels of nesting"),
        (LAUGHS, "line 6, column 4: aliases that stand for more than 50,000 values"),
        ("a: &a [*a]", "line 1, column 4: an alias stands for what holds it"),
        ("noise: {sigma: 1:30}", "line 1, column 16: 1:30 would be read as a number in base 60"),
        ("sampling:\n  n: 0100", "line 2, column 6: 0100 would be read as a number in base 8"),
        ("a: !!int x", "line 1, column 4: no readable int"),
        ("a: " + "1" * 5000, "line 1, column 4: a number of 5,000 characters"),
        ("n: 0x" + "f" * 5000, "line 1, column 4: a number of 5,002 characters"),
        ("[" + "1, " * 60_000 + "1]", "more than 50,000 values"),
        ("x" * (2**20 + 1), "cannot be read: it has 1,048,577 bytes, expected at most 1,048,576"),
    ],
    ids=["deep", "aliases", "itself", "base 60", "base 8", "tag", "digits", "hexadecimal", "many", "size"],
)  # fmt: skip
def test_yaml_that_grows_or_says_two_things_is_refused_with_its_place(tmp_path, text, complaint):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(JobError, match=complaint):
        load_job(path)


def test_the_yaml_of_a_setting_on_the_command_line_is_held_to_the_same():
    with pytest.raises(JobError, match="base 60"):
        parse_override("noise.sigma=1:30")
    with pytest.raises(JobError, match="what holds it"):
        parse_override("report.radii=&a [*a]")
    assert parse_override("sampling.n=0x10") == ("sampling.n", 16)


@pytest.mark.parametrize("name", ["deep", "laughs-radii"])
def test_the_yaml_that_went_wrong_is_refused(shared, name):
    with pytest.raises(JobError, match=r"is not readable as YAML: line \d+, column \d+: "):
        load_job(shared / f"cases/hostile/yaml/{name}.yaml")


def test_aliases_that_stand_for_little_are_as_good_as_ever(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "model: {arch: mdeq-tiny-digits, weights: w}\ndata: {kind: digits}\nnoise: {sigma: 0.5}\n"
        "sampling: {method: standard, target_radii: &radii [0, 36/255]}\nreport: {radii: *radii}\noutput: runs/x\n"
    )
    job = load_job(path)
    assert job.report.radii == job.sampling.target_radii == (0.0, 36 / 255)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe that nobody will ever write into."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


NOT_REGULAR = "a pipe, a socket or a device"


def test_no_input_that_is_a_pipe_or_a_device_is_waited_for(pipe, tmp_path, monkeypatch):
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(OSError, match=NOT_REGULAR):
            read_regular(path, 10)
        with pytest.raises(JobError, match=NOT_REGULAR):
            load_job(path)
        with pytest.raises(WeightsError, match="no weights at"):
            read_tensors(path)
    settings = (
        "model: {{import: '{0}:make', input_shape: [1, 2, 2], classes: 2}}\ndata: {{kind: digits, classes: '{0}'}}"
    )
    (tmp_path / "job.yaml").write_text(settings.format(pipe))
    with pytest.raises(JobError, match=rf"data.classes: .*{NOT_REGULAR}"):
        load_job(tmp_path / "job.yaml")
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(RunDirectoryError, match=rf"cannot read run.json \(it is {NOT_REGULAR}"):
        RunDirectory.open(tmp_path)
    os.mkfifo(tmp_path / "lease.json")
    with pytest.raises(RunDirectoryError, match=rf"cannot write lease.json \(it is {NOT_REGULAR}"):
        Lease.acquire(tmp_path)


def test_an_image_that_became_a_pipe_fails_its_point(tmp_path, picture_folder):
    dataset = open_dataset("imagefolder", picture_folder, None, (3, 8, 8))
    file = picture_folder / "a/0.png"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(PointError, match=NOT_REGULAR):
        dataset.image(0)


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    from PIL import Image

    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / "0.png")
    return tmp_path / "images"


def test_folders_with_a_trillion_paths_are_listed_once_each(picture_folder):
    rooms = picture_folder.parent / "rooms"
    for floor in range(40):
        (rooms / str(floor)).mkdir(parents=True)
    for floor in range(39):
        for door in ("left", "right"):
            (rooms / str(floor) / door).symlink_to(rooms / str(floor + 1))
    (rooms / "39/deep.png").write_bytes((picture_folder / "a/0.png").read_bytes())
    (picture_folder / "a/door").symlink_to(rooms / "0")
    (picture_folder / "b/door").symlink_to(rooms / "0")
    listing = list_images(picture_folder)
    deep = f"door/{'left/' * 39}deep.png"
    assert listing.files == ["a/0.png", f"a/{deep}", "b/0.png", f"b/{deep}"]
    assert len(listing.left_out) == 2 * 39


def test_tensors_that_claim_more_than_their_file_holds_are_refused(tmp_path, shared):
    torch.save({"w": torch.zeros(1).expand(40_000, 40_000)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w of shape \(40000, 40000\) claims 6,400,000,000 bytes where 4 "):
        read_tensors(tmp_path / "w.pth")
    torch.save({"w": torch.zeros(5, device="meta")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="claims 20 bytes where 0 are stored"):
        read_tensors(tmp_path / "w.pth")
    tied = torch.arange(6.0)
    torch.save({"a": tied, "b": tied, "c": tied.view(2, 3).T}, tmp_path / "w.pth")
    assert read_tensors(tmp_path / "w.pth").tensors["c"].shape == (3, 2)
    with pytest.raises(WeightsError, match="are stored: save contiguous tensors"):
        read_tensors(shared / "cases/hostile/memory/expanded.pth")


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_no_checkpoint(tmp_path):
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(WeightsError, match=r"would unpack to 4,\d{3},\d{3} bytes"):
        read_tensors(tmp_path / "packed.pth")


def test_a_lock_that_another_holds_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_LOCK_PATIENCE", 0.1)
    held = os.open(tmp_path, os.O_RDONLY)  # whoever may read a folder may lock it
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunDirectoryError, match=r"another process has had the folder locked for 0\.1 s"):
            Lease.acquire(tmp_path)
    finally:
        os.close(held)
    with Lease.acquire(tmp_path):
        pass


STUCK = """
import signal, sys, threading
from srs_ray.runner import signals
signals._SECONDS_TO_END = float(sys.argv[1])
with signals.StopRequest():
    print("ready", flush=True)
    try:
        signal.pause(); signal.pause()
    finally:
        print("cleaning", flush=True)
        threading.Event().wait()  # a store that never answers
"""


@pytest.mark.parametrize(("seconds", "more"), [("1e6", [signal.SIGTERM]), ("0.2", [])], ids=["third", "deadline"])
def test_a_process_whose_end_is_stuck_ends_by_a_third_signal_or_in_time(seconds, more):
    with subprocess.Popen([sys.executable, "-c", STUCK, seconds], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "cleaning\n"
        for number in more:
            process.send_signal(number)
        assert process.wait(30) == 128 + signal.SIGTERM


def test_a_stop_at_once_keeps_the_code_of_the_signal_that_asked():
    assert signals.StoppedAtOnce(signal.SIGHUP).number == signal.SIGHUP
    assert issubclass(signals.StoppedAtOnce, KeyboardInterrupt)


def test_a_number_kept_beside_tensors_is_a_number(tmp_path):
    torch.save({"w": torch.zeros(2), "loss": np.float64(0.5), "epoch": np.int64(3)}, tmp_path / "w.pth")
    assert set(read_tensors(tmp_path / "w.pth").tensors) == {"w"}
    kept = np.array([b"x" * 100_000], dtype="S100000")[0]
    torch.save({"w": torch.zeros(2), "text": np.dtype("S2000000000"), "loss": kept}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="is no type of numbers"):
        read_tensors(tmp_path / "w.pth")
