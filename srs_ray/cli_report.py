"""The command `srs-ray report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srs_ray.cli_options import open_console
from srs_ray.cli_output import refuse_lost_output
from srs_ray.cli_results import AttackOption, RadiiOption, Runs

REPORT_EXAMPLE = "Example: srs-ray report runs/a runs/b --output report.html"
DOES_NOT_HOLD = 1


def report(
    runs: Runs,
    output: Annotated[
        Path, typer.Option(help="The report: .html, or .pdf by a Chromium-like browser (SRS_RAY_BROWSER names one).")
    ],
    radii: RadiiOption = None,
    attack: AttackOption = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Show the images of points, where the run's data are here.")
    ] = True,
    data: Annotated[
        str | None, typer.Option(help="The run's data as they lie here, in the place of data.path.")
    ] = None,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code", help="Allow the code that a run names as its data to be run, for images: read it first."
        ),
    ] = False,
) -> None:
    """Write a report of runs to hand over: one file with results, points to look at, provenance and limits.

    Every row is checked against its counts meanwhile, and the report says what that found. It reads run directories
    alone; images come from the run's data where these are here and unchanged. Exit codes: 0 written; 1 written, and a
    run does not hold; 2 wrong usage.
    """
    from srs_ray.analysis.report import Options, write_report
    from srs_ray.runs.printable import printable

    options = Options(radii, images, data, run_code, attacks=tuple(attack or ()))
    made = write_report(runs, output, options)
    typer.echo(f"wrote {printable(str(output))}")
    notes = [
        f"{run.label}: {note}"
        for run in made.runs
        for note in (*run.images.notes, *(f"does not hold: {fault}" for fault in run.verification.faults[:5]))
        if images or run.verification.faults
    ]
    for note in notes:
        open_console(stderr=True).print(printable(note), highlight=False, markup=False)
    refuse_lost_output()
    if any(run.verification.faults for run in made.runs):
        raise typer.Exit(DOES_NOT_HOLD)
