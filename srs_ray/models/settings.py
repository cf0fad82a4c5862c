"""The job's section `model`: what is certified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_serializer, model_validator

from srs_ray.models.families import architectures
from srs_ray.models.user_code import Import
from srs_ray.settings import PathOrName, Settings, arguments
from srs_ray.solvers.settings import SolverSettings

Count = Annotated[int, Field(ge=1)]


def _known_architecture(name: str) -> str:
    if name not in architectures():
        raise ValueError(f"no such architecture; there are {', '.join(architectures())}")
    return name


def _import_text(text: str) -> str:
    Import.parse(text)
    return text


Architecture = Annotated[str, AfterValidator(_known_architecture)]


class ArchitectureSettings(Settings):
    """An architecture that comes with the package, and its weights."""

    arch: Architecture = Field(description="Name of the architecture.")
    weights: PathOrName = Field(description="Checkpoint file, or the name of weights that ship with the package.")


class ImportedModelSettings(Settings):
    """A model of your own: a torch module, or an equilibrium model with inject, f, head and state_shape."""

    import_: Annotated[str, AfterValidator(_import_text)] = Field(
        alias="import",
        description="Function or class that returns the model: FILE.py:NAME, or MODULE:NAME of an installed package.",
    )
    args: Annotated[dict[str, Any], AfterValidator(arguments)] = Field(
        default_factory=dict, description="Keyword arguments of it."
    )
    weights: PathOrName | None = Field(
        None, description="State dict that the model loads; null: the function loads its own."
    )
    input_shape: tuple[Count, Count, Count] = Field(description="Channels, height and width of an image.")
    classes: int = Field(ge=2, description="Number of classes.")
    class_names: tuple[str, ...] | None = Field(None, description="Names of the classes, in order.")
    reference: SolverSettings | None = Field(
        None,
        description="Solver of an equilibrium model's base classifier; default: anderson, 30 steps, tolerance 1e-3.",
    )

    @model_validator(mode="after")
    def _has_a_name_for_each_class(self) -> ImportedModelSettings:
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"there are {len(self.class_names)} class_names and {self.classes} classes: give as many")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, serialize: Any) -> dict[str, Any]:
        return {name.removesuffix("_"): value for name, value in serialize(self).items() if value is not None}


def _section_for(raw: Any) -> str:
    imported = "import" in raw if isinstance(raw, Mapping) else hasattr(raw, "import_")
    return "(import)" if imported else "(arch)"


ModelSettings = Annotated[
    Annotated[ArchitectureSettings, Tag("(arch)")] | Annotated[ImportedModelSettings, Tag("(import)")],
    Discriminator(_section_for),
]
