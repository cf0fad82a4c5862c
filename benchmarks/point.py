"""What certifying a point costs by each way of sampling: srs-ray beside a plain engine (benchmarks/plain.py).

    python benchmarks/point.py [--arch mdeq-small-cifar10] [--weights FILE] [--samples 1000] [--rounds 5]

Each engine has a process of its own. Both first classify the same noisy images, along chains and by the base
classifier, and are to agree. Then they are timed in turn, round by round; what is printed are medians over the rounds,
a ratio being the median of the rounds' own ratios. Seconds of a point are those of n0 + n samples, of which the first
of each chain is warmed up, and of the audit. Without --weights the weights are the shipped ones, or else random, with
which times are real and evaluations to a tolerance are not those of a trained model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from plain import PlainEngine
from rich.console import Console
from rich.table import Table

from srs_ray.models.devices import device_name, use_exact_float32
from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.checkpoints import build_model, inference_model, random_weights, read_weights
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.runner.allocator import keep_freed_memory
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.batch_size import default_batch
from srs_ray.smoothing.noise import Domain, NoisyPoint, noise_generator
from srs_ray.smoothing.samplers import Sampler, SerializedSampler, StandardSampler
from srs_ray.solvers.iteration import SolverSetting

SIGMA, WARMUP_STEPS, CHECKED_STEPS = 0.5, 10, 3
SHIPPED = {"mdeq-small-cifar10": "mdeq-small-cifar10-sigma50", "mdeq-tiny-digits": "mdeq-tiny-digits-sigma25"}
N0, N = 100, 10_000  # of a point
STANDARD, SRS_1, SRS_3, FIRST, AUDIT = "standard", "SRS, 1 step", "SRS, 3 steps", "chains' first samples", "audit"
WAYS = (STANDARD, SRS_1, SRS_3, FIRST, AUDIT)


def usual_batch(model: MDEQ) -> int:
    """The rule's batch for a model on its device."""
    return default_batch(model.config.state_size, model.config.input_shape, model.device.type)


@dataclass(frozen=True)
class Setup:
    """What both engines are given."""

    arch: str
    weights: str | None
    device: str
    threads: int
    samples: int
    audit: int
    plain_batch: int
    batch: int | None

    @property
    def reference(self) -> SolverSetting:
        return ARCHITECTURES[self.arch].reference

    @property
    def checked_chains(self) -> int:
        return min(self.samples, 100)

    def point(self) -> NoisyPoint:
        shape, generator = ARCHITECTURES[self.arch].input_shape, torch.Generator().manual_seed(0)
        image_CHW = torch.rand(shape, generator=generator).to(self.device)
        return NoisyPoint(image_CHW, SIGMA, 0, 0, noise_generator("auto", self.device))


class Plain:
    """The plain engine's side."""

    def __init__(self, setup: Setup) -> None:
        weights = read_weights(setup.weights) if setup.weights else random_weights(setup.arch)
        self.setup, self.point = setup, setup.point()
        self.engine = PlainEngine(build_model(setup.arch, weights, setup.device), setup.plain_batch)
        self.ends_BD = {way: self.engine.model.zero_state(setup.plain_batch) for way in (SRS_1, SRS_3)}

    def draw(self, way: str) -> tuple[int, int]:
        """One round of a way of sampling: how many samples that were, and the evaluations that they took."""
        setup, reference, engine = self.setup, self.setup.reference, self.engine
        count = {AUDIT: setup.audit, FIRST: setup.plain_batch}.get(way, setup.samples)
        before, x_CHW, solver = engine.evaluations, self.point.x_CHW, reference.solver.name
        if way == FIRST:
            engine.serialized(x_CHW, SIGMA, count, solver, WARMUP_STEPS, engine.model.zero_state(count))
        elif way in self.ends_BD:
            engine.serialized(x_CHW, SIGMA, count, solver, 1 if way == SRS_1 else 3, self.ends_BD[way])
        else:
            assert reference.tolerance is not None
            engine.standard(x_CHW, SIGMA, count, solver, reference.steps, reference.tolerance)
        return count, engine.evaluations - before

    def check(self) -> np.ndarray:
        """Classes along chains of three samples, and by the base classifier on the first of them."""
        reference, chains = self.setup.reference, self.setup.checked_chains
        solver = reference.solver.name
        # This engine's k Anderson steps return the iterate after k + 1 of ours.
        spare = 1 if solver == "anderson" else 0
        z_BD, said = self.engine.model.zero_state(chains), []
        for first in range(0, 3 * chains, chains):
            x_BCHW = self.point.samples(Domain.ESTIMATION, range(first, first + chains))
            steps = (CHECKED_STEPS if first else WARMUP_STEPS) - spare
            classes_B, z_BD = self.engine.classify(x_BCHW, z_BD, solver, steps, None)
            said.append(classes_B.cpu().numpy())
        x_BCHW = self.point.samples(Domain.ESTIMATION, range(chains))
        zeros_BD = self.engine.model.zero_state(chains)
        classes_B, _ = self.engine.classify(x_BCHW, zeros_BD, solver, reference.steps, reference.tolerance)
        return np.concatenate([*said, classes_B.cpu().numpy()])


