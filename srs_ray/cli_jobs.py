"""The commands about job files themselves: `srs-ray settings` and `init`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from srs_ray.cli_options import architecture_names, completing, data_kinds, one_of, open_console
from srs_ray.cli_output import refuse_lost_output
from srs_ray.errors import SrsRayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srs_ray.settings_reference import Group, Section

SETTINGS_EXAMPLE = "Example: srs-ray settings sampling"
INIT_EXAMPLE = "Example: srs-ray init job.yaml --model mdeq-tiny-digits --data digits"
FORMS = ("table", "markdown", "json")
HEADINGS = ("setting", "type", "default", "meaning")


def settings(
    section: Annotated[
        str | None,
        typer.Argument(metavar="[SECTION]", help="A section such as sampling, or a setting in it such as noise.sigma."),
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Those of a job file for `srs-ray train`.")] = False,
    form: Annotated[
        str, typer.Option("--format", help="table, markdown or json.", autocompletion=one_of(*FORMS))
    ] = "table",
) -> None:
    """All settings of a job file, with type, default and meaning."""
    if form not in FORMS:
        raise SrsRayError(f"no format {form!r}; there are {', '.join(FORMS[:-1])} and {FORMS[-1]}")
    from srs_ray.settings_reference import chosen_sections

    if train:
        from srs_ray.training.settings import TrainJob

        found = chosen_sections(TrainJob, section)
    else:
        from srs_ray.job import Job

        found = chosen_sections(Job, section)
    if form == "json":
        typer.echo(json.dumps([_plain(each) for each in found], indent=2, ensure_ascii=False))
    elif form == "markdown":
        typer.echo("\n\n".join(_markdown(each) for each in found))
    else:
        _print_table(found)
    refuse_lost_output()


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The job file to write.")],
    model: Annotated[
        str,
        typer.Option(
            help="An architecture such as mdeq-small-cifar10; import: your own; torchvision: one of those.",
            autocompletion=completing(lambda: [*architecture_names(), "import", "torchvision"]),
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="The kind of data: digits, cifar10, imagenet, imagefolder, parquet, import.",
            autocompletion=completing(data_kinds),
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(
            help="Sampling: standard, srs, anchored or auto. Default: srs for an architecture, else standard.",
            autocompletion=one_of("standard", "srs", "anchored", "auto"),
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a first job file, with a comment on each setting."""
    from srs_ray.job_template import CHANGE, job_template
    from srs_ray.runs.printable import printable
    from srs_ray.settings import home_expanded

    target = home_expanded(path, SrsRayError)
    text = job_template(model, data, method, f"runs/{target.stem}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise SrsRayError(f"{target} is there already: give another name, or --force to replace it") from error
    except OSError as error:
        raise SrsRayError(f"cannot write {target} ({error.strerror or error}): give another name") from error
    shown = printable(str(target))
    places = text.count(f"# {CHANGE}")
    todo = f"change {places} line{'s' * (places != 1)} marked {CHANGE[:-1]}, then run" if places else "run"
    typer.echo(f"wrote {shown}; {todo}: srs-ray certify {shown}")
    refuse_lost_output()


def _plain(section: Section) -> dict[str, object]:
    """A section as JSON values, types and defaults without Markdown."""
    groups = [
        {
            "title": group.title,
            "summary": group.summary,
            "settings": [
                {**asdict(each), "type": _bare(each.type), "default": _bare(each.default)} for each in group.settings
            ],
        }
        for group in section.groups
    ]
    return {"name": section.name, "default": _bare(section.default), "meaning": section.meaning, "groups": groups}


def _markdown(section: Section) -> str:
    parts = [f"## {section.name}", section.meaning]
    for group in section.groups:
        parts += [f"### {group.title}"] if group.title else []
        parts += [group.summary] if group.summary else []
        if group.settings:
            rows = [HEADINGS, ("---",) * len(HEADINGS)]
            rows += [(f"`{each.name}`", each.type, each.default, each.meaning) for each in group.settings]
            parts.append(
                "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
            )
    return "\n\n".join(parts)


def _print_table(found: Sequence[Section]) -> None:
    """Sections with their settings; below 100 columns a setting's meaning gets lines of its own."""
    console = open_console()
    for number, section in enumerate(found):
        console.print(
            f"{chr(10) if number else ''}[bold]{escape(section.name)}[/]: {escape(section.meaning)}", highlight=False
        )
        for group in section.groups:
            if group.title:
                console.print(f"\n  [bold]{escape(group.title)}[/]", highlight=False)
            if group.summary and len(section.groups) > 1:
                console.print(f"  [dim]{escape(group.summary.replace(chr(10) * 2, chr(32)))}[/]", highlight=False)
            for line in _lines(group):
                console.print(escape(line), highlight=False)


def _lines(group: Group) -> list[str]:
    lines = []
    for each in group.settings:
        default = _bare(each.default)
        said = "required" if default == "required" else f"default: {default}"
        lines += [f"  {each.name}  ({_bare(each.type)}; {said})", f"      {each.meaning}"]
    return lines


def _bare(markdown: str) -> str:
    return markdown.replace("`", "").replace("**", "")
