"""The reference pages, as Markdown made from the code: settings, columns, commands and Python functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import typer

import srs_ray
from srs_ray.cli import app
from srs_ray.job import Job, LipschitzJob
from srs_ray.runs.attack_schema import ATTACK_COLUMNS
from srs_ray.runs.row_format import Column
from srs_ray.runs.schema import COLUMNS, SCHEMA_VERSION
from srs_ray.settings import Settings
from srs_ray.settings_reference import Setting, sections
from srs_ray.training.settings import TrainJob

FUNCTIONS = {
    "Certify and predict": ("certify_points", "certify_point", "predict", "open_model", "load_model"),
    "Read runs": (
        "load_points",
        "certified_accuracy",
        "average_certified_radius",
        "p_lower_quantiles",
        "projected_radii",
        "paired_difference",
        "recertify",
        "load_attacks",
        "attacked_accuracy",
    ),
    "Bounds": (
        "clopper_pearson_lower",
        "exact_p_lower",
        "weighted_p_lower",
        "two_sided_p_lower",
        "union_p_lower",
        "paper_p_lower",
        "released_p_lower",
    ),
    "Values": ("PointRow", "Prediction", "Looks", "SolverSetting"),
}


def pages() -> dict[str, str]:
    """Every reference page by its place in the site."""
    return {
        "reference/job.md": settings_page(Job, "Settings of a job", "a job file for `srs-ray certify`"),
        "reference/lipschitz.md": settings_page(
            LipschitzJob, "Settings of a job without noise", "a job file whose `certificate.kind` is `lipschitz`"
        ),
        "reference/training.md": settings_page(TrainJob, "Settings of a training", "a job file for `srs-ray train`"),
        "reference/columns.md": columns_page(),
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
    }


# Settings


def settings_page(job: type[Settings], title: str, what: str) -> str:
    """A table of settings for each section of the job, and one for each alternative of a section."""
    lines = [f"# {title}", "", f"All settings of {what}, with the type and the default of each.", ""]
    lines += ["*implied* marks a setting that follows from other settings unless the job names it.", ""]
    found = sections(job)
    rows = [(f"[`{each.name}`](#{each.name})", each.default, each.meaning) for each in found]
    lines += _table(("section", "default", "meaning"), rows)
    of_a_job = {each.name: each.groups for each in sections(Job)}
    for section in found:
        lines += ["", f"## {section.name}"]
        holds_settings = "." in section.groups[0].settings[0].name
        if job is not Job and holds_settings and of_a_job.get(section.name) == section.groups:
            lines += ["", f"The settings are [those of a job](job.md#{section.name})."]
            continue
        several = len(section.groups) > 1
        for group in section.groups:
            if group.title:
                lines += ["", f"### {group.title}"]
            elif several:
                lines += ["", f"Every section `{section.name}` has these settings:"]
            if group.summary:
                lines += ["", group.summary]
            lines += ["", *(_settings_table(group.settings) if group.settings else ["No other setting."])]
    return "\n".join(lines) + "\n"


def _settings_table(settings: Sequence[Setting]) -> list[str]:
    rows = [(f"`{each.name}`", each.type, each.default, each.meaning) for each in settings]
    return _table(("setting", "type", "default", "meaning"), rows)


# Columns


def columns_page() -> str:
    """The columns of a run's rows, and of an attack's."""

    def rows(columns: Iterable[Column]) -> list[tuple[str, str, str]]:
        return [
            (f"`{column.name}`", re.sub(r"<\w+: (\w+)>", r" of \1", f"{column.type}"), column.meaning)
            for column in columns
        ]

    return "\n".join(
        [
            "# Columns of a run",
            "",
            f"A row is one attempt at one point (schema version {SCHEMA_VERSION}). `srs_ray.load_points` reads the rows"
            " that count: of each index the newest row with status `ok`, else the newest error. Rows in error have no "
            "result. A *hit* is a sample that voted for the candidate class.",
            "",
            *_table(("column", "type", "meaning"), rows(COLUMNS)),
            "",
            "## Columns of an attack",
            "",
            "A row is one attempt at one attacked point, in a directory of `srs-ray attack`. `srs_ray.load_attacks` "
            "reads the rows that count. Distances and radii are l2, in pixel units of [0, 1].",
            "",
            *_table(("column", "type", "meaning"), rows(ATTACK_COLUMNS)),
            "",
        ]
    )


# Commands


def commands_page() -> str:
    """Every command with its arguments and options."""
    lines = ["# Commands", "", (typer.main.get_command(app).help or "").strip()]
    for name, command in commands():
        lines += ["", f"## srs-ray {name}", "", _paragraphs(command.help or "")]
        rows = [_parameter_row(each) for each in command.params if not getattr(each, "hidden", False)]
        rows = [row for row in rows if row[0] != "`--help`"]
        if rows:
            lines += ["", *_table(("argument or option", "default", "meaning"), rows)]
        if command.epilog:
            example = command.epilog.removeprefix("Example: ")
            lines += ["", "```sh", example, "```"]
    return "\n".join(lines) + "\n"


def commands() -> list[tuple[str, Any]]:
    """Every command of `srs-ray` by its words."""
    found: list[tuple[str, Any]] = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [(name, command)] if inner is None else [(f"{name} {each}", inner[each]) for each in inner]
    return found


def _parameter_row(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        name, default = f"`{parameter.metavar or parameter.name.upper()}`", "**required**" if parameter.required else ""
    else:
        name = ", ".join(f"`{option}`" for option in parameter.opts)
        value = parameter.default
        if parameter.required:
            default = "**required**"
        else:
            default = "" if isinstance(value, bool) or value is None or value == () else f"`{value}`"
    return name, default, " ".join((getattr(parameter, "help", None) or "").split())


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


# Python


def python_page() -> str:
    """The public functions, which mkdocstrings fills in."""
    lines = [
        "# Python",
        "",
        "`import srs_ray` loads neither torch nor Ray; a function loads what it needs when it is first used.",
    ]
    for title, names in FUNCTIONS.items():
        lines += ["", f"## {title}"]
        for name in names:
            lines += ["", f"::: {srs_ray._HOME_OF[name]}.{name}"]
    return "\n".join(lines) + "\n"


# Markdown


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]
