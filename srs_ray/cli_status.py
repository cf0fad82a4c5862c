"""The command `srs-ray status`: once, again and again, or as a page."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from srs_ray.cli_options import open_console
from srs_ray.cli_output import refuse_lost_output
from srs_ray.cli_results import Runs
from srs_ray.errors import SrsRayError

if TYPE_CHECKING:
    from srs_ray.analysis.watch import Look

STATUS_EXAMPLE = "Example: srs-ray status runs/a --json"


def status(
    runs: Runs,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every few seconds, until all is done.")] = False,
    every: Annotated[
        float, typer.Option("--every", "--interval", min=0.1, help="Seconds between two looks of --watch or --serve.")
    ] = 5.0,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show it as a page that renews itself, for browsers on this machine.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port of --serve; default: any that is free.")
    ] = None,
) -> None:
    """How far runs are, from their run directories alone: also somebody else's, while they run."""
    if as_json + watch + serve > 1:
        raise typer.BadParameter("--json, --watch and --serve exclude each other")
    if port is not None and not serve:
        raise typer.BadParameter("--port is for --serve")
    from srs_ray.analysis import run_status
    from srs_ray.analysis.watch import Look

    looks = [Look(run, run_status(run)) for run in runs]
    if serve:
        _serve(looks, port or 0, every)
    elif watch:
        _watch(looks, every)
    elif as_json:
        states = [look.state for look in looks]
        typer.echo(json.dumps(states if len(states) > 1 else states[0], indent=2))
    else:
        typer.echo("\n".join(look.text for look in looks), nl=False)
    refuse_lost_output()


def _watch(looks: list[Look], every: float) -> None:
    """The runs again and again until none has a pending point: a live table, or off a terminal a block each time."""
    from srs_ray.analysis.watch import look_again

    console = Console()
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            if live is not None:
                live.update(_table(looks), refresh=True)
            else:
                typer.echo("\n".join(look.text for look in looks))
            if all(look.at_rest for look in looks):
                return
            time.sleep(every)
            looks = look_again(looks)


def _table(looks: list[Look]) -> Group:
    """One line for each run; below it warnings, and of a single run all that there is to say."""
    from srs_ray.analysis.watch import HEADINGS

    table = Table(*HEADINGS, box=SIMPLE_HEAD)
    for look in looks:
        table.add_row(*map(Text, look.cells))
    notes = [Text(note, style="bold red") for look in looks for note in look.notes]
    return Group(table, *notes, *([Text(looks[0].text, style="dim")] if len(looks) == 1 else []))


def _serve(looks: list[Look], port: int, every: float) -> None:
    from srs_ray.analysis.status_page import status_server

    try:
        server = status_server(looks, port, every)
    except OSError as error:
        raise SrsRayError(f"port {port} of 127.0.0.1 cannot be had ({error.strerror}): give another --port") from error
    with server:
        open_console().print(f"http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends it)", highlight=False)
        server.serve_forever()
