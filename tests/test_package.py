"""The package as it is installed: its names, its jobs, and a wheel that needs no checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
import typer
import yaml

import srs_ray
from srs_ray import cli
from srs_ray.errors import JobError
from srs_ray.job_file import load_job, load_train_job, shipped_jobs

ROOT = Path(__file__).resolve().parent.parent
IMPLEMENTED = (
    "2411.00899",  # serialized sampling
    "1902.02918",  # standard sampling and PREDICT
    "2006.08656",  # MDEQ
    "1909.01377",  # deep equilibrium models
    "2106.14342",  # Jacobian regularisation
    "1906.04584",  # SmoothAdv
    "2111.05177",  # phantom gradients
    "2103.12803",  # phantom gradients of one step
    "2207.07209",  # noise for floating-point arithmetic
)


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


def test_a_folder_of_that_name_does_not_hide_the_job(tmp_path, monkeypatch):
    """So that `srs-ray certify digits-srs --output digits-srs` goes on when it is called again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits-srs").mkdir()
    assert load_job("digits-srs") == load_job(ROOT / "jobs/digits-srs.yaml")


def test_a_misspelt_name_is_refused_with_the_one_that_was_meant():
    with pytest.raises(JobError, match=r"no job file at cifar10-small-srs-3a: .*mean paper/cifar10-small-srs-3a\?"):
        load_job("cifar10-small-srs-3a")


def test_licence_and_version_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (project["license"], citation["license"]) == ("MIT", "MIT")
    assert project["version"] == citation["version"] == srs_ray.__version__
    assert f"## {project['version']}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2026 the srs-ray authors\n")
    assert project["authors"] == citation["authors"] == [{"name": "the srs-ray authors"}]


def test_the_citation_names_each_paper_whose_method_the_package_implements():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    cited = {identifier["value"] for each in citation["references"] for identifier in each["identifiers"]}
    assert cited >= {f"arXiv:{number}" for number in IMPLEMENTED}
    for each in citation["references"]:
        assert {"type", "title", "year"} <= each.keys()
        assert all({"family-names", "given-names"} == author.keys() for author in each["authors"])


@pytest.mark.slow
def test_a_wheel_runs_where_there_is_no_checkout(tmp_path, monkeypatch):
    """40 s on two busy cores: the wheel alone, beside the libraries that are installed here."""
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it may name the checkout
    built = run(Path(sys.executable).parent / "uv", "build", "--quiet", "--out-dir", tmp_path / "dist", ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        jobs = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "jobs").rglob("*.yaml")}
        assert jobs == {name: content.read(f"srs_ray/{name}") for name in jobs}
        [metadata] = [content.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    assert {name.split("/")[0] for name in names} == {"srs_ray", f"srs_ray-{srs_ray.__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert metadata.endswith((ROOT / "README.md").read_text())
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
    command = tmp_path / "env/bin/srs-ray"
    assert run(command, "--version", cwd=empty).stdout == f"srs-ray {srs_ray.__version__}\n"
    certify = ("certify", "digits-srs", "--no-ray", "--every", "100", "--output", "digits-srs")
    for now in (4, 0):
        done = run(command, *certify, cwd=empty)
        assert done.returncode == 0, done.stderr
        assert f"4 of 4 points certified, {now} of them now" in done.stdout
    assert [path.name for path in empty.iterdir()] == ["digits-srs"]
