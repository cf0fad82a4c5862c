"""The command `srs-ray attack`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from srs_ray.cli_options import (
    AddressOption,
    DeviceOption,
    NoRayOption,
    Set,
    WorkersOption,
    backend_opener,
    open_console,
    overrides,
)
from srs_ray.cli_output import refuse_lost_output

ATTACK_EXAMPLE = "Example: srs-ray attack runs/a --set attack.steps=40 --set attack.radii=[0.25,0.5]"
BESIDE = "-attack"  # after the run's name


def attack(
    target: Annotated[
        str,
        typer.Argument(metavar="RUN|JOB", help="A run directory, or the job (file or name) whose output is one."),
    ],
    settings: Set = None,
    output: Annotated[
        str | None, typer.Option(help="The attack's own directory. Default: the run's name + -attack, beside it.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="The run's weights as they lie here, or their name.")] = None,
    data: Annotated[
        str | None, typer.Option(help="The run's data as they lie here, in the place of data.path.")
    ] = None,
    start: Annotated[int | None, typer.Option(help="The first point.")] = None,
    stop: Annotated[int | None, typer.Option(help="Points below this one.")] = None,
    every: Annotated[int | None, typer.Option(help="Every how many points.")] = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    address: AddressOption = None,
    no_ray: NoRayOption = False,
    run_code: Annotated[
        bool,
        typer.Option(
            "--run-code", help="Allow the code that a RUN names as its model or data to be run: read it first."
        ),
    ] = False,
) -> None:
    """Attack the certified points of a run; the same command continues, and does only what is missing.

    PGD moves each image against the base classifier, Smooth-PGD against the smoothed one, within l2 balls. Each image
    found is checked by fresh noise. The points that stay right are a ceiling of robust accuracy, certified accuracy is
    the floor. Exit codes: 0 all points attacked; 2 wrong usage; 3 points failed or are missing, or an attack
    contradicts a certificate; 129, 130 or 143 stopped by a signal.
    """
    named = {
        "model.weights": weights,
        "data.path": data,
        "data.start": start,
        "data.stop": stop,
        "data.every": every,
        "execution.device": device,
        "execution.workers": workers,
    }
    debug = logging.getLogger("srs_ray").isEnabledFor(logging.DEBUG)
    run, job = _run_and_job(target, overrides(settings, named), run_code)
    open_backend = backend_opener(job.execution, address, no_ray, worker_logs=debug)

    from srs_ray.attacks.settings import AttackSettings
    from srs_ray.runner.attack import attack as attack_run
    from srs_ray.runs.printable import printable

    console = open_console()
    place = output if output is not None else _beside(run)
    done = attack_run(run, job, job.attack or AttackSettings(), place, open_backend, console)
    summary = done.run
    if summary.done:
        _print_table(run, place)
    state = "stopped by a signal" if summary.signal is not None else "finished" if not summary.missing else "ended"
    console.print(
        f"[bold]{state}[/]: {summary.done} of {summary.asked} points attacked, {summary.finished} of them now"
        + (f", {summary.errors} failed" if summary.errors else "")
        + f"; rows are in {escape(printable(summary.path))}",
        highlight=False,
    )
    if summary.missing:
        console.print("run the same command again to do what is missing", highlight=False)
    if done.contradictions:
        expected = summary.done * job.certificate.alpha
        console.print(
            f"[bold red]CERTIFICATES CONTRADICTED[/]: {len(done.contradictions)} of {done.certified} certified points "
            f"were broken inside their certified radius, by fresh noise. Sound certificates of {summary.done} points "
            f"have at most {expected:.2g} false ones in expectation (alpha {job.certificate.alpha:g}). If these are "
            f"more, the certificate ({job.certificate.kind}) is unsound, its counts were not sampled, or the program "
            "has a fault.",
            highlight=False,
        )
        for each in done.contradictions:
            console.print(f"  {each}", highlight=False)
    refuse_lost_output()
    raise typer.Exit(done.exit_code)


def _run_and_job(target: str, overridden: Mapping[str, Any], run_code: bool) -> tuple[str, Any]:
    """The run to attack, and its job with what is overridden; of a RUN the job that it holds, else that of the file."""
    from srs_ray.analysis.verification import refuse_code, stored_job
    from srs_ray.errors import JobError
    from srs_ray.job import Job
    from srs_ray.job_file import changed_job, load_job
    from srs_ray.runs import RunDirectory

    directory = None if os.path.isfile(target) else RunDirectory.find(target)
    if directory is None:
        try:
            job = load_job(target, overridden)
        except JobError as error:
            if str(error).startswith("no job file"):
                raise JobError(f"{target} is no run directory, and there is {error}") from error
            raise
        return job.output, job
    stored = stored_job(directory)
    if not isinstance(stored, Job):
        raise JobError(f"{target} is certified without noise, and attacks are on the smoothed classifier of a run")
    job = changed_job(stored, overridden)
    refuse_code(job, run_code, "to attack points", "attack the job file")
    return target, job


def _beside(run: str) -> str:
    """The attack's directory beside a run."""
    place, mark, options = run.partition("?") if "://" in run else (run, "", "")
    return f"{place.rstrip('/')}{BESIDE}{mark}{options}"


def _print_table(run: str, attacked: str) -> None:
    """Floor and ceiling at the radii of the attack."""
    from srs_ray.analysis.attacks import attack_radii, floor_and_ceiling, load_attacks
    from srs_ray.analysis.points import load_points

    frame = load_attacks(attacked)
    typer.echo(floor_and_ceiling(load_points(run), frame, attack_radii(frame)), nl=False)
