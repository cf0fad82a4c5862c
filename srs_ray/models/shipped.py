"""Weights that come with the package, by name and card; nothing of it needs torch."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

SHIPPED_FOLDER = "pretrained"


def shipped_weights() -> list[str]:
    """The names of the weights that come with the package."""
    folder = files("srs_ray.models") / SHIPPED_FOLDER
    return sorted(
        item.name.removesuffix(".safetensors") for item in folder.iterdir() if item.name.endswith(".safetensors")
    )


def shipped_card(name: str) -> dict[str, Any]:
    """How the weights of that name were made: their `architecture` and `sigma`, among others."""
    card: dict[str, Any] = json.loads((files("srs_ray.models") / SHIPPED_FOLDER / f"{name}.json").read_text("utf-8"))
    return card
