"""What looks save where the base classifier is a few steps from a stored start, and what they lose.

    python benchmarks/few_steps.py --images ../shared/data/cifar10-test.parquet [--points 50] [--steps 1]

All of n noisy samples of each point are classified once and kept (--folder); the same command goes on where it stopped.
Every way of sampling is then played on them by the code that certifies points. A decision is whether a point has a
target radius; it is set beside that of all n samples of the same base classifier at full alpha, with the same
candidate.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from point import usual_batch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sequential import ALPHA, ARCH, GRIDS, N0, SEED, SIGMA, N, Recorded, hits_of_f, play

from srs_ray.data import open_dataset
from srs_ray.models.mdeq.checkpoints import load_model
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.runner.allocator import keep_freed_memory
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.bounds import clopper_pearson_lower
from srs_ray.smoothing.certificate import UnauditedCertificate
from srs_ray.smoothing.noise import Domain, NoisyPoint, noise_generator
from srs_ray.smoothing.radius import target_p
from srs_ray.smoothing.samplers import StandardSampler, StandardSampling
from srs_ray.smoothing.smoothing import Smoothing
from srs_ray.solvers.iteration import SolverSetting

WEIGHTS = "mdeq-small-cifar10-sigma50-start"


def recorded(folder: Path, images: str, points: int, steps: int) -> list[Recorded]:
    """The points' predictions from the folder; those that are not there yet are drawn."""
    torch.set_num_threads(1)
    keep_freed_memory()
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(ARCH, WEIGHTS)
    ready = opened_mdeq(model).with_reference(SolverSetting.named("naive", steps, start="stored"))
    base = BaseClassifier.of(ready, usual_batch(model))
    dataset = open_dataset("parquet", images, None, ready.input_shape)
    done = []
    for index in track(range(0, len(dataset), len(dataset) // points), "points", transient=True):
        path = folder / f"{index}-{steps}.npy"
        if not path.exists():
            point = NoisyPoint(dataset.image(index), SIGMA, SEED, index, noise_generator("auto", "cpu"))
            sampler = StandardSampler(base, point)
            stages = (Domain.SELECTION, N0), (Domain.ESTIMATION, N)
            np.save(path, np.concatenate([sampler.draw(stage, count).classes_N for stage, count in stages]))
        said_N = np.load(path)
        done.append(Recorded(index, said_N, float(steps), label=dataset.label(index)))
    return done


def ways(radii: np.ndarray) -> Iterator[tuple[str, Smoothing]]:
    """The ways to sample that are set beside each other."""

    def by(kind: str, **settings: Any) -> Smoothing:
        certificate = UnauditedCertificate(kind=kind, alpha=ALPHA)
        return Smoothing(SIGMA, StandardSampling(**({"n": N} | settings)), certificate)

    def looks(first: int) -> dict[str, Any]:
        return {"target_radii": tuple(radii.tolist()), "looks": {"first": first}}

    yield "fixed n", by("cohen")
    for first in (100, 25):
        yield f"looks from {first}", by("mixture", **looks(first))
    for n in (N, 6000, 4000):
        yield f"the label, looks from 25, n = {n:,}", by("mixture", candidate="label", n=n, **looks(25))


def hits_of(at: Recorded, smoothing: Smoothing) -> int:
    """Hits among all estimation samples, of the candidate."""
    if smoothing.sampling.candidate is None:
        return hits_of_f(at)
    return int((at.said_by_f_N[N0:] == at.label).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a Parquet file of CIFAR-10 images")
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--steps", type=int, default=1, help="of plain iteration from the stored start")
    parser.add_argument("--folder", type=Path, default=Path("runs/few-steps"), help="where predictions are kept")
    given = parser.parse_args()
    points = recorded(given.folder, given.images, given.points, given.steps)
    console = Console(width=120)
    for name, radii in GRIDS.items():
        targets = [target_p(radius, SIGMA) for radius in radii]
        table = Table(
            title=f"{len(points)} points, {given.steps}N from the start, target radii {name}; means per point"
        )
        for heading in ("", "samples", "evaluations", "fewer than 30 steps", "equal", "lost", "gained"):
            table.add_column(heading, justify="right" if heading else "left")
        for way, smoothing in ways(radii):
            done = [play(smoothing, at) for at in points]
            fixed = np.array([clopper_pearson_lower(hits_of(at, smoothing), N, ALPHA) for at in points])
            reached = fixed[:, None] > targets
            certified = np.array([outcome.p_lower for outcome in done])[:, None] > targets
            evaluations = float(np.mean([outcome.evaluations for outcome in done]))
            table.add_row(
                way,
                f"{np.mean([outcome.samples for outcome in done]):,.0f}",
                f"{evaluations:,.0f}",
                f"{(N0 + N) * 30 / evaluations:.0f} times",
                f"{(certified == reached).mean():.1%}",
                f"{(~certified & reached).sum()}",
                f"{(certified & ~reached).sum()}",
            )
        console.print(table)


if __name__ == "__main__":
    main()
