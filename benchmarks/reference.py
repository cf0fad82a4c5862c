"""What the base classifier's own steps and tolerance cost and bring: a cheaper F is another classifier, as sound.

    python benchmarks/reference.py --images ../shared/data/cifar10-test.parquet [--points 50] [--output FILE.png]

Each F is certified for itself by standard sampling: whatever its solver, its certificate speaks of it. Noisy accuracy
is the share of images of which one noisy copy is classified right.
"""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from point import SHIPPED, SIGMA, usual_batch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from srs_ray.data import open_dataset
from srs_ray.models.mdeq.checkpoints import load_model
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.runner.allocator import keep_freed_memory
from srs_ray.smoothing.certificate import UnauditedCertificate
from srs_ray.smoothing.judge import SmoothingJudge
from srs_ray.smoothing.noise import noise_generator
from srs_ray.smoothing.row import PointRow
from srs_ray.smoothing.samplers import StandardSampling
from srs_ray.smoothing.smoothing import Smoothing
from srs_ray.solvers.iteration import SolverSetting

ARCH, RADII = "mdeq-small-cifar10", (0.0, 0.25, 0.5, 0.75, 1.0)
SETTINGS = [(steps, None) for steps in (1, 2, 3, 4, 5, 8, 30)] + [(30, 0.1), (30, 0.03), (30, 0.01), (30, 0.001)]


def noisy_accuracy(model: MDEQ, images: torch.Tensor, labels: torch.Tensor, setting: SolverSetting) -> float:
    """Of one noisy copy of each image, the same for all settings."""
    noisy = images + SIGMA * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    right = 0
    for x_BCHW, label_B in zip(noisy.split(64), labels.split(64), strict=True):
        logits_BK = model.logits(x_BCHW, setting.solver.name, setting.steps, setting.tolerance)
        right += int((logits_BK.argmax(dim=1) == label_B).sum())
    return right / len(labels)


def certified(rows: list[PointRow]) -> list[float]:
    """Certified accuracy at RADII."""
    return [float(np.mean([bool(row.correct) and (row.radius or 0.0) >= radius for row in rows])) for radius in RADII]


def evaluations(rows: list[PointRow]) -> float:
    """Of one run of F."""
    return sum(row.function_evaluations or 0 for row in rows) / sum((row.n0 or 0) + (row.n or 0) for row in rows)


def draw(lines: list[tuple[str, float, list[float]]], path: str) -> None:
    """Certified accuracy by what one run of F costs, a line for each radius."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for number, radius in enumerate(RADII):
        for marker, tolerated in (("o", False), ("s", True)):
            part = sorted((cost, values[number]) for name, cost, values in lines if ("tolerance" in name) == tolerated)
            label = f"radius {radius:g}" if not tolerated else None
            axes.plot(
                *zip(*part, strict=True),
                marker=marker,
                color=f"C{number}",
                ls="-" if not tolerated else ":",
                label=label,
            )
    axes.set(xscale="log", xlabel="function evaluations of one run of F", ylabel="certified accuracy")
    axes.set_xticks([1, 2, 3, 4, 5, 8, 30], ["1", "2", "3", "4", "5", "8", "30"])
    axes.minorticks_off()
    axes.set_title("o: that many steps from zero;  squares: 30 steps, stopped at a tolerance", fontsize=9)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a Parquet file of CIFAR-10 images")
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--clean", type=int, default=1000, help="images for the noisy accuracy")
    parser.add_argument("--output", help="where to draw the picture")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    model = load_model(ARCH, SHIPPED[ARCH])
    dataset = open_dataset("parquet", given.images, None, model.config.input_shape)
    chosen = range(0, len(dataset), len(dataset) // given.clean)
    images = torch.stack([dataset.image(index) for index in chosen])
    labels = torch.tensor([dataset.label(index) for index in chosen])

    table = Table(title=f"{ARCH}, {SHIPPED[ARCH]}, sigma {SIGMA:g}; {given.points} points, n = {given.n:,}")
    for heading in ("F", "NFE", "noisy accuracy", *(f"r = {radius:g}" for radius in RADII)):
        table.add_column(heading, justify="right" if heading != "F" else "left")
    lines = []
    for steps, tolerance in track(SETTINGS, "settings", transient=True):
        setting = SolverSetting(model.config.reference.solver, steps, tolerance)
        name = str(setting) if tolerance is None else f"{setting}, tolerance {tolerance:g}"
        judge = SmoothingJudge(
            model=opened_mdeq(model).with_reference(setting),
            smoothing=Smoothing(SIGMA, StandardSampling(n=given.n), UnauditedCertificate(kind="cohen")),
            generator=noise_generator("auto", "cpu"),
            seed=0,
            batch=usual_batch(model),
        )
        indices = range(0, len(dataset), len(dataset) // given.points)
        rows = [judge.certify(dataset.image(index), index, dataset.label(index)) for index in indices]
        lines.append((name, evaluations(rows), certified(rows)))
        accuracy = noisy_accuracy(model, images, labels, setting)
        cells = (f"{100 * share:.0f} %" for share in certified(rows))
        table.add_row(name, f"{evaluations(rows):.1f}", f"{100 * accuracy:.1f} %", *cells)
    Console(width=120).print(table)
    if given.output:
        draw(lines, given.output)


if __name__ == "__main__":
    main()
