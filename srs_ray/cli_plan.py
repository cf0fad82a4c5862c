"""The command `srs-ray plan`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from typing import Annotated, Any

import typer

from srs_ray.cli_options import (
    AddressOption,
    DownloadOption,
    JobFile,
    NoRayOption,
    TableOrJson,
    backend_opener,
    open_console,
)

PLAN_EXAMPLE = "Example: srs-ray plan paper/cifar10-small-srs-3a --pilot 20 --target-radius 1.0"


def plan(
    context: typer.Context,
    job_file: JobFile,
    overridden: dict[str, Any],
    pilot: Annotated[int, typer.Option(min=0, help="How many points to certify first; 0: none.")] = 20,
    target_radius: Annotated[
        str | None,
        typer.Option(help="Propose settings that certify at this radius, in pixel units of [0, 1], such as 1.0."),
    ] = None,
    address: AddressOption = None,
    no_ray: NoRayOption = False,
    download: DownloadOption = False,
    form: TableOrJson = "table",
) -> None:
    """What a job will cost and can earn, from a pilot of evenly spread points, and what to change to reach a radius.

    The pilot's rows go into the job's run directory: nothing is done twice, and `srs-ray certify JOB` goes on from
    there. Exit codes are those of `certify`, for the pilot.
    """
    if form not in ("table", "json"):
        raise typer.BadParameter(f"no format {form!r}; there are table and json")
    from srs_ray.job_file import load_job

    job = load_job(job_file, overridden)
    target = None if target_radius is None else _target(target_radius, job.noise.sigma)
    debug = context.find_root().params["debug"]
    open_backend = backend_opener(job.execution, address, no_ray, worker_logs=debug)

    from srs_ray.planning.pilot import run_pilot
    from srs_ray.planning.plan import plan_job
    from srs_ray.planning.text import print_plan

    console = open_console(stderr=form == "json")
    with redirect_stdout(sys.stderr) if form == "json" else nullcontext():  # what the user's own code prints
        done = run_pilot(job, open_backend, console, pilot, download)
    made = plan_job(done.job, done.indices, done.pilot, done.rows, done.workers, target)
    if form == "json":
        typer.echo(json.dumps(asdict(made), indent=2))
    else:
        print_plan(made, console)
    if done.summary is not None:
        if done.summary.signal is not None:
            console.print("stopped by a signal: the plan rests on the points that were done", highlight=False)
        raise typer.Exit(done.summary.exit_code)


def _target(text: str, sigma: float) -> float:
    from srs_ray.analysis.radii import parse_radii
    from srs_ray.smoothing.radius import target_p

    radii = [float(radius) for radius in parse_radii(text)]
    if len(radii) != 1 or radii[0] <= 0:
        raise typer.BadParameter(f"--target-radius {text!r}: expected one radius above 0")
    try:
        target_p(radii[0], sigma)
    except ValueError as error:
        raise typer.BadParameter(
            f"--target-radius {text}: no probability below 1 earns it at sigma {sigma:g}"
        ) from error
    return radii[0]
