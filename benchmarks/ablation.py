"""What each measure of the engine brings: srs-ray as it is, and without one of its measures at a time.

    python benchmarks/ablation.py [--arch mdeq-small-cifar10] [--weights FILE] [--samples 500] [--rounds 5]
        [--without MEASURE]

Every variant has a process of its own; they are timed in turn, round by round. Printed is how many times as long a
noisy sample takes without the measure: the median of the rounds' ratios to the engine as it is.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from unittest.mock import patch

import point
import torch
from point import SRS_1, SRS_3, STANDARD, Ours, Setup
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from srs_ray.models.devices import device_name, use_exact_float32
from srs_ray.models.mdeq import inference, winograd
from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.model import ResidualBlock
from srs_ray.smoothing.noise import grid
from srs_ray.solvers import anderson, broyden, iteration
from srs_ray.solvers.iteration import FixedPointIteration, FixedPointMap, Solution, SolverSetting


def watch_all_steps(f: FixedPointMap, z_BD: Tensor, setting: SolverSetting) -> Solution:
    iteration = FixedPointIteration(f, z_BD, setting)
    for _ in range(setting.steps):
        iteration.advance()
    return iteration.solution()


def whole_batches(engine: Ours) -> None:
    engine.model.stem_at_once = engine.model.head_at_once = None
    for module in engine.model.modules():
        if isinstance(module, ResidualBlock):
            module.at_once = None


def channels_first(engine: Ours) -> None:
    engine.model.channels_last = False
    engine.model.to(memory_format=torch.contiguous_format)


def fold_nothing(module: nn.Module, convolution: str, norm: str) -> None:
    pass


def pair_nothing(module: nn.Module, name: str, width: int) -> None:
    pass


def filter_nothing(block: nn.Module, height: int, width: int) -> None:
    pass


def noise_by_tensors(
    table: grid.Table, key: tuple[int, int], samples: Sequence[int], rest: tuple[int, int], size: int
) -> Tensor:
    return grid.drawn_by_tensors(grid.signed_thresholds(table), table.lowest, key, samples, rest, size)


Replacements = list[tuple[object, str, object]]
NO_FUSED_FEATURES = (inference, "FusedFeatures", lambda model: None)
LEAVE_HEAD: Replacements = [(inference, "JoinedBottleneck", lambda block: block), NO_FUSED_FEATURES]
LEAVE_LOOPS: Replacements = [(inference, "FusedLayer", lambda layer, shapes: None), NO_FUSED_FEATURES]
LEAVE_ROWS = (inference, "_filter_rows", filter_nothing)

# Without which measure, what is put in whose place before the engine is made, and what is done to it afterwards.
VARIANTS: dict[str, tuple[Replacements, Callable[[Ours], None] | None]] = {
    "nothing": ([], None),
    "keeping freed memory": ([(point, "keep_freed_memory", lambda: None)], None),
    "folding batch norms": ([(inference, "_fold", fold_nothing), *LEAVE_HEAD], None),  # only folded ones can be joined
    "channels last": (
        [(inference, "VECTOR", 0), *LEAVE_LOOPS, LEAVE_ROWS],  # what is of no use without goes too
        channels_first,
    ),
    "Winograd's filtering": ([LEAVE_ROWS], None),
    "narrow rows side by side": ([(winograd, "LEAST_WIDTH", 0)], None),
    "parts of a batch for wide layers": ([], whole_batches),
    "pairing narrow convolutions": ([(inference, "_pair", pair_nothing)], None),
    "compiled loops between convolutions": (LEAVE_LOOPS, None),
    "compiled loops in a solver's memory": (
        [(method, "by_loops", lambda z_BD: False) for method in (anderson, broyden)],
        None,
    ),
    "joining the head's shortcuts": (LEAVE_HEAD, None),
    "compiled loops for noise": ([(grid, "_drawn_by_loops", noise_by_tensors)], None),
    "leaving out residuals that nobody reads": ([(iteration, "_take_all_steps", watch_all_steps)], None),
}


def start(variant: str, setup: Setup) -> None:
    """In a new process: the engine without that measure. What was put in place stays there."""
    torch.set_num_threads(setup.threads)
    use_exact_float32()
    replaced, change = VARIANTS[variant]
    stack = ExitStack()
    for owner, name, value in replaced:
        stack.enter_context(patch.object(owner, name, value))
    engine = Ours(setup)
    if change is not None:
        change(engine)
    point.engine = engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="mdeq-small-cifar10", choices=ARCHITECTURES)
    parser.add_argument("--weights", help="a checkpoint file, or the name of shipped weights")
    parser.add_argument("--without", action="append", choices=VARIANTS, help="this measure alone; may be repeated")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="default: what a run takes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, as one worker has them")
    given = vars(parser.parse_args())
    rounds = given.pop("rounds")
    variants = ["nothing", *(given.pop("without") or [variant for variant in VARIANTS if variant != "nothing"])]
    name = given.pop("weights") or point.SHIPPED.get(given["arch"])
    setup = Setup(weights=name, audit=1, plain_batch=1, **given)

    ways = (STANDARD, SRS_1, SRS_3)
    seconds: dict[tuple[str, str], list[float]] = {(variant, way): [] for variant in variants for way in ways}
    with ExitStack() as stack:
        processes = {
            variant: stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), start, (variant, setup)))
            for variant in variants
        }
        for round_number in range(rounds + 1):
            for variant, process in processes.items():
                for way in ways:
                    took, *_ = process.submit(point.time_engine, way, setup.device).result()
                    if round_number:  # the first one warms up kernels and chains
                        seconds[variant, way].append(took)

    device = device_name(torch.device(setup.device))
    title = f"{setup.arch} on {device}, {setup.threads} threads: how many times as long a sample takes"
    table = Table(title=title)
    for heading in ("without", *ways):
        table.add_column(heading, justify="left" if heading == "without" else "right")
    for variant in variants:
        ratios = []
        for way in ways:
            pairs = zip(seconds[variant, way], seconds["nothing", way], strict=True)
            ratios.append(statistics.median(without / whole for without, whole in pairs))
        table.add_row(variant, *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)


if __name__ == "__main__":
    main()
