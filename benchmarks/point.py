"""What a noisy sample costs by each way of sampling: evaluations of f and seconds, interleaved in one process.

    python benchmarks/point.py [--arch mdeq-small-cifar10] [--weights FILE] [--samples 400] [--rounds 5]

Prints medians over the rounds and ratios to standard sampling that stops at its tolerance. Without --weights the
weights are random: their times are real, their number of evaluations to the tolerance is not that of a trained model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from srs_ray.models.architectures import ARCHITECTURES
from srs_ray.models.mdeq import MDEQ
from srs_ray.models.solvers import SolverSetting
from srs_ray.models.weights import build_model, random_weights, read_weights
from srs_ray.smoothing.base_classifier import BaseClassifier
from srs_ray.smoothing.noise import NoisyPoint, Stage, noise_generator
from srs_ray.smoothing.point import default_batch, device_name
from srs_ray.smoothing.samplers import Sampler, SerializedSampler, StandardSampler

CHAINS, WARMUP = 100, 10


def samplers(model: MDEQ, point: NoisyPoint, batch: int) -> dict[str, Sampler]:
    reference = model.config.reference
    solver = reference.solver
    to_the_end = replace(reference, tolerance=None)
    ways: dict[str, Sampler] = {
        f"standard {reference}, tolerance {reference.tolerance:g}": StandardSampler(
            BaseClassifier(model, reference, batch), point
        ),
        f"standard {reference}, no tolerance": StandardSampler(BaseClassifier(model, to_the_end, batch), point),
    }
    for steps in (1, 3):
        setting = SolverSetting(solver, steps)
        ways[f"SRS {setting}"] = SerializedSampler(model, point, setting, WARMUP, CHAINS, batch)
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="mdeq-small-cifar10", choices=ARCHITECTURES)
    parser.add_argument("--weights", help="a checkpoint; default: random weights")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, as one worker has them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    weights = read_weights(options.weights) if options.weights else random_weights(options.arch)
    model = build_model(options.arch, weights, options.device)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(model.config.input_shape, generator=generator).to(model.device)
    point = NoisyPoint(image, 0.5, 0, 0, noise_generator("auto", model.device))
    ways = samplers(model, point, default_batch(model.config, model.device.type))

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    evaluations: dict[str, int] = {}
    for round_number in range(options.rounds + 1):
        for name, sampler in ways.items():
            started = time.perf_counter()
            drawn = sampler.draw(Stage.ESTIMATION, options.samples)
            if round_number:  # the first round warms up kernels and chains
                seconds[name].append(time.perf_counter() - started)
                evaluations[name] = drawn.evaluations

    weights_name = options.weights or "random weights"
    table = Table(title=f"{options.arch}, {weights_name}, on {device_name(model.device)}, {options.threads} threads")
    for heading in ("", "evaluations/sample", "ms/sample", "time, of the first row's"):
        table.add_column(heading, justify="left" if not heading else "right")
    medians = {name: statistics.median(times) / options.samples for name, times in seconds.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        table.add_row(
            name, f"{evaluations[name] / options.samples:.2f}", f"{1e3 * median:.3f}", f"{median / first:.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
