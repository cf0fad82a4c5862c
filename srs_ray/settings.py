"""What all sections of a job file have in common: the base class of settings, and types that several of them use."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _number(value: object) -> object:
    """Fractions such as 36/255 are how the field writes radii of 8-bit images."""
    try:
        return float(Fraction(value)) if isinstance(value, str) and "/" in value else value
    except (ValueError, ArithmeticError) as error:
        raise ValueError("not a fraction of two whole numbers, the second above 0") from error


def _usable_path(text: str) -> str:
    if not text or b"\0" in os.fsencode(text):
        raise ValueError("a path or name has at least one character, and no NUL among them")
    return text


Probability = Annotated[float, Field(gt=0, lt=1)]
Radius = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
PathOrName = Annotated[str, AfterValidator(_usable_path)]


def home_expanded(path: str | os.PathLike[str], error: type[Exception]) -> Path:
    """The path with the home directory for a leading ~ or ~user; raises `error` where there is no such directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError as unknown:
        raise error(f"{os.fspath(path)} names a home directory that there is not: give the whole path") from unknown


class Settings(BaseModel):
    """One section of a job; a setting it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_no_boolean(cls, raw: Any) -> Any:
        """Pydantic would take true for the number 1."""
        for name, value in raw.items() if isinstance(raw, Mapping) else ():
            if any(isinstance(item, bool) for item in (value if isinstance(value, list | tuple) else [value])):
                raise ValueError(f"{name}: found {value!r}: no setting is true or false; expected a number or a name")
        return raw


def arguments(args: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments that JSON can hold: they are stored with the run and compared when it goes on."""
    for name, value in args.items():
        if not name.isidentifier():
            raise ValueError(f"{name!r} cannot be the name of an argument")
        try:
            kept = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError):
            kept = False
        if not kept:
            raise ValueError(
                f"argument {name} is {value!r}: expected text, a finite number, true, false, null, or lists and "
                "mappings of them (a date goes in quotes)"
            )
    return args


def flattened(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by their dotted names; an empty mapping, or one whose names hold dots, stays a value."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value and not any("." in key for key in value):
            flat |= flattened(f"{prefix}.{name}", value)
        else:
            flat[f"{prefix}.{name}"] = value
    return flat
