"""What certifying a point costs by each way of sampling: srs-ray beside a plain engine, in one process.

    python benchmarks/point.py [--arch mdeq-small-cifar10] [--weights FILE] [--samples 400] [--rounds 5]

Both engines first classify the same noisy images, and are to agree. Then they are timed in turn, round by round;
what is printed are medians over the rounds, a ratio being the median of the rounds' own ratios. Seconds of a point
are those of n0 + n samples and of the audit. Without --weights the weights are the shipped ones, or else random, with
which times are real and evaluations to a tolerance are not those of a trained model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from plain import PlainEngine
from rich.console import Console
from rich.table import Table

from srs_ray.models.architectures import ARCHITECTURES
from srs_ray.models.mdeq import MDEQ
from srs_ray.models.solvers import SolverSetting
from srs_ray.models.weights import Weights, build_model, random_weights, read_weights
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.noise import NoisyPoint, Stage, noise_generator
from srs_ray.smoothing.point import default_batch, device_name
from srs_ray.smoothing.samplers import SerializedSampler, StandardSampler

SIGMA, WARMUP_STEPS = 0.5, 10
SHIPPED = {"mdeq-small-cifar10": "mdeq-small-cifar10-sigma50", "mdeq-tiny-digits": "mdeq-tiny-digits-sigma25"}
N0, N = 100, 10_000  # of a point; the audit's K is an option


@dataclass
class Timed:
    """Seconds and evaluations of one engine, per round."""

    run: Callable[[], int]  # draws samples, and says how many evaluations that took
    samples: int
    seconds: list[float] = field(default_factory=list)
    evaluations: int = 0

    def measure(self, device: torch.device) -> None:
        """One round."""
        started = time.perf_counter()
        self.evaluations = self.run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds.append((time.perf_counter() - started) / self.samples)

    @property
    def milliseconds(self) -> float:
        """Of one sample."""
        return 1e3 * statistics.median(self.seconds)


@dataclass
class Duel:
    """The two engines at one way of sampling."""

    name: str
    plain: Timed
    ours: Timed

    def ratios(self) -> list[float]:
        """How many times as long the plain engine took, in each round."""
        return [plain / ours for plain, ours in zip(self.plain.seconds, self.ours.seconds, strict=True)]


@dataclass(frozen=True)
class Engines:
    """Both engines on one model and one noisy point."""

    model: MDEQ
    plain: PlainEngine
    point: NoisyPoint
    batch: int

    @property
    def reference(self) -> SolverSetting:
        return self.model.config.reference

    def serialized(self, steps: int, chains: int) -> SerializedSampler:
        setting = SolverSetting(self.reference.solver, steps)
        return SerializedSampler(self.model, self.point, setting, WARMUP_STEPS, chains, self.batch)

    def check_equal(self, chains: int) -> str:
        """Both engines on the same images, along chains of three samples; ends the program where they differ."""
        solver, steps = self.reference.solver, 3
        # The plain engine's k Anderson steps return the iterate after k + 1 of ours.
        spare = 1 if solver.name == "anderson" else 0
        classes_N = self.serialized(steps, chains).draw(Stage.ESTIMATION, 3 * chains).classes_N
        z_BD, said = self.model.zero_state(chains), []
        for first in range(0, 3 * chains, chains):
            x_BCHW = self.point.samples(Stage.ESTIMATION, range(first, first + chains))
            wanted = (steps if first else WARMUP_STEPS) - spare
            classes_B, z_BD = self.plain.classify(x_BCHW, z_BD, solver.name, wanted, None)
            said.append(classes_B.cpu().numpy())
        differing = int((np.concatenate(said) != classes_N).sum())
        text = f"{differing} of {3 * chains} predictions differ between the engines ({steps} steps, chains of 3)"
        if differing > 3 * chains // 100:  # a tie within rounding now and then
            sys.exit(text)
        return text

    def duels(self, samples: int, audit: int) -> list[Duel]:
        """Every way of sampling: standard, SRS by 1 and by 3 steps, the audit."""
        plain, x_CHW, reference = self.plain, self.point.x_CHW, self.reference
        solver, steps, tolerance = reference.solver.name, reference.steps, reference.tolerance
        assert tolerance is not None
        base = BaseClassifier(self.model, reference, self.batch)

        def plain_evaluations(run: Callable[[], object]) -> int:
            before = plain.evaluations
            run()
            return plain.evaluations - before

        def duel(name: str, by_plain: Callable[[], object], by_us: Callable[[], int], count: int) -> Duel:
            return Duel(name, Timed(partial(plain_evaluations, by_plain), count), Timed(by_us, count))

        def standard(count: int) -> Callable[[], object]:
            return partial(plain.standard, x_CHW, SIGMA, count, solver, steps, tolerance)

        sampler = StandardSampler(base, self.point)
        duels = [
            duel(
                f"standard {reference}, tolerance {tolerance:g}",
                standard(samples),
                lambda: sampler.draw(Stage.ESTIMATION, samples).evaluations,
                samples,
            )
        ]
        for few in (1, 3):
            ends_BD = self.model.zero_state(plain.batch)
            ours = self.serialized(few, min(samples, 400))
            duels.append(
                duel(
                    f"SRS {SolverSetting(reference.solver, few)}",
                    partial(plain.serialized, x_CHW, SIGMA, samples, solver, few, ends_BD),
                    lambda ours=ours: ours.draw(Stage.ESTIMATION, samples).evaluations,  # type: ignore[misc]
                    samples,
                )
            )
        numbers = np.arange(audit)
        duels.append(
            duel(
                "audit",
                standard(audit),
                lambda: base.predict(self.point, Stage.ESTIMATION, numbers).evaluations,
                audit,
            )
        )
        return duels


def print_samples(duels: list[Duel], title: str) -> None:
    table = Table(title=title)
    for heading in ("", "NFE, plain", "NFE", "ms, plain", "ms", "times as fast", "least, most"):
        table.add_column(heading, justify="left" if not heading else "right")
    for duel in duels:
        ratios = duel.ratios()
        table.add_row(
            duel.name,
            *(f"{timed.evaluations / timed.samples:.2f}" for timed in (duel.plain, duel.ours)),
            *(f"{timed.milliseconds:.3f}" for timed in (duel.plain, duel.ours)),
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}, {max(ratios):.2f}",
        )
    Console().print(table)


def print_points(duels: list[Duel], audit: int) -> None:
    """What each way costs for a whole point, the audit included where there is one."""
    table = Table(title=f"a point of {N0} + {N:,} samples; SRS with an audit of K = {audit}")
    for heading in ("", "s, plain", "s", "times as fast"):
        table.add_column(heading, justify="left" if not heading else "right")
    *ways, audits = duels
    for duel in ways:
        plain_s, ours_s = (
            [
                (N0 + N) * way + (audit * check if duel.name.startswith("SRS") else 0)
                for way, check in zip(way_timed.seconds, audit_timed.seconds, strict=True)
            ]
            for way_timed, audit_timed in ((duel.plain, audits.plain), (duel.ours, audits.ours))
        )
        ratio = statistics.median(plain / ours for plain, ours in zip(plain_s, ours_s, strict=True))
        table.add_row(duel.name, *(f"{statistics.median(s):.2f}" for s in (plain_s, ours_s)), f"{ratio:.2f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="mdeq-small-cifar10", choices=ARCHITECTURES)
    parser.add_argument("--weights", help="a checkpoint file, or the name of shipped weights")
    parser.add_argument("--samples", type=int, default=400, help="noisy samples of each way, per round")
    parser.add_argument("--audit", type=int, default=400, help="K, how many samples the audit runs again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain-batch", type=int, default=200)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, as one worker has them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    name = options.weights or SHIPPED.get(options.arch)
    weights: Weights = read_weights(name) if name else random_weights(options.arch)
    model = build_model(options.arch, weights, options.device)
    image_CHW = torch.rand(model.config.input_shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    point = NoisyPoint(image_CHW, SIGMA, 0, 0, noise_generator("auto", model.device))
    engines = Engines(
        model, PlainEngine(model, options.plain_batch), point, default_batch(model.config, model.device.type)
    )

    print(engines.check_equal(chains=min(options.samples, 100)))
    duels = engines.duels(options.samples, options.audit)
    for round_number in range(options.rounds + 1):
        for duel in duels:
            for timed in (duel.plain, duel.ours):
                timed.measure(model.device)
                if not round_number:  # it warms up kernels and chains
                    timed.seconds.clear()
    on = f"on {device_name(model.device)}, {options.threads} threads, torch {torch.__version__}"
    print_samples(duels, f"{options.arch}, {name or 'random weights'}, {on}; a noisy sample")
    print_points(duels, options.audit)


if __name__ == "__main__":
    main()
