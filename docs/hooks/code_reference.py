"""The reference pages, as Markdown made from the code: settings, columns, commands and Python functions."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

import srs_ray
from srs_ray.cli import app
from srs_ray.job import Job, LipschitzJob
from srs_ray.runs.attack_schema import ATTACK_COLUMNS
from srs_ray.runs.row_format import Column
from srs_ray.runs.schema import COLUMNS, SCHEMA_VERSION
from srs_ray.settings import Settings
from srs_ray.training.settings import TrainJob

# Settings that pydantic requires, and that a job may leave out because other settings imply them.
IMPLIED = {
    "data.kind",
    "evaluation.kind",
    "certificate",
    "certificate.kind",
    "sampling.reference.solver",
    "sampling.reference.steps",
}
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
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


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
    lines += _table(("section", "default", "meaning"), _section_rows(job))
    for name, field in _fields(job):
        options = _sections_in(field.annotation)
        if job is not Job and options and options == _sections_in(_annotation(Job, name)):
            lines += ["", f"## {name}", "", f"The settings are [those of a job](job.md#{name})."]
        elif options:
            lines += ["", f"## {name}", "", *_section(name, options)]
        else:
            lines += ["", f"## {name}", "", *_settings_table([(name, field)])]
    return "\n".join(lines) + "\n"


def _annotation(job: type[Settings], name: str) -> Any:
    return job.model_fields[name].annotation if name in job.model_fields else None


def _section_rows(job: type[Settings]) -> Iterator[tuple[str, str, str]]:
    for name, field in _fields(job):
        yield f"[`{name}`](#{name})", _default(name, field), field.description or ""


def _section(prefix: str, options: Sequence[type[Settings]]) -> list[str]:
    """What the alternatives of a section share, then what each has of its own."""
    if len(options) == 1:
        return [_summary(options[0]), "", *_settings_table(list(_flat(prefix, options[0])))]
    flat = [list(_flat(prefix, option)) for option in options]
    common = [
        (name, field)
        for name, field in flat[0]
        if all(any(name == other and _alike(field, found) for other, found in rows) for rows in flat)
    ]
    shared = {name for name, _ in common}
    lines = [f"Every section `{prefix}` has these settings:", "", *_settings_table(common)] if common else []
    for option, rows in zip(options, flat, strict=True):
        own = [(name, field) for name, field in rows if name not in shared]
        lines += ["", f"### {_title(prefix, option)}", "", _summary(option), ""]
        lines += _settings_table(own) if own else ["No other setting."]
    return lines


def _title(prefix: str, option: type[Settings]) -> str:
    """The alternative by the setting that chooses it, else by its class."""
    for name, field in _fields(option):
        chosen = get_args(field.annotation)
        if get_origin(field.annotation) is Literal and len(chosen) == 1:
            return f"{prefix}.{name}: {chosen[0]}"
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in option.__name__).split()
    return f"{prefix}: " + " ".join(word for word in words if word not in ("settings", "certificate"))


def _flat(prefix: str, section: type[Settings]) -> Iterator[tuple[str, FieldInfo]]:
    """The settings of a section by their dotted names; those of a section inside it follow it."""
    for name, field in _fields(section):
        dotted = f"{prefix}.{name}"
        yield dotted, field
        seen: set[str] = set()
        for inner in _sections_in(field.annotation):
            for place, found in _flat(dotted, inner):
                if place not in seen:
                    seen.add(place)
                    yield place, found


def setting_names(job: type[Settings]) -> set[str]:
    """The dotted names of all settings of a job."""
    found: set[str] = set()
    for name, field in _fields(job):
        options = _sections_in(field.annotation)
        found |= {place for option in options for place, _ in _flat(name, option)} or {name}
    return found


def _fields(section: type[Settings]) -> Iterator[tuple[str, FieldInfo]]:
    """The settings by their names in a job file, without those that are read only for older runs."""
    former = getattr(section, "former", ())
    for name, field in section.model_fields.items():
        if name not in former:
            yield field.alias or name, field


def _sections_in(annotation: Any) -> list[type[Settings]]:
    """The sections that a setting may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    found: list[type[Settings]] = []
    for argument in get_args(annotation):
        found += [each for each in _sections_in(argument) if each not in found]
    return found


def _alike(one: FieldInfo, other: FieldInfo) -> bool:
    return (one.description, str(one.annotation), one.default) == (
        other.description,
        str(other.annotation),
        other.default,
    )


def _settings_table(settings: Sequence[tuple[str, FieldInfo]]) -> list[str]:
    rows = [
        (f"`{name}`", _type_with_limits(field), _default(name, field), field.description or "")
        for name, field in settings
    ]
    return _table(("setting", "type", "default", "meaning"), rows)


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "implied" if name in IMPLIED else "**required**"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Settings):
        return "its defaults"
    if isinstance(default, tuple):
        return "`[" + ", ".join(each if isinstance(each, str) else f"{each:g}" for each in default) + "]`"
    return "`null`" if default is None else f"`{default}`"


def _type_with_limits(field: FieldInfo) -> str:
    """The type with the limits of its numbers; what may be null stands last."""
    annotation = field.annotation
    bounded = [each for each in get_args(annotation) if each is not type(None)]
    unset = len(bounded) < len(get_args(annotation)) and get_origin(annotation) in (Union, types.UnionType)
    if unset and len(bounded) == 1:
        return f"{shown_type(Annotated[(bounded[0], *field.metadata, None)])} or `null`"
    return shown_type(Annotated[(annotation, *field.metadata, None)])


def shown_type(annotation: Any) -> str:
    """A type as a reader of YAML has it: int ≥ 1, `auto` or int ≥ 1, list of float."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [f"{_LIMITS[key]} {_number(value)}" for key, value in _limits(arguments[1:])]
        return " ".join([shown_type(arguments[0]), ", ".join(limits)]).strip()
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        named = [shown_type(argument) for argument in arguments if argument is not type(None)]
        return " or ".join(dict.fromkeys([*named, *(["`null`"] if type(None) in arguments else [])]))
    if origin is tuple:
        if Ellipsis in arguments:
            return f"list of {shown_type(arguments[0])}"
        return f"list of {len(arguments)} {shown_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, TypeVar) or annotation is Any:
        return "any"
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "section"
    return {"str": "text"}.get(annotation.__name__, annotation.__name__)


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:g}"


def _limits(metadata: Iterable[Any]) -> Iterator[tuple[str, float]]:
    """The bounds of a number, as annotated types and pydantic's own fields hold them."""
    for each in metadata:
        if isinstance(each, FieldInfo):
            yield from _limits(each.metadata)
        for key in _LIMITS:
            value = getattr(each, key, None)
            if value is not None:
                yield key, value


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


def _summary(section: type[Settings]) -> str:
    return _paragraphs(section.__doc__ or "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]
