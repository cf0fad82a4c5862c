"""Help and version of `srs-ray`, as users ask for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import srs_ray
from srs_ray.cli import app


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """`srs-ray`, its commands and theirs, each by its words."""
    group = group or typer.main.get_command(app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands_are_found() -> None:
    assert {(), ("certify",), ("weights",), ("weights", "plot")} < set(commands())


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: " ".join(command) or "srs-ray")
def test_h_is_help_and_no_flag_has_a_type(command: tuple[str, ...]) -> None:
    text = shown(*command, "-h")
    assert text == shown(*command, "--help")
    assert "Usage:" in text
    assert "bool" not in text.lower()


def test_options_with_a_value_keep_their_type() -> None:
    text = shown("certify", "-h")
    lines = {line.split()[1]: line for line in text.splitlines() if "--" in line}
    assert "float" in lines["--sigma"].lower()
    assert "Run in this process" in lines["--no-ray"]


def test_v_is_version() -> None:
    assert shown("-V") == shown("--version") == f"srs-ray {srs_ray.__version__}\n"


def test_the_package_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "srs_ray", "-V"], capture_output=True, text=True, check=True)
    assert done.stdout == f"srs-ray {srs_ray.__version__}\n"
