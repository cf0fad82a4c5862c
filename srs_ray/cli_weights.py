"""The commands `srs-ray weights ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from srs_ray.errors import SrsRayError
from srs_ray.settings import home_expanded

weights_app = typer.Typer(no_args_is_help=True, help="Convert, inspect, draw and make weights.")


@weights_app.command(epilog="Example: srs-ray weights convert MDEQ_small.pth.tar small.safetensors")
def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint in the published format.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    arch: Annotated[str | None, typer.Option(help="The architecture; default: the one that fits.")] = None,
) -> None:
    """Convert a checkpoint to safetensors with weight normalisation folded; it certifies just as the original does."""
    from srs_ray.models.mdeq.checkpoints import build_model, fitting_architectures, read_weights
    from srs_ray.models.weights import Weights, write_weights

    content = read_weights(source)
    arch = arch or next(iter(fitting_architectures(content)), None)
    if arch is None:
        raise SrsRayError(f"{source} fits no known architecture; --arch NAME says what keeps it from fitting that one")
    build_model(arch, content)
    target = home_expanded(target, SrsRayError)
    write_weights(Weights(content.tensors, {**content.metadata, "architecture": arch}), target)
    typer.echo(f"wrote {target} ({arch}, digest {content.digest[:16]})")


@weights_app.command(epilog="Example: srs-ray weights inspect mdeq-tiny-digits-sigma25")
def inspect(source: Annotated[str, typer.Argument(help="A checkpoint file, or the name of shipped weights.")]) -> None:
    """What a checkpoint holds: size, digest, the architectures it fits, how it was made."""
    from srs_ray.models.mdeq.checkpoints import describe, read_weights

    form: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 160}
    typer.echo(yaml.safe_dump(describe(read_weights(source)), **form), nl=False)


@weights_app.command("plot", epilog="Example: srs-ray weights plot mdeq-small-cifar10-sigma50 --output training.png")
def plot_weights(
    source: Annotated[str, typer.Argument(help="Weights that `srs-ray train` wrote, or the name of shipped ones.")],
    output: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
) -> None:
    """Noisy accuracy and the agreement of chains by epoch of the training, from the card of the weights."""
    from srs_ray.analysis import plot_training
    from srs_ray.models.mdeq.checkpoints import read_weights

    typer.echo(f"wrote {plot_training(read_weights(source).card, output)}")


@weights_app.command(epilog="Example: srs-ray weights init mdeq-small-imagenet weights/random.safetensors")
def init(
    arch: Annotated[str, typer.Argument(help="The architecture.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random weights.")] = 0,
) -> None:
    """Random weights: they try out a path through the program, and classify nothing."""
    from srs_ray.models.mdeq.checkpoints import random_weights
    from srs_ray.models.weights import write_weights

    target = home_expanded(target, SrsRayError)
    write_weights(random_weights(arch, seed), target)
    typer.echo(f"wrote {target} (random weights of {arch})")
