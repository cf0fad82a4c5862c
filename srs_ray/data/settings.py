"""The job's section `data`: where points come from, and which of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from srs_ray.data.registry import kind_named
from srs_ray.models.user_code import Import
from srs_ray.settings import PathOrName, Settings, arguments

# Settings that not every kind has; and those that, not set, are left out where a section is written down: the stored
# jobs of older runs, which know nothing of them, stay equal.
_OF_SOME_KINDS = ("import_", "args", "image_column", "label_column")
_LEFT_OUT_UNSET = (*_OF_SOME_KINDS, "pixels")


def _known_kind(name: str) -> str:
    return kind_named(name).name


def _an_import(text: str) -> str:
    Import.parse(text)
    return text


class DataSettings(Settings):
    """Where points come from, and which of them: start, start + every, ... below stop (null: to the end).

    `pixels: rounded` rounds them to whole 255ths, for images that noise on the image grid cannot be added to otherwise.
    `import` names a data set of one's own, FILE.py:NAME or MODULE:NAME, called with `args`; no `kind` then.
    """

    kind: Annotated[str, AfterValidator(_known_kind)]
    path: PathOrName | None = None
    split: PathOrName | None = None
    start: int = Field(0, ge=0)
    stop: int | None = Field(None, ge=0)
    every: int = Field(1, ge=1)
    import_: Annotated[PathOrName, AfterValidator(_an_import)] | None = Field(None, alias="import")
    args: Annotated[dict[str, Any], AfterValidator(arguments)] | None = None
    image_column: PathOrName | None = None
    label_column: PathOrName | None = None
    pixels: Literal["rounded"] | None = None

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
