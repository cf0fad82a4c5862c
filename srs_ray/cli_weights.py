"""The commands `srs-ray weights ...`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srs_ray.cli_options import App, architecture_names, completing, data_kinds, open_console, weights_names
from srs_ray.errors import SrsRayError

if TYPE_CHECKING:
    from srs_ray.models.weights import Weights

Source = Annotated[
    str,
    typer.Argument(help="A checkpoint file, or the name of shipped weights.", autocompletion=completing(weights_names)),
]
FittingArch = Annotated[
    str | None,
    typer.Option(help="The architecture; default: the one that fits.", autocompletion=completing(architecture_names)),
]

weights_app = App(no_args_is_help=True, help="Convert, inspect, draw and make weights.")


@weights_app.command(epilog="Example: srs-ray weights convert MDEQ_small.pth.tar small.safetensors")
def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint in the published format.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    arch: FittingArch = None,
    m: Annotated[float | None, typer.Option(help="Monotonicity that a monDEQ or LBEN was trained with.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Lipschitz bound that an LBEN was trained with.")] = None,
) -> None:
    """Convert a checkpoint to safetensors with weight normalisation folded; it certifies just as the original does.

    Published monotone models hold neither m nor gamma: give them here. What is proved of their weights goes into the
    card of the new file.
    """
    from srs_ray.models.mdeq.checkpoints import build_model, fitting_architectures, read_weights
    from srs_ray.models.weights import Weights, write_weights
    from srs_ray.settings import home_expanded

    target = home_expanded(target, SrsRayError)
    constants = {name: value for name, value in {"m": m, "gamma": gamma}.items() if value is not None}
    monotone = _monotone_of(source, arch, constants)
    if monotone is not None:
        content, arch = monotone
        write_weights(_with_proofs(content, arch), target)
        typer.echo(f"wrote {target} ({arch}, digest {content.digest[:16]})")
        return
    if constants:
        raise SrsRayError(f"--{next(iter(constants))} is a constant of a monotone model, and {source} fits none")
    content = read_weights(source)
    arch = arch or next(iter(fitting_architectures(content)), None)
    if arch is None:
        raise SrsRayError(f"{source} fits no known architecture; --arch NAME says what keeps it from fitting that one")
    build_model(arch, content)
    write_weights(Weights(content.tensors, {**content.metadata, "architecture": arch}), target)
    typer.echo(f"wrote {target} ({arch}, digest {content.digest[:16]})")


def _monotone_of(source: str, arch: str | None, constants: dict[str, float]) -> tuple[Weights, str] | None:
    """The weights with these constants and their architecture, where that is a monotone one."""
    from srs_ray.models.monotone.architectures import MONOTONE
    from srs_ray.models.monotone.checkpoints import fitting_monotone, read_monotone

    if arch is not None and arch not in MONOTONE:
        return None
    weights = read_monotone(source, constants)
    arch = arch or next(iter(fitting_monotone(weights)), None)
    return None if arch is None else (weights, arch)


def _with_proofs(weights: Weights, arch: str) -> Weights:
    """The weights with what is proved of them in their metadata; WeightsError where they are refused."""
    from srs_ray.models.monotone.checkpoints import certified_network
    from srs_ray.models.weights import Weights as Made

    card = certified_network(arch, weights).constants.card()
    del card["pair_constants"]
    return Made(weights.tensors, {**weights.metadata, "architecture": arch, "proved": json.dumps(card)})


@weights_app.command("verify", epilog="Example: srs-ray weights verify lben-tiny-digits-gamma2")
def verify_weights(
    source: Annotated[str, typer.Argument(help="Weights of a monotone model, or the name of shipped ones.")],
    arch: FittingArch = None,
) -> None:
    """Prove the conditions of a monotone model on its stored weights, and print its constants.

    Bounds hold in real arithmetic; the rounding of their computation is in them. Weights that fail are refused with the
    condition that cannot be proved. Exit codes: 0 proved; 2 refused, or no monotone model.
    """
    import yaml

    from srs_ray.models.layers.config import LAYERED
    from srs_ray.models.layers.network import fitting_layers, layers_card
    from srs_ray.models.monotone.checkpoints import certified_network
    from srs_ray.models.weights import read_tensors

    found = _monotone_of(source, arch, {})
    if found is not None:
        weights, arch = found
        card = certified_network(arch, weights).constants.card()
    else:
        weights = read_tensors(source)
        arch = arch or next(iter(fitting_layers(weights)), None)
        if arch not in LAYERED:
            raise SrsRayError(
                f"{source} fits no monotone architecture; --arch NAME says what keeps it from fitting that one"
            )
        card = layers_card(arch, weights)
    form: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 110}
    typer.echo(yaml.safe_dump({"architecture": arch, "digest": weights.digest, **card}, **form), nl=False)


@weights_app.command(epilog="Example: srs-ray weights inspect mdeq-tiny-digits-sigma25")
def inspect(
    source: Source,
) -> None:
    """What a checkpoint holds: size, digest, the architectures it fits, how it was made."""
    import yaml

    from srs_ray.models.layers.network import fitting_layers
    from srs_ray.models.mdeq.checkpoints import describe, read_weights
    from srs_ray.models.monotone.checkpoints import fitting_monotone, read_monotone

    form: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 160}
    described = describe(read_weights(source))
    if not described["fits"]:
        weights = read_monotone(source)
        described["fits"] = fitting_monotone(weights) or fitting_layers(weights)
    typer.echo(yaml.safe_dump(described, **form), nl=False)


@weights_app.command(
    epilog="Example: srs-ray weights calibrate small.safetensors --sigma 0.5 --data cifar10 --path data "
    "--output small-start.safetensors"
)
def calibrate(
    source: Source,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise, in pixel units of [0, 1].")],
    data: Annotated[
        str,
        typer.Option(
            help="The kind of the training images: cifar10, digits, parquet, ...", autocompletion=completing(data_kinds)
        ),
    ],
    output: Annotated[Path, typer.Option(help="The safetensors file to write, with the start.")],
    path: Annotated[str | None, typer.Option(help="Where the training images lie.")] = None,
    pixels: Annotated[
        str | None, typer.Option(help="rounded: to whole 255ths, for images that are none, as in a job's data.pixels.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images whose equilibria the start is the mean of.")] = 500,
    evaluated: Annotated[int, typer.Option(min=1, help="Other images, to evaluate few steps on.")] = 1000,
    loss: Annotated[
        float, typer.Option(min=0, help="Points of accuracy that few steps may lose, to propose them.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of images and noise.")] = 0,
    arch: FittingArch = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Give weights a start, so that a base classifier can be a few steps from it, and say how many are enough.

    The start is the mean equilibrium of noisy training images: it depends on no input, so that a few steps from it are
    a classifier as any other, certified without an audit. It is another classifier than the full solver's. Accuracy
    and disagreement by steps and starts, on further training images, go into the card. Points that a run certifies must
    not choose its classifier: test images are refused here, and `certify` refuses the images that made the start.
    """
    from srs_ray.data import open_dataset
    from srs_ray.data.registry import kind_named
    from srs_ray.data.rounding import RoundedPixels
    from srs_ray.models.mdeq.architectures import architecture
    from srs_ray.models.mdeq.checkpoints import build_model, fitting_architectures, read_weights
    from srs_ray.models.weights import write_card, write_weights
    from srs_ray.training.calibration import calibrate as run
    from srs_ray.training.calibration import proposed_reference

    weights = read_weights(source)
    arch = arch or next(iter(fitting_architectures(weights)), None)
    if arch is None:
        raise SrsRayError(f"{source} fits no known architecture; --arch NAME says what keeps it from fitting that one")
    build_model(arch, weights)
    config = architecture(arch)
    try:
        kind = kind_named(data)
    except ValueError as error:
        raise SrsRayError(f"--data: {error}") from None
    if kind.splits and "train" not in kind.splits:
        raise SrsRayError(f"data of kind {data} have no training images: name a folder or Parquet file of these")
    from srs_ray.settings import home_expanded

    target = home_expanded(output, SrsRayError)
    split = "train" if kind.splits else None
    if pixels not in (None, "rounded"):
        raise SrsRayError(f"--pixels is {pixels!r}, expected rounded")
    dataset = open_dataset(data, path, split, config.input_shape, class_count=config.classes)
    dataset = RoundedPixels(dataset) if pixels else dataset
    made, found = run(
        arch, weights, dataset, sigma, images=images, evaluated=evaluated, seed=seed, device=device, shown=_shown
    )
    write_weights(made, target)
    write_card(made, target)
    typer.echo(f"on {evaluated:,} noisy training images, sigma {sigma:g} (other images than those of the start):")
    typer.echo(f"{'start':>8}{'steps':>7}{'accuracy':>10}{'unlike full':>13}")
    full = f"{config.reference}, {found.full_evaluations:.1f} evaluations"
    typer.echo(f"{'zero':>8}{'full':>7}{found.full_accuracy:>10.1%}{'':>13}  {full}")
    for row in found.few:
        typer.echo(f"{row.start:>8}{row.steps:>7}{row.accuracy:>10.1%}{row.disagreement:>13.1%}")
    steps = found.proposal(loss / 100)
    if steps is None:
        typer.echo(f"no few steps lose at most {loss:g} points: keep the full solver, or train for this start")
    else:
        typer.echo(f"the fewest steps that lose at most {loss:g} points; in a job, section sampling:")
        typer.echo(f"  reference: {proposed_reference(steps)}")
    typer.echo(f"wrote {target}, digest {made.digest[:16]}")


