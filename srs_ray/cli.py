"""The command line, `srs-ray`: it parses, calls and prints."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from rich.markup import escape

import srs_ray
from srs_ray.cli_attack import ATTACK_EXAMPLE, attack
from srs_ray.cli_jobs import INIT_EXAMPLE, SETTINGS_EXAMPLE, init, settings
from srs_ray.cli_options import (
    AddressOption,
    App,
    DownloadOption,
    JobFile,
    NoRayOption,
    Set,
    backend_opener,
    open_console,
    overrides,
    with_job_options,
)
from srs_ray.cli_output import keep_printing
from srs_ray.cli_plan import PLAN_EXAMPLE, plan
from srs_ray.cli_predict import PREDICT_EXAMPLE, predict
from srs_ray.cli_report import REPORT_EXAMPLE, report
from srs_ray.cli_results import (
    AGGREGATE_EXAMPLE,
    EXPORT_EXAMPLE,
    PLOT_EXAMPLE,
    Run,
    aggregate,
    export,
    plot,
    print_table,
)
from srs_ray.cli_status import STATUS_EXAMPLE, status
from srs_ray.cli_verify import VERIFY_EXAMPLE, verify
from srs_ray.cli_weights import weights_app
from srs_ray.errors import SrsRayError

WRONG_USAGE = 2

app = App(
    name="srs-ray",
    help="Certify the robustness of image classifiers, above all deep equilibrium models, by randomized smoothing.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(weights_app, name="weights")

messages = open_console(stderr=True)
_debug = False


def main() -> None:
    """The entry point: a user's mistake is one message and exit code 2, with a traceback under --debug only."""
    keep_printing()
    try:
        app()
    except SrsRayError as error:
        if _debug:
            raise
        from srs_ray.runs.printable import printable

        text = "\n".join(map(printable, str(error).splitlines()))
        messages.print(f"[bold red]error:[/] {escape(text)}", highlight=False)
        sys.exit(WRONG_USAGE)
    except KeyboardInterrupt as stopped:
        sys.exit(128 + getattr(stopped, "number", signal.SIGINT))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"srs-ray {srs_ray.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and the log of every worker.")] = False,
    version: Annotated[
        bool, typer.Option("-V", "--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    global _debug
    _debug = debug
    # Threads of torch that wait for each other would spin: on a busy machine an epoch of training took 6 times longer.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A terminal has a live view; a log file gets a line every minute, with its time.
    level = logging.DEBUG if debug else logging.WARNING if messages.is_terminal else logging.INFO
    if messages.is_terminal:
        handler: logging.Handler = RichHandler(console=messages, show_path=debug, show_time=debug)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    else:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("srs_ray").setLevel(level)


@app.command(epilog="Example: srs-ray certify paper/cifar10-small-srs-3a --every 100 --output runs/quick")
@with_job_options
def certify(
    job_file: JobFile,
    overridden: dict[str, Any],
    address: AddressOption = None,
    no_ray: NoRayOption = False,
    download: DownloadOption = False,
) -> None:
    """Certify the points of a job; the same command continues a run that was stopped, and does only what is missing.

    Exit codes: 0 all points done; 2 wrong usage; 3 points failed or are missing; 129, 130 or 143 stopped by a
    signal.
    """
    from srs_ray.job_file import load_any_job

    job = load_any_job(job_file, overridden)
    open_backend = backend_opener(job.execution, address, no_ray, worker_logs=_debug)

    from srs_ray.runner.certification import certify as run
    from srs_ray.runs.printable import printable

    console = open_console()
    summary = run(job, open_backend, console, download)
    if summary.done:
        print_table([summary.path], None, "table")
    state = "stopped by a signal" if summary.signal is not None else "finished" if not summary.missing else "ended"
    console.print(
        f"[bold]{state}[/]: {summary.done} of {summary.asked} points certified, {summary.finished} of them now"
        + (f", {summary.errors} failed" if summary.errors else "")
        + f"; rows are in {escape(printable(summary.path))}",
        highlight=False,
    )
    if summary.missing:
        console.print("run the same command again to do what is missing", highlight=False)
    raise typer.Exit(summary.exit_code)


app.command(epilog=SETTINGS_EXAMPLE)(settings)
app.command(epilog=INIT_EXAMPLE)(init)
app.command(epilog=PLAN_EXAMPLE)(with_job_options(plan))
app.command(epilog=PREDICT_EXAMPLE)(predict)


@app.command(epilog="Example: srs-ray submit digits-srs --address http://HEAD:8265 --output /shared/runs/digits")
@with_job_options
def submit(
    job_file: JobFile,
    overridden: dict[str, Any],
    address: Annotated[
        str | None,
        typer.Option(
            help="The cluster's dashboard, such as http://HEAD:8265. RAY_API_SERVER_ADDRESS and RAY_ADDRESS win over "
            "it, as they do for `ray job`."
        ),
    ] = None,
    download: DownloadOption = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return when the cluster has taken the job.")] = False,
) -> None:
    """Run `certify` on a cluster elsewhere and follow its log; the same command continues a run that was stopped.

    Paths (output, data.path, model.weights, and those in args) are the cluster's. The files of model.import and
    data.import are this machine's: they go along, with every file in their folders that their import statements name.
    MODULE:NAME must be installed on the cluster. Ctrl-C stops following, not the job. Exit codes: those of `certify`
    there; 130 no longer followed; 143 stopped.
    """
    from srs_ray.job_file import load_any_job
    from srs_ray.runner.submission import submit as send
    from srs_ray.runs.printable import printable

    submission = send(load_any_job(job_file, overridden), address, download)
    typer.echo(f"submitted {submission.id}, with these files and no others:")
    for file, size in submission.sent:
        typer.echo(f"  {printable(file)} ({size:,} bytes)")
    typer.echo(f"  to look: {submission.ray_command('logs --follow')}")
    typer.echo(f"  to stop: {submission.ray_command('stop')}")
    if no_wait:
        return
    try:
        code = submission.follow(lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        messages.print(f"no longer followed; {submission.id} goes on", highlight=False)
        raise typer.Exit(128 + signal.SIGINT) from None
    raise typer.Exit(code)


app.command(epilog=AGGREGATE_EXAMPLE)(aggregate)
app.command(epilog=PLOT_EXAMPLE)(plot)
app.command(epilog=EXPORT_EXAMPLE)(export)
app.command(epilog=VERIFY_EXAMPLE)(verify)
app.command(epilog=ATTACK_EXAMPLE)(attack)
app.command(epilog=REPORT_EXAMPLE)(report)


app.command(epilog=STATUS_EXAMPLE)(status)


@app.command(epilog="Example: srs-ray compact runs/a")
def compact(run: Run) -> None:
    """Merge the small Parquet files of a run or an attack that nobody writes now; `certify` and `attack` do it as they
    go."""
    from srs_ray.runs import Lease, RunDirectory
    from srs_ray.runs.record import FORMATS

    directory = RunDirectory.open(run, FORMATS)
    with Lease.acquire(run):
        before, after = directory.compact()
    typer.echo(f"{before} {'part' if before == 1 else 'parts'} before, {after} now")


@app.command(epilog="Example: srs-ray train digits-train --output my-digits.safetensors")
def train(
    job_file: JobFile,
    settings: Set = None,
    output: Annotated[str | None, typer.Option(help="The safetensors file to write.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Standard deviation of the training noise.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share each batch, over Ray if above 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, batches and noise.")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster of more than one worker; `local` insists on a local Ray. Default: a running cluster, "
            "else local."
        ),
    ] = None,
) -> None:
    """Train an MDEQ under Gaussian noise, unrolled first, then at the equilibrium; writes weights for `certify`.

    The same command goes on where a training was stopped. Beside the weights there is their card (.json), and in the
    folder .training the checkpoint, epochs.csv and TensorBoard's events. Workers on several nodes need the output on a
    file system that they share, and data and weights at the same path. Exit codes: 0 trained; 2 wrong usage; 129,
    130 or 143 stopped by a signal.
    """
    options = {
        "output": output,
        "noise.sigma": sigma,
        "execution.device": device,
        "execution.workers": workers,
        "execution.seed": seed,
    }
    from srs_ray.job_file import load_train_job
    from srs_ray.runner.signals import StopRequest
    from srs_ray.training import Training, TrainingProgress

    job = load_train_job(job_file, overrides(settings, options))
    if address is not None and job.execution.workers == 1:
        raise typer.BadParameter("--address is for a training by several processes: give --workers above 1 too")
    command = shlex.join(["srs-ray", *sys.argv[1:]])
    progress = TrainingProgress(open_console(), job.training)
    with StopRequest() as request:

        def stopped() -> bool:
            return request.received is not None

        if job.execution.workers > 1:
            from srs_ray.runner.distributed_training import train_on_ray

            with progress as report:
                result = train_on_ray(job, command, address, report, stopped, worker_logs=_debug)
        else:
            training = Training(job, command)
            with progress as report:
                result = training.run(report, stopped)
    if result is None:
        typer.echo("stopped by a signal; run the same command again to go on")
        raise typer.Exit(128 + (request.received or 0))
    typer.echo(f"wrote {result.path}; `srs-ray weights inspect {result.path}` says how it was made and how good it is")


if __name__ == "__main__":
    main()
