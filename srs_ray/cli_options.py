"""What commands share: arguments and options that mean the same everywhere, and what is made of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from srs_ray.execution import ExecutionSettings
    from srs_ray.runner.backend import Backend


def completing(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell's completion of an option asks for its values; they are made only then."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values() if value.startswith(incomplete)]

    return complete


def one_of(*values: str) -> Callable[[str], list[str]]:
    """`completing` of these values."""
    return completing(lambda: values)


def weights_names() -> list[str]:
    """The names of shipped weights."""
    from srs_ray.models.shipped import shipped_weights

    return shipped_weights()


def architecture_names() -> list[str]:
    """The names of architectures."""
    from srs_ray.models.families import architectures

    return architectures()


def certificate_names() -> list[str]:
    """The names of certificates."""
    from srs_ray.smoothing.bounds import BOUNDS

    return list(BOUNDS)


def data_kinds() -> list[str]:
    """The kinds of data."""
    from srs_ray.data.registry import KINDS

    return list(KINDS)


JobFile = Annotated[
    Path,
    typer.Argument(metavar="JOB", help="The job file (YAML), or the name of one that comes along, such as digits-srs."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SETTING=VALUE", help="Override any setting of the job file; may be repeated."),
]
OutputOption = Annotated[str | None, typer.Option(help="The run directory.")]
WeightsOption = Annotated[
    str | None,
    typer.Option(help="Checkpoint file, or the name of shipped weights.", autocompletion=completing(weights_names)),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda.", autocompletion=one_of("auto", "cpu", "cuda"))
]
WorkersOption = Annotated[str | None, typer.Option(help="How many workers, or auto.")]
TableOrJson = Annotated[str, typer.Option("--format", help="table or json.", autocompletion=one_of("table", "json"))]
AddressOption = Annotated[
    str | None,
    typer.Option(help="The Ray cluster; `local` insists on a local Ray. Default: a running cluster, else local."),
]
NoRayOption = Annotated[bool, typer.Option("--no-ray", help="Run in this process, without Ray, for debugging.")]
DownloadOption = Annotated[bool, typer.Option("--download", help="Fetch CIFAR-10 if it is not there.")]


class _Command(TyperCommand):
    """A command whose flags are shown without a type: they take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_without_type(parameter) for parameter in super().get_params(ctx)]


class _Group(TyperGroup):
    """The same for a group of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_without_type(parameter) for parameter in super().get_params(ctx)]


def _without_type(parameter: Any) -> Any:
    if getattr(parameter, "is_flag", False) and parameter.metavar is None:
        parameter.metavar = ""
    return parameter


class App(typer.Typer):
    """Commands that tell of themselves by -h and --help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:
        return super().command(name, cls=_Command, **settings)


# The options that stand for settings of a certification: the parameter's name, the setting, and what it looks like.
JOB_OPTIONS: dict[str, tuple[str, Any]] = {
    "output": ("output", OutputOption),
    "weights": ("model.weights", WeightsOption),
    "sigma": ("noise.sigma", Annotated[float | None, typer.Option(help="Standard deviation of the noise.")]),
    "n": ("sampling.n", Annotated[int | None, typer.Option(help="Estimation samples per point.")]),
    "steps": ("sampling.steps", Annotated[int | None, typer.Option(help="Solver steps of serialized sampling.")]),
    "audit": ("certificate.audit", Annotated[int | None, typer.Option(help="Audited hits per point, K.")]),
    "alpha": ("certificate.alpha", Annotated[float | None, typer.Option(help="Error probability of a certificate.")]),
    "start": ("data.start", Annotated[int | None, typer.Option(help="The first point.")]),
    "stop": ("data.stop", Annotated[int | None, typer.Option(help="Points below this one.")]),
    "every": ("data.every", Annotated[int | None, typer.Option(help="Every how many points.")]),
    "seed": ("execution.seed", Annotated[int | None, typer.Option(help="Seed of all noise and audits.")]),
    "device": ("execution.device", DeviceOption),
    "workers": ("execution.workers", WorkersOption),
    "batch": (
        "execution.batch",
        Annotated[str | None, typer.Option(help="Samples in the network at once; auto: measured.")],
    ),
}


def with_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with --set and all of JOB_OPTIONS in the place of its parameter `overridden`, a mapping.

    It gets the dotted settings that were given, with their values.
    """

    @functools.wraps(command)
    def run(**given: Any) -> None:
        named = {setting: given.pop(name) for name, (setting, _) in JOB_OPTIONS.items()}
        overridden = overrides(given.pop("settings"), named)
        command(**given, overridden=overridden)

    own = inspect.signature(command, eval_str=True).parameters
    place = list(own).index("overridden")
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter("settings", keyword, default=None, annotation=Set)]
    added += [
        inspect.Parameter(name, keyword, default=None, annotation=annotation)
        for name, (_, annotation) in JOB_OPTIONS.items()
    ]
    parameters = list(own.values())
    parameters[place : place + 1] = added
    parameters = [parameter.replace(kind=keyword) for parameter in parameters]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def open_console(stderr: bool = False) -> Console:
    """Where a command prints: a line is as long as it is, unless a terminal shows it."""
    console = Console(stderr=stderr)
    console.soft_wrap = not console.is_terminal
    return console


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
