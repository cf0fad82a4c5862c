from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from srs_ray.cli import app
from srs_ray.job import Job
from srs_ray.job_file import load_job, parse_override


@pytest.fixture(scope="session")
def job_of_command() -> Callable[[str, Callable[[str], Path]], Job]:
    """The job of a command such as `srs-ray certify JOB --output RUN`, its words parsed by our own command line."""

    def parse(text: str, job_file: Callable[[str], Path]) -> Job:
        program, name, *words = shlex.split(text, comments=True)
        assert program == "srs-ray"
        command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
        given = command.make_context(name, words).params
        options = {"output": given["output"], "model.weights": given["weights"]}
        overrides = dict(parse_override(setting) for setting in given["settings"] or [])
        overrides |= {setting: value for setting, value in options.items() if value is not None}
        return load_job(job_file(given["job_file"]), overrides)

    return parse
