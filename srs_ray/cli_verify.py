"""The command `srs-ray verify`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from srs_ray.cli_options import TableOrJson, open_console
from srs_ray.cli_output import refuse_lost_output
from srs_ray.cli_results import Run

VERIFY_EXAMPLE = "Example: srs-ray verify runs/a --points 5 --weights model.safetensors --data images.parquet"
DOES_NOT_HOLD = 1


def verify(
    run: Run,
    points: Annotated[int, typer.Option(min=0, help="How many points to certify again; 0: none.")] = 0,
    weights: Annotated[str | None, typer.Option(help="The run's weights as they lie here, or their name.")] = None,
    data: Annotated[
        str | None, typer.Option(help="The run's data as they lie here, in the place of data.path.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draw the points to certify again by this seed. Default: nobody can know them.")
    ] = None,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code",
            help="Allow the code that the run names as its model or data to be run, as it lies under the working "
            "directory. It runs before it can be compared with the run's: read it first.",
        ),
    ] = False,
    form: TableOrJson = "table",
) -> None:
    """Check a run that somebody hands over: every row against its counts, and some points by certifying them again.

    Bounds, radii and classes are computed from each row's counts by the certificate of the run's fingerprint. With
    --points, that many certified points are sampled anew in this process, and must come out the same in every count;
    weights, data and settings must have the run's fingerprint. Nothing is written. Exit codes: 0 all holds; 1 it does
    not; 2 wrong usage, or it cannot be checked.
    """
    if form not in ("table", "json"):
        raise typer.BadParameter(f"no format {form!r}; there are table and json")
    from srs_ray.analysis.verification import verify_run

    found = verify_run(run, points, weights, data, seed, run_code)
    if form == "json":
        typer.echo(json.dumps({**asdict(found), "holds": found.holds}, indent=2))
    else:
        console = open_console()
        pending = found.asked - found.done - found.in_error
        lines = [
            f"{found.run}: {found.model}, {found.setting} [{found.points}]",
            f"{found.done} of {found.asked} points done, {found.in_error} in error, {pending} pending",
            f"certificate: {found.certificate}",
            f"guarantee: {found.guarantee}",
            *(f"note: {note}" for note in found.notes),
        ]
        if found.faults:
            lines.append(f"{len(found.faults)} faults; points of files that do not hold are not counted:")
            lines += [f"  {fault}" for fault in found.faults]
        else:
            lines.append(f"rows: all {found.done} say what their counts give")
        equal = sum(each.equal for each in found.repeated)
        if found.repeated:
            lines.append(f"certified again: {equal} of {len(found.repeated)} points came out the same in every count")
            lines += [f"  {each}" for each in found.repeated]
        elif points:
            lines.append("certified again: none, for no point is done")
        else:
            lines.append("certified again: none (see --points), so the counts themselves are taken on trust")
        for line in lines:
            console.print(escape(line), highlight=False)
        console.print("[bold green]holds[/]" if found.holds else "[bold red]does not hold[/]")
    refuse_lost_output()
    if not found.holds:
        raise typer.Exit(DOES_NOT_HOLD)
