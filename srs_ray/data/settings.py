"""The job's section `data`: where points come from, and which of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from srs_ray.data.registry import KINDS, kind_named
from srs_ray.models.user_code import Import
from srs_ray.regular_files import read_regular
from srs_ray.settings import PathOrName, Settings, arguments, home_expanded

# Settings that not every kind has; and those that, not set, are left out where a section is written down: the stored
# jobs of older runs, which know nothing of them, stay equal.
_OF_SOME_KINDS = ("import_", "args", "image_column", "label_column", "classes")
_LARGEST_LIST = 16 * 2**20  # bytes of a file of class names
_LEFT_OUT_UNSET = (*_OF_SOME_KINDS, "pixels")


def _known_kind(name: str) -> str:
    return kind_named(name).name


def _an_import(text: str) -> str:
    Import.parse(text)
    return text


def _class_names(given: Any) -> Any:
    """The names that a list has, or a text file, one a line; numbers in a list are names too."""
    if isinstance(given, str):
        path = home_expanded(given, ValueError)
        try:
            given = read_regular(path, _LARGEST_LIST).decode().splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ValueError(f"the file of class names {path} cannot be read: {reason}") from error
        given = [line.strip() for line in given if line.strip()]
    if not isinstance(given, list | tuple):
        return given
    return [str(name) if isinstance(name, int) and not isinstance(name, bool) else name for name in given]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if not names or twice is not None:
        raise ValueError("expected at least one class name" if not names else f"{twice!r} is there twice")
    return names


class DataSettings(Settings):
    """Where points come from, and which of them: start, start + every, ... below stop.

    Each kind of data takes some of these settings and refuses the others by name.
    """

    kind: Annotated[str, AfterValidator(_known_kind)] = Field(
        description=f"Kind of data: {', '.join(f'`{name}`' for name in KINDS)}; left out beside `import`."
    )
    path: PathOrName | None = Field(None, description="File or folder of the data.")
    split: PathOrName | None = Field(None, description="Part of the data; default: the kind's own, `test` or `val`.")
    start: int = Field(0, ge=0, description="First index.")
    stop: int | None = Field(None, ge=0, description="Index to stop below; null: the end.")
    every: int = Field(1, ge=1, description="Distance between two points.")
    import_: Annotated[PathOrName, AfterValidator(_an_import)] | None = Field(
        None, alias="import", description="Data set of your own: FILE.py:NAME, or MODULE:NAME of an installed package."
    )
    args: Annotated[dict[str, Any], AfterValidator(arguments)] | None = Field(
        None, description="Keyword arguments of it."
    )
    image_column: PathOrName | None = Field(
        None, description="Parquet: column of the images; default: `image` or `img`."
    )
    label_column: PathOrName | None = Field(
        None, description="Parquet: column of the labels; default: `label`, `labels` or `fine_label`."
    )
    pixels: Literal["rounded"] | None = Field(
        None, description="`rounded` rounds pixels to whole 255ths. Grid noise needs such pixels."
    )
    classes: Annotated[tuple[str, ...], BeforeValidator(_class_names), AfterValidator(_distinct)] | None = Field(
        None, description="Class names in the model's order: a list, or a text file with one name a line."
    )

    @model_validator(mode="before")
    @classmethod
    def _an_import_is_a_kind(cls, raw: Any) -> Any:
        return {"kind": "import", **raw} if isinstance(raw, Mapping) and "import" in raw else raw

    @model_validator(mode="after")
    def _has_the_settings_of_its_kind(self) -> DataSettings:
        kind = kind_named(self.kind)
        allowed = (*kind.needs, *kind.takes)
        for name in ("path", "split", *_OF_SOME_KINDS):
            if getattr(self, name) is not None and name not in allowed:
                raise ValueError(
                    f"{_shown(name)} is {getattr(self, name)!r}, but data of kind {self.kind} has no such setting: "
                    f"leave it out (there are {', '.join(map(_shown, allowed))}, start, stop, every, pixels)"
                )
        for name in kind.needs:
            if getattr(self, name) is None:
                shown = _shown(name)
                raise ValueError(f"data of kind {self.kind} needs {'an' if shown[0] in 'aeiou' else 'a'} {shown}")
        return self

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Kind, path, split, start, stop and every always; other settings where they are set."""
        settings: dict[str, Any] = serialize(self)
        return {
            _shown(name): value for name, value in settings.items() if value is not None or name not in _LEFT_OUT_UNSET
        }


def _shown(name: str) -> str:
    """The setting as a job writes it: `import` is a keyword of Python."""
    return name.removesuffix("_")
