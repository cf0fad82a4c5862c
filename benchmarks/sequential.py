"""What stopping when the answer is known saves on a trained model, by method and radius grid, and what it loses.

    python benchmarks/sequential.py --images ../shared/data/cifar10-test.parquet [--points 50]

The predictions of n noisy samples of each point, by the base classifier F, along chains by SRS and by 1, 2 and 3 steps
from the anchor, are drawn once and kept (--folder); the same command goes on where it stopped. Every way of sampling is
then played on them by the code that certifies points, so that all ways see the same noise. A decision is whether a
point has a target radius; it is set beside that of n samples of F at full alpha, which no alpha is spent on looks for.
Function evaluations are those of selection, estimation and audits together; the last column counts the points that were
estimated by F itself, and by 1, 2 and 3 steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from point import SHIPPED, usual_batch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from srs_ray.data import open_dataset
from srs_ray.models.mdeq.architectures import architecture
from srs_ray.models.mdeq.checkpoints import load_model
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.runner.allocator import keep_freed_memory
from srs_ray.smoothing.base_classifier import NO_CLASS, BaseClassifier, Predictions
from srs_ray.smoothing.bounds import clopper_pearson_lower
from srs_ray.smoothing.certificate import AuditedCertificate, UnauditedCertificate
from srs_ray.smoothing.estimation import estimate
from srs_ray.smoothing.judge import selected_class
from srs_ray.smoothing.noise import Domain, NoisyPoint, noise_generator
from srs_ray.smoothing.radius import target_p
from srs_ray.smoothing.samplers import (
    AnchoredSampler,
    AnchoredSampling,
    AutoSampling,
    Sampler,
    SamplingSettings,
    SerializedSampler,
    SerializedSampling,
    StandardSampler,
    StandardSampling,
)
from srs_ray.smoothing.samplers.auto import MOST_STEPS
from srs_ray.smoothing.samplers.sampler import Selection
from srs_ray.smoothing.smoothing import Smoothing
from srs_ray.solvers.iteration import SolverSetting

ARCH = "mdeq-small-cifar10"
SIGMA, ALPHA, N0, N, CHAINS, WARMUP, SEED = 0.5, 0.001, 100, 10_000, 64, 10, 0
POINT = NoisyPoint(torch.zeros(architecture(ARCH).input_shape), SIGMA, SEED, 0, noise_generator("auto", "cpu"))
NOTHING = np.empty(0, dtype=np.int64)
GRIDS = {"0, 0.25, ..., 1.5": np.arange(0, 1.75, 0.25), "0, 0.5, 1": np.arange(0, 1.5, 0.5), "0": np.zeros(1)}


@dataclass(frozen=True)
class Recorded:
    """What F, the chains and 1 to MOST_STEPS steps from the anchor (rows of `said_by_few_SN`) said of one point's
    samples, selection first, and the mean evaluations of one run of F. It poses as the base classifier.
    """

    setting: ClassVar[SolverSetting] = architecture(ARCH).reference
    in_step: ClassVar[bool] = False

    index: int
    said_by_f_N: np.ndarray
    reference_evaluations: float
    said_by_srs_N: np.ndarray = field(default_factory=lambda: NOTHING)
    said_by_few_SN: np.ndarray = field(default_factory=lambda: NOTHING)
    label: int | None = None

    def predict(self, _: NoisyPoint, stage: Domain, numbers: np.ndarray) -> Predictions:
        """As BaseClassifier.predict."""
        classes_N = self.said_by_f_N[np.asarray(numbers) + first_of(stage)]
        return Predictions(classes_N, round(len(classes_N) * self.reference_evaluations), 0, 0)


def first_of(stage: Domain) -> int:
    """Where a stage's samples begin."""
    return N0 if stage == Domain.ESTIMATION else 0


class RecordedChains:
    """As SerializedSampler, of one step."""

    method, chains, steps = SerializedSampler.method, CHAINS, 1

    def __init__(self, at: Recorded) -> None:
        self.at = at

    def draw(self, stage: Domain, count: int, first: int = 0) -> Predictions:
        begin = first + first_of(stage)
        warmed_up = max(0, min(CHAINS, first + count) - first) if stage == Domain.SELECTION else 0
        return Predictions(self.at.said_by_srs_N[begin : begin + count], count + (WARMUP - 1) * warmed_up, 0, 0)


