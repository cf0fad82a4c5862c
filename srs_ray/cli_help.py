"""The Typer application of `srs-ray`: -h beside --help on every command, and flags shown without a type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

HELP_OPTIONS = ["--help", "-h"]  # commands inherit them from their application


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))


class App(typer.Typer):
    """A Typer application, or a group of commands in one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, context_settings={"help_option_names": HELP_OPTIONS}, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        return super().command(name, cls=_Command, **settings)


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    """The parameters, each flag with an empty metavar.

    Without one, Typer's panels of options show `<bool>` beside a flag, also beside its own --help.
    """
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