class Ours:
    """srs-ray's side, in a process like a worker's."""

    def __init__(self, setup: Setup) -> None:
        keep_freed_memory()
        weights = read_weights(setup.weights) if setup.weights else random_weights(setup.arch)
        self.setup, self.point = setup, setup.point()
        self.model = inference_model(setup.arch, weights, setup.device)
        self.batch = setup.batch or usual_batch(self.model)
        self.base = BaseClassifier(self.model, setup.reference, self.batch)
        self.chains = min(setup.samples, 400)
        self.samplers: dict[str, Sampler] = {
            STANDARD: StandardSampler(self.base, self.point),
            SRS_1: self._serialized(1, self.chains),
            SRS_3: self._serialized(3, self.chains),
        }

    def _serialized(self, steps: int, chains: int) -> SerializedSampler:
        setting = SolverSetting(self.setup.reference.solver, steps)
        return SerializedSampler(self.model, self.point, setting, WARMUP_STEPS, chains, self.batch)

    def draw(self, way: str) -> tuple[int, int]:
        """One round of a way of sampling: how many samples that were, and the evaluations that they took."""
        if way == FIRST:
            drawn = self._serialized(1, self.chains).draw(Domain.ESTIMATION, self.chains)
        elif way == AUDIT:
            drawn = self.base.predict(self.point, Domain.ESTIMATION, np.arange(self.setup.audit))
        else:
            drawn = self.samplers[way].draw(Domain.ESTIMATION, self.setup.samples)
        return len(drawn.classes_N), drawn.evaluations

    def check(self) -> np.ndarray:
        """Classes along chains of three samples, and by the base classifier on the first of them."""
        chains = self.setup.checked_chains
        along_chains = self._serialized(CHECKED_STEPS, chains).draw(Domain.ESTIMATION, 3 * chains)
        from_zero = self.base.predict(self.point, Domain.ESTIMATION, np.arange(chains))
        return np.concatenate([along_chains.classes_N, from_zero.classes_N])


engine: Plain | Ours  # of this process


def start_engine(kind: type[Plain] | type[Ours], setup: Setup) -> None:
    """In a new process: its engine."""
    global engine
    torch.set_num_threads(setup.threads)
    use_exact_float32()
    engine = kind(setup)


def check_engine() -> np.ndarray:
    """In an engine's process: the classes of `check`."""
    return engine.check()


def time_engine(way: str, device: str) -> tuple[float, int, int]:
    """In an engine's process: seconds, samples and evaluations of one round."""
    started = time.perf_counter()
    samples, evaluations = engine.draw(way)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, samples, evaluations


@dataclass
class Timed:
    """A way of sampling by one engine: seconds of each round; samples and evaluations of the last."""

    seconds: list[float] = field(default_factory=list)
    samples: int = 0
    evaluations: int = 0

    @property
    def per_sample(self) -> list[float]:
        """Seconds of a sample, in each round."""
        return [seconds / self.samples for seconds in self.seconds]


@dataclass(frozen=True)
class Duel:
    """A way of sampling by both engines."""

    plain: Timed
    ours: Timed


def median_ratio(plain_s: list[float], ours_s: list[float]) -> float:
    return statistics.median(plain / ours for plain, ours in zip(plain_s, ours_s, strict=True))


