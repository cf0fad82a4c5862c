"""README.md: its length, its Python block, its job file, and every command that it prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from srs_ray.cli import app

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_WORDS = 1000  # code blocks not included
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
SHELL = [text for language, text in BLOCKS if language == "sh"]
OUTPUTS = [text for language, text in BLOCKS if language == "text"]
COMMANDS = [line for block in SHELL for line in block.splitlines()]
OURS = [line for line in COMMANDS if line.startswith("srs-ray ")]
OFFLINE = [line for line in OURS if "--download" not in line]
SHORT = ("--no-ray", "--every", "180", "--n", "400", "--audit", "100")


def block_of(language: str) -> str:
    (found,) = [text for each, text in BLOCKS if each == language]
    return found


def said_by(words: list[str]) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def beside_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where jobs/ is what it is in a clone, and runs/ is empty."""
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_has_at_most_a_thousand_words_outside_code_blocks():
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) <= MOST_WORDS


def test_the_python_block_prints_what_stands_below_it():
    done = subprocess.run([sys.executable, "-c", block_of("python")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == OUTPUTS[0]


def test_the_job_is_the_demos():
    assert block_of("yaml") == (ROOT / "jobs" / "digits-srs.yaml").read_text(encoding="utf-8")


def test_the_first_commands_are_the_demo_and_the_tests():
    assert [line.split("#")[0].split() for line in SHELL[0].splitlines()] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there(command, job_of_readme):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "srs-ray":
        job_of_readme(words[1:])
    else:
        assert words in (["source", ".venv/bin/activate"], ["pip", "install", "."])


@pytest.fixture
def job_of_readme():
    def check(words: list[str]) -> None:
        given = typer.main.get_command(app).commands[words[0]].make_context(words[0], words[1:]).params
        if "job_file" in given:
            assert (ROOT / given["job_file"]).is_file()

    return check


def test_a_command_that_needs_a_download_is_announced():
    announced = [block for block in SHELL if "--download" in block]
    assert announced
    for block in announced:
        sentence = TEXT[: TEXT.index(block)].removesuffix("```sh\n").rstrip().splitlines()[-1]
        assert "needs a download" in sentence


def test_offline_commands_run_as_printed(beside_the_jobs):
    """On two of the 24 points, with fewer samples, in this process."""
    certify, *readers = OFFLINE
    assert certify == "srs-ray certify jobs/digits-srs.yaml"
    assert len(readers) >= 3
    said_by([*shlex.split(certify)[1:], *SHORT])
    for command in readers:
        said_by(shlex.split(command)[1:])
    assert (beside_the_jobs / "runs" / "demo-srs.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_jobs_table_is_the_printed_one(beside_the_jobs):
    lines = said_by([*shlex.split(OFFLINE[0])[1:], "--no-ray"]).splitlines()
    (first,) = [place for place, line in enumerate(lines) if "certified accuracy (%)" in line]
    table = textwrap.dedent("\n".join(lines[first : first + len(OUTPUTS[1].splitlines())]))
    assert [line.rstrip() for line in table.splitlines()] == [line.rstrip() for line in OUTPUTS[1].splitlines()]