def _shown(indices: Sequence[int]) -> Iterator[int]:
    """The indices, with a bar on stderr."""
    from rich.progress import track

    yield from track(indices, "noisy images", console=open_console(stderr=True), transient=True)


@weights_app.command("plot", epilog="Example: srs-ray weights plot mdeq-small-cifar10-sigma50 --output training.png")
def plot_weights(
    source: Annotated[
        str,
        typer.Argument(
            help="Weights that `srs-ray train` wrote, or the name of shipped ones.",
            autocompletion=completing(weights_names),
        ),
    ],
    output: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
) -> None:
    """Noisy accuracy and the agreement of chains by epoch of the training, from the card of the weights."""
    from srs_ray.analysis import plot_training
    from srs_ray.models.mdeq.checkpoints import read_weights

    typer.echo(f"wrote {plot_training(read_weights(source).card, output)}")


@weights_app.command(epilog="Example: srs-ray weights init mdeq-small-imagenet weights/random.safetensors")
def init(
    arch: Annotated[str, typer.Argument(help="The architecture.", autocompletion=completing(architecture_names))],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random weights.")] = 0,
) -> None:
    """Random weights: they try out a path through the program, and classify nothing."""
    from srs_ray.models.layers.config import LAYERED
    from srs_ray.models.layers.network import random_layers
    from srs_ray.models.mdeq.checkpoints import random_weights
    from srs_ray.models.monotone.architectures import MONOTONE
    from srs_ray.models.monotone.checkpoints import random_monotone
    from srs_ray.models.weights import write_weights
    from srs_ray.settings import home_expanded

    target = home_expanded(target, SrsRayError)
    draw = random_monotone if arch in MONOTONE else random_layers if arch in LAYERED else random_weights
    write_weights(draw(arch, seed), target)
    typer.echo(f"wrote {target} (random weights of {arch})")
