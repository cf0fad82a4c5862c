"""The command `srs-ray predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srs_ray.cli_options import DeviceOption, JobFile, Set, WeightsOption, overrides

if TYPE_CHECKING:
    from srs_ray.image_files import FilePrediction

PREDICT_EXAMPLE = "Example: srs-ray predict paper/cifar10-small-srs-3a cat.png ship.png --sigma 0.5 --n 10000"
FAILED = 3
NO_CLASS = -1  # of a copy without finite logits


def predict(
    job_file: JobFile,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files: PNG, JPEG, ...")],
    n: Annotated[int, typer.Option(min=1, help="Noisy copies of each image.")] = 1000,
    alpha: Annotated[
        float | None, typer.Option(help="Error probability of each class. Default: the job's certificate.alpha.")
    ] = None,
    settings: Set = None,
    weights: WeightsOption = None,
    sigma: Annotated[float | None, typer.Option(help="Standard deviation of the noise. Default: the job's.")] = None,
    device: DeviceOption = None,
    form: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Classify image files by the smoothed classifier of a job: its model, its base classifier, its sigma and seed.

    The base classifier classifies n noisy copies of each image. If one class wins clearly, it is printed; otherwise the
    smoothed classifier abstains (PREDICT of Cohen et al. 2019). The class is right for this image alone; a radius in
    which it cannot change is what `srs-ray certify` gives. Images are prepared as those of the job's data: a 224x224
    model takes any size, other models exactly their own. An image's position on the command line keys its noise. The
    job's data are not read. Exit codes: 0 all images classified or abstained on; 2 wrong usage; 3 an image failed.
    """
    if form not in ("table", "json"):
        raise typer.BadParameter(f"no format {form!r}; there are table and json")
    options = {
        "certificate.alpha": alpha,
        "model.weights": weights,
        "noise.sigma": sigma,
        "execution.device": device,
    }
    from srs_ray.image_files import open_job_here, predict_files
    from srs_ray.job_file import load_job

    job = load_job(job_file, overrides(settings, options))
    alpha = job.certificate.alpha
    with redirect_stdout(sys.stderr):  # what the user's own code prints
        model = open_job_here(job)
        done = list(predict_files(model, job, images, n, alpha))
    shown = [_shown(each, model.class_names) for each in done]
    if form == "json":
        settled = {"sigma": job.noise.sigma, "n": n, "alpha": alpha, "seed": job.execution.seed}
        typer.echo(json.dumps({**settled, "base_classifier": str(model.reference), "images": shown}, indent=2))
    else:
        _print_table(shown)
        typer.echo(_guarantee(job.noise.sigma, n, alpha, job.execution.seed))
    raise typer.Exit(FAILED if any(each.error is not None for each in done) else 0)


def _shown(done: FilePrediction, class_names: Sequence[str] | None) -> dict[str, Any]:
    """A file's line, as JSON has it."""
    shown: dict[str, Any] = {"file": done.file, "index": done.index}
    if done.prediction is None:
        return shown | {"error": done.error}
    prediction = done.prediction
    named = class_names is not None and not prediction.abstains
    return shown | {
        "abstains": prediction.abstains,
        **asdict(prediction),
        "class_name": class_names[prediction.predicted] if class_names is not None and named else None,
    }


def _print_table(shown: Sequence[dict[str, Any]]) -> None:
    """A line per image that was classified or abstained on, and a line per image that failed."""
    from srs_ray.runs.printable import printable

    rows = [
        (printable(image["file"]), _answer(image), _top_two(image), f"{image['p_value']:.2g}")
        for image in shown
        if "error" not in image
    ]
    lines = [("image", "class", "copies of the top two", "p-value"), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines if rows else []:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for image in shown:
        if "error" in image:
            typer.echo(f"error: {printable(image['error'])}")


def _answer(image: dict[str, Any]) -> str:
    name = f" ({image['class_name']})" if image["class_name"] else ""
    return "abstains" if image["abstains"] else f"{image['predicted']}{name}"


def _top_two(image: dict[str, Any]) -> str:
    counts = dict(zip(image["classes"], image["counts"], strict=True))
    lost = counts.pop(NO_CLASS, 0)
    top = [f"{label}: {count:,}" for label, count in list(counts.items())[:2]]
    return ", ".join(top + ([f"no finite logits: {lost:,}"] if lost else []))


def _guarantee(sigma: float, n: int, alpha: float, seed: int) -> str:
    return (
        f"sigma {sigma:g}, n = {n:,}, seed {seed}. With probability at least 1 - alpha = {1 - alpha:g} over the noise, "
        "a printed class is\nthe smoothed classifier's own for that image. This says nothing about other images, "
        "however close: srs-ray certify\ngives a radius in which the class cannot change."
    )