class RecordedAnchor(AnchoredSampler):
    """As AnchoredSampler, by so many steps."""

    def __init__(self, at: Recorded, steps: int) -> None:
        self.at, self.steps = at, steps

    def draw(self, stage: Domain, count: int, first: int = 0) -> Predictions:
        if stage == Domain.SELECTION:
            return self.at.predict(POINT, stage, np.arange(first, first + count))
        begin = first + first_of(stage)
        return Predictions(self.at.said_by_few_SN[self.steps - 1, begin : begin + count], count * self.steps, 0, 0)

    def by_steps(self, steps: int) -> RecordedAnchor:
        return RecordedAnchor(self.at, steps)

    def said_by_steps(self, domain: Domain, numbers: np.ndarray) -> np.ndarray:
        return self.at.said_by_few_SN[:, numbers + first_of(domain)]


def record(model: MDEQ, x_CHW: torch.Tensor, index: int, batch: int) -> Recorded:
    """Draws all samples of a point, as runs draw them."""
    point = NoisyPoint(x_CHW, SIGMA, SEED, index, noise_generator("auto", "cpu"))
    base, solver = BaseClassifier(model, model.config.reference, batch), model.config.reference.solver
    anchored = AnchoredSampler(base, point, SolverSetting(solver, MOST_STEPS))
    chains = SerializedSampler(model, point, SolverSetting(solver, 1), WARMUP, CHAINS, batch)
    stages = (Domain.SELECTION, N0), (Domain.ESTIMATION, N)
    of_f = [anchored.draw(*stages[0]), base.predict(point, Domain.ESTIMATION, np.arange(N))]
    of_srs = [chains.draw(stage, count) for stage, count in stages]
    by_f, by_srs = (np.concatenate([part.classes_N for part in parts]) for parts in (of_f, of_srs))
    few = np.concatenate([anchored.said_by_steps(stage, np.arange(count)) for stage, count in stages], axis=1)
    return Recorded(index, by_f, sum(part.evaluations for part in of_f) / (N0 + N), by_srs, few)


