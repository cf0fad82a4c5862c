"""The package as it is installed: its names, its jobs, and a wheel that needs no checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import typer
import yaml

from srs_ray import cli
from srs_ray.errors import JobError
from srs_ray.job_file import load_job, load_train_job, shipped_jobs

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd)


def test_the_module_is_the_command():
    asked = [run(sys.executable, "-m", "srs_ray", flag).stdout for flag in ("--version", "-V")]
    assert asked[0] == asked[1]
    assert asked[0].startswith("srs-ray ")


def commands(command: typer.core.TyperGroup, path: tuple[str, ...] = ()):
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = list(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("path", [path for path, _ in ALL], ids=" ".join)
def test_every_command_tells_of_itself_by_h_and_no_flag_has_a_type(path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    said = []
    for flag in ("-h", "--help"):
        monkeypatch.setattr(sys, "argv", ["srs-ray", *path, flag])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "Usage" in said[0]
    assert "<bool>" not in said[0]


def test_every_job_of_the_repository_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = shipped_jobs()
    assert set(jobs.values()) == set((ROOT / "jobs").rglob("*.yaml"))
    assert load_job("digits-srs") == load_job(ROOT / "jobs/digits-srs.yaml")
    assert load_train_job("digits-train") == load_train_job(ROOT / "jobs/digits-train.yaml")
    assert load_job("paper/cifar10-small-srs-3a").output == "runs/cifar10-small-srs-3a"
    with pytest.raises(JobError, match=r"no job file at digits: .*digits-srs, .*paper/cifar10-small-srs-3a"):
        load_job("digits")


def test_a_file_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((ROOT / "jobs/digits-srs.yaml").read_text()) | {"output": "mine"}
    (tmp_path / "digits-srs").write_text(yaml.safe_dump(settings))
    assert load_job("digits-srs").output == "mine"


@pytest.mark.slow
def test_a_wheel_runs_where_there_is_no_checkout(tmp_path):
    """100 s on a busy machine: the wheel alone, beside the libraries that are installed here."""
    built = run(Path(sys.executable).parent / "uv", "build", "--quiet", "--out-dir", tmp_path / "dist", ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "srs_ray/jobs/digits-srs.yaml" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert run(sys.executable, "-m", "venv", tmp_path / "env").returncode == 0
    python = tmp_path / "env/bin/python"
    assert run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel).returncode == 0
    libraries = f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    # Not as a .pth file's own: that of the editable checkout would be read along.
    addition = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n"
    (tmp_path / "env/lib" / libraries / "libraries.pth").write_text(addition)
    empty = tmp_path / "empty"
    empty.mkdir()
    home = run(python, "-c", "import srs_ray; print(srs_ray.__file__)", cwd=empty).stdout
    assert home.startswith(str(tmp_path / "env"))
    command = ("certify", "digits-srs", "--no-ray", "--every", "200", "--output", "run")
    done = run(tmp_path / "env/bin/srs-ray", *command, cwd=empty)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 points certified" in done.stdout
    assert (empty / "run/run.json").exists()