def run(setup: Setup, rounds: int) -> tuple[dict[str, Duel], str]:
    """All rounds; and what the comparison of predictions said. Ends the program where the engines disagree."""
    duels = {way: Duel(Timed(), Timed()) for way in WAYS}
    start = partial(ProcessPoolExecutor, 1, get_context("spawn"), start_engine)
    with start((Plain, setup)) as plain, start((Ours, setup)) as ours:
        differing = int((plain.submit(check_engine).result() != ours.submit(check_engine).result()).sum())
        compared = 4 * setup.checked_chains
        agreed = (
            f"{differing} of {compared} predictions differ between the engines "
            f"(chains of 3 by {CHECKED_STEPS} steps, and {setup.reference} from zero)"
        )
        if differing > compared // 100:  # two logits tie within rounding now and then
            sys.exit(agreed)
        for round_number in range(rounds + 1):
            for way, duel in duels.items():
                for process, timed in ((plain, duel.plain), (ours, duel.ours)):
                    seconds, timed.samples, timed.evaluations = process.submit(time_engine, way, setup.device).result()
                    if round_number:  # the first one warms up kernels and chains
                        timed.seconds.append(seconds)
    return duels, agreed


def samples_table(setup: Setup, duels: dict[str, Duel], title: str) -> Table:
    """What a noisy sample costs."""
    table = Table(title=title)
    for heading in ("", "NFE, plain", "NFE", "ms, plain", "ms", "times as fast", "least, most"):
        table.add_column(heading, justify="left" if not heading else "right")
    for way, duel in duels.items():
        ratios = [plain / ours for plain, ours in zip(duel.plain.per_sample, duel.ours.per_sample, strict=True)]
        table.add_row(
            f"{way}, {setup.reference}" if way in (STANDARD, AUDIT) else way,
            *(f"{timed.evaluations / timed.samples:.2f}" for timed in (duel.plain, duel.ours)),
            *(f"{1e3 * statistics.median(timed.per_sample):.3f}" for timed in (duel.plain, duel.ours)),
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}, {max(ratios):.2f}",
        )
    return table


def point_seconds(way: Timed, first: Timed | None, audit: Timed | None) -> list[float]:
    """Seconds of a point of N0 + N samples, in each round; the first sample of each chain is warmed up."""
    if first is None or audit is None:
        return [(N0 + N) * seconds for seconds in way.per_sample]
    rest = N0 + N - first.samples
    parts = zip(way.per_sample, first.seconds, audit.seconds, strict=True)
    return [rest * of_sample + warming + auditing for of_sample, warming, auditing in parts]


def points_table(setup: Setup, duels: dict[str, Duel]) -> Table:
    """What each way costs for a whole point, the audit included where there is one."""
    table = Table(title=f"a point of {N0} + {N:,} samples; SRS with an audit of K = {setup.audit}")
    for heading in ("", "s, plain", "s", "times as fast"):
        table.add_column(heading, justify="left" if not heading else "right")
    first, audit = duels[FIRST], duels[AUDIT]
    for way in (STANDARD, SRS_1, SRS_3):
        duel = duels[way]
        if way == STANDARD:
            plain_s, ours_s = point_seconds(duel.plain, None, None), point_seconds(duel.ours, None, None)
        else:
            plain_s = point_seconds(duel.plain, first.plain, audit.plain)
            ours_s = point_seconds(duel.ours, first.ours, audit.ours)
        medians = (f"{statistics.median(s):.2f}" for s in (plain_s, ours_s))
        table.add_row(way, *medians, f"{median_ratio(plain_s, ours_s):.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="mdeq-small-cifar10", choices=ARCHITECTURES)
    parser.add_argument("--weights", help="a checkpoint file, or the name of shipped weights")
    parser.add_argument("--samples", type=int, default=1000, help="noisy samples of each way, per round")
    parser.add_argument("--audit", type=int, default=400, help="K, how many samples the audit runs again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain-batch", type=int, default=200, help="of the plain engine")
    parser.add_argument("--batch", type=int, help="of ours; default: what a run takes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, as one worker has them")
    given = vars(parser.parse_args())
    rounds = given.pop("rounds")
    setup = Setup(**{**given, "weights": given["weights"] or SHIPPED.get(given["arch"])})

    duels, agreed = run(setup, rounds)
    device = device_name(torch.device(setup.device))
    on = f"on {device}, {setup.threads} threads, torch {torch.__version__}, medians of {rounds}"
    console = Console()
    console.print(agreed)
    console.print(
        samples_table(setup, duels, f"{setup.arch}, {setup.weights or 'random weights'}; a noisy sample, {on}")
    )
    console.print(points_table(setup, duels))


if __name__ == "__main__":
    main()
