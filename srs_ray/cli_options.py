"""What commands share: arguments and options that mean the same everywhere, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from srs_ray.execution import ExecutionSettings
    from srs_ray.runner.backend import Backend

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML).")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SETTING=VALUE", help="Override any setting of the job file; may be repeated."),
]
OutputOption = Annotated[str | None, typer.Option(help="The run directory.")]
WeightsOption = Annotated[str | None, typer.Option(help="Checkpoint file, or the name of shipped weights.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
WorkersOption = Annotated[str | None, typer.Option(help="How many workers, or auto.")]
AddressOption = Annotated[
    str | None,
    typer.Option(help="The Ray cluster; `local` insists on a local Ray. Default: a running cluster, else local."),
]
NoRayOption = Annotated[bool, typer.Option("--no-ray", help="Run in this process, without Ray, for debugging.")]
DownloadOption = Annotated[bool, typer.Option("--download", help="Fetch CIFAR-10 if it is not there.")]


def overrides(settings: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """Dotted settings with their values: --set first, then the options that were given."""
    from srs_ray.job_file import parse_override

    return dict(parse_override(text) for text in settings or []) | {k: v for k, v in options.items() if v is not None}


def backend_opener(
    execution: ExecutionSettings, address: str | None, no_ray: bool, worker_logs: bool
) -> Callable[[], Backend]:
    """What opens the workers that the options ask for; BadParameter where two of them exclude each other."""
    if no_ray and address is not None:
        raise typer.BadParameter("--no-ray and --address exclude each other")

    def open_backend() -> Backend:
        if no_ray:
            from srs_ray.runner.backend import InProcess

            return InProcess(execution)
        from srs_ray.runner.ray_backend import RayBackend

        return RayBackend(execution, address, worker_logs=worker_logs)

    return open_backend