def recorded(folder: Path, images: str, points: int) -> list[Recorded]:
    """The points' predictions from the folder; those that are not there yet are drawn."""
    torch.set_num_threads(1)
    keep_freed_memory()
    folder.mkdir(parents=True, exist_ok=True)
    model = load_model(ARCH, SHIPPED[ARCH])
    dataset = open_dataset("parquet", images, None, model.config.input_shape)
    done = []
    for index in track(range(0, len(dataset), len(dataset) // points), "points", transient=True):
        path = folder / f"{index}.npz"
        if not path.exists():
            at = record(model, dataset.image(index), index, usual_batch(model))
            np.savez(
                path, f=at.said_by_f_N, srs=at.said_by_srs_N, few=at.said_by_few_SN,
                reference_evaluations=at.reference_evaluations,
            )  # fmt: skip
        kept = np.load(path)
        done.append(Recorded(index, kept["f"], float(kept["reference_evaluations"]), kept["srs"], kept["few"]))
    return done


@dataclass(frozen=True)
class Played:
    """What a way of sampling came to for one point."""

    p_lower: float
    samples: int
    evaluations: float
    steps: int | None


def play(smoothing: Smoothing, at: Recorded) -> Played:
    """Certifies a point from what is recorded of it, by the code that certifies points."""
    point = NoisyPoint(POINT.x_CHW, SIGMA, SEED, at.index, noise_generator("auto", "cpu"))
    base, sampling, goal = cast(BaseClassifier, at), smoothing.sampling, smoothing.goal
    sampler: Sampler = StandardSampler(base, point)
    if isinstance(sampling, SerializedSampling):
        sampler = RecordedChains(at)
    elif sampling.audited:
        few = sampling.steps_of_a_sample
        sampler = RecordedAnchor(at, MOST_STEPS if few is None else few.steps)
    selection = sampler.draw(Domain.SELECTION, sampling.n0)
    selected = selected_class(selection.classes_N)
    if sampling.candidate is not None:
        assert at.label is not None
        selected = at.label
    if selected == NO_CLASS:
        return Played(0.0, N0, selection.evaluations, sampler.steps)
    shown = Selection(selected, selection.classes_N == selected, selection.evaluations)
    sampler, plan, deciding = sampling.decide(smoothing.certificate, goal, base, point, sampler, shown)
    done = estimate(sampler, base, point, selected, sampling.max_nonfinite, plan, goal)
    evaluations = selection.evaluations + deciding.evaluations + done.evaluations + done.audit.evaluations
    return Played(done.p_lower, sampling.n0 + len(done.classes_N), evaluations, sampler.steps)


def ways(radii: np.ndarray, power: float) -> Iterator[tuple[str, Smoothing]]:
    """The ways to sample that are set beside each other, with their certificates."""
    looks: dict[str, Any] = {"target_radii": tuple(radii.tolist()), "looks": {"power": power}}
    solver = Recorded.setting.solver.name
    few: dict[str, Any] = {"solver": solver, "n0": N0}
    chains: dict[str, Any] = {**few, "steps": 1, "chains": CHAINS, "warmup_steps": WARMUP}

    def unaudited(kind: str, **settings: Any) -> Smoothing:
        return Smoothing(SIGMA, StandardSampling(n0=N0, n=N, **settings), UnauditedCertificate(kind=kind, alpha=ALPHA))

    def audited(sampling: SamplingSettings, **audits: Any) -> Smoothing:
        return Smoothing(SIGMA, sampling, AuditedCertificate(kind="exact", alpha=ALPHA, **audits))

    yield "standard, fixed n", unaudited("cohen")
    for kind in ("mixture", "cohen"):
        yield f"standard, {kind}", unaudited(kind, **looks)
    for audit in (400, 4000):
        yield f"srs, fixed n, K = {audit:,}", audited(SerializedSampling(n=N, **chains), audit=audit)
    for share in (0.05, 0.15, 0.5):
        yield f"srs, tau {share:g}", audited(SerializedSampling(n=N, **chains, **looks), audit=0, audit_share=share)
    for steps in range(1, MOST_STEPS + 1):
        for share in (0.1, 0.2, 0.35):
            sampling: SamplingSettings = AnchoredSampling(n=N, steps=steps, **few, **looks)
            yield f"anchored {steps}, tau {share:g}", audited(sampling, audit=0, audit_share=share)
    for most_lost, n in ((0.01, N), (0.02, N), (0.05, N), (0.1, N), (0.2, N), (0.02, 4000), (0.02, 3000)):
        sampling = AutoSampling(n=n, most_lost=most_lost, **few, **looks)
        yield f"auto, most_lost {most_lost:g}, n = {n:,}", audited(sampling, audit=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a Parquet file of CIFAR-10 images")
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--power", type=float, default=2.0, help="by which alpha is spent over looks")
    parser.add_argument("--folder", type=Path, default=Path("runs/sequential"), help="where predictions are kept")
    given = parser.parse_args()
    points = recorded(given.folder, given.images, given.points)

    fixed = np.array([clopper_pearson_lower(hits_of_f(at), N, ALPHA) for at in points])
    console = Console(width=140)
    for name, radii in GRIDS.items():
        targets = [target_p(radius, SIGMA) for radius in radii]
        reached = fixed[:, None] > targets
        table = Table(title=f"{len(points)} points, target radii {name}; means per point")
        for heading in (
            "",
            "samples",
            "evaluations",
            "fewer than F",
            "than 30 steps",
            "equal",
            "lost",
            "gained",
            "steps",
        ):
            table.add_column(heading, justify="right" if heading else "left")
        of_f = (N0 + N) * float(np.mean([at.reference_evaluations for at in points]))
        for way, smoothing in ways(radii, given.power):
            done = [play(smoothing, at) for at in points]
            certified = np.array([outcome.p_lower for outcome in done])[:, None] > targets
            evaluations = float(np.mean([outcome.evaluations for outcome in done]))
            table.add_row(
                way,
                f"{np.mean([outcome.samples for outcome in done]):,.0f}",
                f"{evaluations:,.0f}",
                f"{of_f / evaluations:.1f} times",
                f"{(N0 + N) * Recorded.setting.steps / evaluations:.1f} times",
                f"{(certified == reached).mean():.1%}",
                f"{(~certified & reached).sum()}",
                f"{(certified & ~reached).sum()}",
                " ".join(str(sum(outcome.steps == steps for outcome in done)) for steps in (None, 1, 2, 3)),
            )
        console.print(table)


def hits_of_f(at: Recorded) -> int:
    """F's hits among the estimation samples, of the class that F's selection chose."""
    return int((at.said_by_f_N[N0:] == selected_class(at.said_by_f_N[:N0])).sum())


if __name__ == "__main__":
    main()
