"""Reads job files: YAML in, a validated job out; what is wrong is named with what was found and what is allowed."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

import srs_ray
from srs_ray.errors import JobError
from srs_ray.job import AnyJob, Job, LipschitzJob, kind_of_job
from srs_ray.job_yaml import LARGEST_FILE, read_yaml
from srs_ray.models.settings import ArchitectureSettings, ImportedModelSettings, ModelSettings
from srs_ray.regular_files import read_regular
from srs_ray.settings import Settings, home_expanded
from srs_ray.training.settings import TrainJob

JobType = TypeVar("JobType", Job, LipschitzJob, TrainJob)
# Parts of an error's place that pydantic puts there.
_NO_SETTINGS = ("int", "constrained-int", "constrained-float", "literal['auto']", "literal['unlimited']")


class _ModelAlone(Settings):
    model: ModelSettings


def load_job(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Job:
    """The certification in a YAML file, with dotted settings overridden; JobError names each setting that is wrong.

    `path` may also be the name of a job that comes with the package, such as digits-srs.
    """
    file = _found(path)
    raw = _overridden(_raw(file), overrides or {}, str(file))
    if kind_of_job(raw) is LipschitzJob:
        raise JobError(f"{path}: certificate.kind lipschitz draws no samples, and this is for jobs that do")
    return _validated(Job, raw, str(file))


def load_any_job(path: str | Path, overrides: Mapping[str, Any] | None = None) -> AnyJob:
    """As `load_job`, also a certification without noise."""
    file = _found(path)
    raw = _overridden(_raw(file), overrides or {}, str(file))
    if kind_of_job(raw) is LipschitzJob:
        return _validated(LipschitzJob, raw, str(file))
    return _validated(Job, raw, str(file))


def load_train_job(path: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainJob:
    """The training in a YAML file or of that name, as `load_job` has it."""
    file = _found(path)
    return _validated(TrainJob, _overridden(_raw(file), overrides or {}, str(file)), str(file))


def shipped_jobs() -> dict[str, Path]:
    """The job files that come with the package, by name: digits-srs, paper/cifar10-small-srs-3a."""
    package = Path(srs_ray.__file__).resolve().parent
    folders = (package / "jobs", package.parent / "jobs")  # of an installed package, and of a checkout
    folder = next((each for each in folders if each.is_dir()), None)
    if folder is None:
        return {}
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def _found(path: str | Path) -> Path:
    """The file at that path, else the job of that name. A folder hides no name: a run may have its job's name."""
    file = home_expanded(path, JobError)
    named = shipped_jobs().get(str(path))
    return file if named is None or os.path.isfile(file) else named


def load_model_section(raw: Mapping[str, Any]) -> ArchitectureSettings | ImportedModelSettings:
    """A section `model` as job files have it; JobError names each setting that is wrong."""
    try:
        return _ModelAlone.model_validate({"model": dict(raw)}).model
    except ValidationError as error:
        raise JobError("; ".join(_explain(_ModelAlone, detail) for detail in error.errors())) from error


def parse_override(text: str) -> tuple[str, Any]:
    """`noise.sigma=0.25` as a dotted setting and its YAML value."""
    key, equals, value = text.partition("=")
    if not equals or not all(part.isidentifier() for part in key.strip().split(".")):
        raise JobError(f"--set {text!r}: expected SETTING=VALUE, for example noise.sigma=0.25")
    if not value.isascii() and any("\udc80" <= character <= "\udcff" for character in value):
        return key.strip(), value  # bytes of a path that are not UTF-8, and so no YAML
    try:
        return key.strip(), read_yaml(value)
    except yaml.MarkedYAMLError as error:
        raise JobError(f"--set {text!r}: {value!r} is not a YAML value ({error.problem})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise JobError(f"--set {text!r}: {value!r} is not a YAML value") from error


def _raw(path: Path) -> dict[str, Any]:
    """The settings of a file as they are."""
    try:
        raw = read_yaml(read_regular(path, LARGEST_FILE).decode())
    except FileNotFoundError as error:
        names = list(shipped_jobs())
        near = "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(str(path), names, n=1))
        raise JobError(
            f"no job file at {path}: give a YAML file, or the name of a job that comes along ({', '.join(names)}){near}"
        ) from error
    except OSError as error:
        raise JobError(f"the job file {path} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        said = ": ".join(filter(None, [error.context, error.problem]))
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise JobError(f"{path} is not readable as YAML: {place}{said}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are not UTF-8
        raise JobError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise JobError(f"{path}: expected a mapping of settings, found {type(raw).__name__}")
    return raw


def changed_job(job: Job, overrides: Mapping[str, Any]) -> Job:
    """A job with dotted settings overridden; JobError names each setting that is wrong."""
    raw = job.model_dump(mode="json", by_alias=True)
    given = {name: value for name, value in raw.items() if value is not None}
    return _validated(Job, _overridden(given, overrides, "the run's job"), "the run's job")


def _overridden(raw: dict[str, Any], overrides: Mapping[str, Any], name_of_job: str) -> dict[str, Any]:
    """The raw settings with dotted ones overridden."""
    for key, value in overrides.items():
        *sections, last = key.split(".")
        section = raw
        for name in sections:
            nested = section.get(name, {})
            if not isinstance(nested, dict):
                raise JobError(f"{name_of_job}: cannot set {key}: {name} is not a section")
            section[name] = {**nested}  # a copy: an alias would carry the change into another section
            section = section[name]
        section[last] = value
    return raw


def _validated(kind: type[JobType], raw: Mapping[str, Any], name_of_job: str) -> JobType:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(kind, detail)}" for detail in error.errors())
        raise JobError(f"{name_of_job}:\n{problems}") from error


def _explain(kind: type[Settings], detail: ErrorDetails) -> str:
    """One validation error as `path: what was found, what is allowed`."""
    place = [str(part) for part in detail["loc"]]
    known = list(_fields_of(kind))
    section: type[BaseModel] | None = kind
    shown: list[str] = []
    for part in place:
        fields = _fields_of(section) if section is not None else {}
        nested = _section_of(fields[part].annotation, place) if part in fields else None
        if part in fields or nested is not None or not shown or part.isdigit() or part == place[-1]:
            shown.append(part)
        if part in fields:
            section = nested
            known = list(_fields_of(section)) if section is not None else known
    path = ".".join(part for part in shown if part not in _NO_SETTINGS and not part.startswith("("))
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{path}: unknown setting{hint} (allowed here: {', '.join(known)})"
    if detail["type"] == "missing":
        return f"{path}: missing"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if detail["type"] == "value_error" and isinstance(detail["input"], Mapping):
        return f"{path + ': ' if path else ''}{message}"
    return f"{path}: found {detail['input']!r}: {message}"


def _fields_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The section's settings by their names in a job file."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _section_of(annotation: Any, place: list[str]) -> type[BaseModel] | None:
    """The section that a field holds; of the alternatives of a union, the one that the error's place names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for option in getattr(annotation, "__args__", ()):
        section = _section_of(option, place)
        if section is None:
            continue
        tags = {mark.tag for mark in getattr(option, "__metadata__", ()) if isinstance(mark, Tag)}
        for name in {"method", "kind"} & section.model_fields.keys():
            tags |= set(getattr(section.model_fields[name].annotation, "__args__", ()))
        if not tags or tags & set(place):
            return section
    return None
