"""What a job file can say, read from the classes of its settings: each setting's name, type, default and meaning.

The command `srs-ray settings`, the comments of `srs-ray init` and the reference pages of the site are made of it.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from srs_ray.errors import JobError
from srs_ray.settings import Settings

# Settings that pydantic requires, and that a job may leave out because other settings imply them.
IMPLIED = {
    "data.kind",
    "evaluation.kind",
    "certificate",
    "certificate.kind",
    "sampling.reference.solver",
    "sampling.reference.steps",
}
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Setting:
    """A setting by its dotted name; type and default are Markdown, with values in backticks."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Group:
    """Settings that belong together: those that all alternatives of a section share (no title), or one's own."""

    title: str
    summary: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Section:
    """A section of a job file, or one setting beside the sections."""

    name: str
    default: str
    meaning: str
    groups: tuple[Group, ...]


def sections(job: type[Settings]) -> list[Section]:
    """The sections of that kind of job, in their order, with all their settings."""
    found = []
    for name, field in fields(job):
        options = sections_in(field.annotation)
        groups = _groups(name, options) if options else (Group("", "", (_setting(name, field),)),)
        found.append(Section(name, _default(name, field), field.description or "", groups))
    return found


def chosen_sections(job: type[Settings], place: str | None) -> list[Section]:
    """The sections at or below a dotted place such as `sampling` or `sampling.looks`; None: all.

    Raises JobError with the names there are, and the one that was probably meant.
    """
    every = sections(job)
    if place is None:
        return every
    found = []
    for section in every:
        groups = tuple(
            Group(group.title, group.summary, kept)
            for group in section.groups
            if (kept := tuple(each for each in group.settings if f"{each.name}.".startswith(f"{place}.")))
        )
        if section.name == place:
            groups = section.groups
        if groups:
            found.append(Section(section.name, section.default, section.meaning, groups))
    if not found:
        names = [section.name for section in every]
        near = difflib.get_close_matches(place, [*names, *sorted(setting_names(job))], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise JobError(f"no section or setting {place!r}{hint} (sections: {', '.join(names)})")
    return found


def _groups(prefix: str, options: Sequence[type[Settings]]) -> tuple[Group, ...]:
    """What the alternatives of a section share, then what each has of its own."""
    flat = [list(_flat(prefix, option)) for option in options]
    if len(options) == 1:
        return (_group("", _paragraphs(options[0].__doc__ or ""), flat[0]),)
    common = [
        (name, field)
        for name, field in flat[0]
        if all(any(name == other and _alike(field, found) for other, found in rows) for rows in flat)
    ]
    shared = {name for name, _ in common}
    groups = [_group("", "", common)] if common else []
    for option, rows in zip(options, flat, strict=True):
        own = [(name, field) for name, field in rows if name not in shared]
        groups.append(_group(_title(prefix, option), _paragraphs(option.__doc__ or ""), own))
    return tuple(groups)


def _group(title: str, summary: str, found: Sequence[tuple[str, FieldInfo]]) -> Group:
    return Group(title, summary, tuple(_setting(name, field) for name, field in found))


def _setting(name: str, field: FieldInfo) -> Setting:
    return Setting(name, _type_with_limits(field), _default(name, field), field.description or "")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _title(prefix: str, option: type[Settings]) -> str:
    """The alternative by the setting that chooses it, else by its class."""
    for name, field in fields(option):
        chosen = get_args(field.annotation)
        if get_origin(field.annotation) is Literal and len(chosen) == 1:
            return f"{prefix}.{name}: {chosen[0]}"
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in option.__name__).split()
    return f"{prefix}: " + " ".join(word for word in words if word not in ("settings", "certificate"))


def _flat(prefix: str, section: type[Settings]) -> Iterator[tuple[str, FieldInfo]]:
    """The settings of a section by their dotted names; those of a section inside it follow it."""
    for name, field in fields(section):
        dotted = f"{prefix}.{name}"
        yield dotted, field
        seen: set[str] = set()
        for inner in sections_in(field.annotation):
            for place, found in _flat(dotted, inner):
                if place not in seen:
                    seen.add(place)
                    yield place, found


def setting_names(job: type[Settings]) -> set[str]:
    """The dotted names of all settings of a job."""
    found: set[str] = set()
    for name, field in fields(job):
        options = sections_in(field.annotation)
        found |= {place for option in options for place, _ in _flat(name, option)} or {name}
    return found


def fields(section: type[Settings]) -> Iterator[tuple[str, FieldInfo]]:
    """The settings by their names in a job file, without those that are read only for older runs."""
    former = getattr(section, "former", ())
    for name, field in section.model_fields.items():
        if name not in former:
            yield field.alias or name, field


def sections_in(annotation: Any) -> list[type[Settings]]:
    """The sections that a setting may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    found: list[type[Settings]] = []
    for argument in get_args(annotation):
        found += [each for each in sections_in(argument) if each not in found]
    return found


def _alike(one: FieldInfo, other: FieldInfo) -> bool:
    return (one.description, str(one.annotation), one.default) == (
        other.description,
        str(other.annotation),
        other.default,
    )


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
