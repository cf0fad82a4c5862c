"""What a sample takes by the size of the batch, against the rule's: what a run that measures its batch can gain.

    python benchmarks/batch_size.py [--arch mdeq-small-cifar10] [--doublings 1] [--rounds 5]

Serialized sampling of 1 and 3 steps and standard sampling, on random weights, each by the rule's batch and by this
halved and doubled --doublings times; batches take turns. Every timing is the one that a run makes at its first start.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from point import SIGMA, usual_batch
from rich.console import Console
from rich.table import Table

from srs_ray.models.devices import device_name, use_exact_float32
from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.checkpoints import inference_model, random_weights
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.runner.allocator import keep_freed_memory
from srs_ray.smoothing.batch_size import seconds_a_sample
from srs_ray.smoothing.noise import NoisyPoint, noise_generator
from srs_ray.smoothing.samplers import SerializedSampling, StandardSampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="mdeq-small-cifar10", choices=ARCHITECTURES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--doublings", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    keep_freed_memory()
    use_exact_float32()
    model = inference_model(given.arch, random_weights(given.arch), given.device)
    generator = noise_generator("auto", given.device)
    x_CHW = torch.full(model.config.input_shape, 0.5, device=model.device)
    point, opened, reference = NoisyPoint(x_CHW, SIGMA, 0, 0, generator), opened_mdeq(model), model.config.reference
    samplings: dict[str, StandardSampling | SerializedSampling] = {
        f"SRS, {steps} step{'s' * (steps > 1)}": SerializedSampling(solver=reference.solver.name, steps=steps)
        for steps in (1, 3)
    }
    samplings["standard"] = StandardSampling()

    rule = usual_batch(model)
    doublings = range(-given.doublings, given.doublings + 1)
    batches = [batch for power in doublings if (batch := int(rule * 2.0**power)) > 0]
    table = Table(
        title=f"{given.arch} on {device_name(model.device)}, {given.threads} threads: a sample's time over that by the "
        f"rule's batch, {rule}; medians of {given.rounds}"
    )
    for heading in ("a noisy sample", *map(str, batches)):
        table.add_column(heading, justify="right")
    for name, sampling in samplings.items():
        rounds = [
            {batch: seconds_a_sample(opened, sampling, point, batch) for batch in batches} for _ in range(given.rounds)
        ]
        ratios = (statistics.median(seconds[batch] / seconds[rule] for seconds in rounds) for batch in batches)
        table.add_row(name, *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
