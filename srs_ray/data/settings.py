"""The job's section `data`: where points come from, and which of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from srs_ray.settings import PathOrName, Settings

DataKind = Literal["cifar10", "imagenet", "imagefolder", "parquet", "digits"]


class DataSettings(Settings):
    """Where points come from, and which of them: start, start + every, ... below stop (null: to the end)."""

    kind: DataKind
    path: PathOrName | None = None
    split: PathOrName | None = None
    start: int = Field(0, ge=0)
    stop: int | None = Field(None, ge=0)
    every: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _has_a_path(self) -> DataSettings:
        if self.path is None and self.kind != "digits":
            raise ValueError(f"data of kind {self.kind} needs a path (data.path); only digits does without")
        return self
