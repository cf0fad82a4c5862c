"""How near each stage of a certification comes to what the machine can do: a roofline, measured in one process.

    python benchmarks/roofline.py [--arch mdeq-small-cifar10] [--weights FILE] [--batch 64] [--rounds 5] [--threads 1]

The ceilings are measured here and now: the best rate of a large 3x3 convolution and of a large matrix product, and of a
large copy. For each stage the operations are counted on the model as it was published (torch's FlopCounterMode:
convolutions and matrix products, a multiplication and an addition each counted), and the least bytes that it must
move: what it reads and writes once, weights included. A stage takes at least as long as its operations at the compute
ceiling, or its bytes at the copy's rate, whichever is longer; `share` is that time over the measured one.
`convs` is how much of it the stage's own convolutions take, one after the other, with nothing between them. `solver` is
a step of the reference solver with a full memory, f apart.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from point import SHIPPED, usual_batch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from srs_ray.models.devices import device_name, use_exact_float32
from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.checkpoints import build_model, inference_model, random_weights, read_weights
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.runner.allocator import keep_freed_memory
from srs_ray.smoothing.noise import Domain, NoisyPoint, noise_generator
from srs_ray.solvers.anderson import Anderson
from srs_ray.solvers.iteration import FixedPointIteration


@dataclass(frozen=True)
class Ceilings:
    """The best rates that large, regular work reaches here: operations and bytes per second."""

    convolution: float
    product: float
    copy: float

    @property
    def compute(self) -> float:
        return max(self.convolution, self.product)


@dataclass(frozen=True)
class WorkStage:
    """A part of the work on a batch: what it does, what it reads and what it writes."""

    name: str
    run: Callable[[], object]
    counted: Callable[[], object]  # the same by the model as it was published, whose operations are counted
    moved: int  # bytes


class Convolutions(TorchDispatchMode):
    """Takes note of the convolutions that are called for, and can repeat them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.conv2d.default, torch.ops.aten.convolution.default):
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def repeat(self) -> None:
        for func, args, kwargs in self.calls:
            func(*args, **kwargs)


def seconds(run: Callable[[], object], rounds: int, device: torch.device) -> float:
    """The median time of `run`, which is repeated for at least 20 ms a round."""

    def once(repeats: int) -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / repeats

    once(1)
    repeats = max(1, int(0.02 / max(once(1), 1e-9)))
    return statistics.median(once(repeats) for _ in range(rounds))


def measured_ceilings(device: torch.device, dtype: torch.dtype, rounds: int) -> Ceilings:
    big = 4 if device.type == "cuda" else 1
    x = torch.randn(8 * big, 128, 56, 56, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    w = torch.randn(128, 128, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    a = torch.randn(2048 * big, 2048 * big, device=device, dtype=dtype)
    source = torch.zeros(2**26 * big, device=device)
    target = torch.zeros_like(source)
    convolution = 2 * 9 * 128 * 128 * 56 * 56 * 8 * big / seconds(lambda: F.conv2d(x, w, padding=1), rounds, device)
    product = 2 * len(a) ** 3 / seconds(lambda: a @ a, rounds, device)
    copy = 2 * 4 * source.numel() / seconds(lambda: target.copy_(source), rounds, device)
    return Ceilings(convolution, product, copy)


def size(*tensors: Tensor) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def weights_size(*modules: torch.nn.Module) -> int:
    """Bytes."""
    return size(*(parameter for module in modules for parameter in module.parameters()))


def stages(model: MDEQ, published: MDEQ, point: NoisyPoint, batch: int, compiled: bool) -> Iterator[WorkStage]:
    numbers = range(batch)
    x_BCHW = point.samples(Domain.ESTIMATION, numbers).to(model.dtype)
    u_BCHW = model.inject(x_BCHW)
    z_BD = model.f(model.f(model.zero_state(batch), u_BCHW), u_BCHW)
    fz_BD = model.f(z_BD, u_BCHW)
    logits_BK = model.head(z_BD)
    stem = weights_size(published.downsample, published.stage0)
    layer = weights_size(published.fullstage)
    head = weights_size(
        published.incre_modules, published.downsamp_modules, published.final_layer, published.classifier
    )

    def draw() -> Tensor:
        return point.samples(Domain.ESTIMATION, numbers)

    yield WorkStage("noise", draw, draw, size(x_BCHW))
    yield WorkStage("stem", lambda: model.inject(x_BCHW), lambda: published.inject(x_BCHW), size(x_BCHW, u_BCHW) + stem)
    yield WorkStage(
        "layer", lambda: model.f(z_BD, u_BCHW), lambda: published.f(z_BD, u_BCHW), size(z_BD, u_BCHW, fz_BD) + layer
    )
    if compiled:
        by_torch = copy.copy(model)
        by_torch.fused_layer = None  # what it does between convolutions is compiled already, by Numba
        layer_compiled = torch.compile(lambda z_BD: by_torch.f(z_BD, u_BCHW))
        started = time.perf_counter()
        layer_compiled(z_BD)
        name = f"layer, compiled in {time.perf_counter() - started:.0f} s"
        yield WorkStage(
            name, lambda: layer_compiled(z_BD), lambda: published.f(z_BD, u_BCHW), size(z_BD, u_BCHW, fz_BD) + layer
        )
    yield WorkStage("head", lambda: model.head(z_BD), lambda: published.head(z_BD), size(z_BD, logits_BK) + head)

    reference = model.config.reference
    steps = reference.steps - 1
    iteration = FixedPointIteration(lambda z_BD: fz_BD, z_BD, replace(reference, tolerance=None))
    for _ in range(steps):
        iteration.advance()

    def advance() -> None:
        """The last step again, all samples active."""
        iteration.k_B.fill_(steps)
        iteration.advance()

    # A step reads z, f(z) and what is remembered of earlier ones, two arrays for each of Anderson's; it writes two.
    remembered = 2 * (reference.solver.memory - 1) if isinstance(reference.solver, Anderson) else steps
    moved = size(fz_BD) * (4 + remembered)
    yield WorkStage("solver", advance, advance, moved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="mdeq-small-cifar10", choices=ARCHITECTURES)
    parser.add_argument("--weights", help="a checkpoint file, or the name of shipped weights")
    parser.add_argument("--batch", type=int, help="default: what a run takes")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16"))
    parser.add_argument("--compile", action="store_true", help="time the layer by torch.compile as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, as one worker has them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    use_exact_float32()

    name = options.weights or SHIPPED.get(options.arch)
    weights = read_weights(name) if name else random_weights(options.arch)
    model = inference_model(options.arch, weights, options.device, options.dtype)
    published = build_model(options.arch, weights, options.device, options.dtype)
    device, batch = model.device, options.batch or usual_batch(model)
    image_CHW = torch.rand(model.config.input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    point = NoisyPoint(image_CHW, 0.5, 0, 0, noise_generator("auto", device))

    ceilings = measured_ceilings(device, model.network_dtype, options.rounds)
    console = Console()
    console.print(
        f"ceilings: convolution {ceilings.convolution / 1e9:,.0f} GFLOP/s, product {ceilings.product / 1e9:,.0f} "
        f"GFLOP/s, copy {ceilings.copy / 1e9:.1f} GB/s"
    )
    on = f"{device_name(device)}, {options.threads} threads, torch {torch.__version__}"
    table = Table(title=f"{options.arch}, {options.dtype}, batch {batch}, on {on}; per sample")
    for heading in ("", "ms", "MFLOP", "MB", "GFLOP/s", "GB/s", "bound", "share", "convs"):
        table.add_column(heading, justify="left" if heading in ("", "bound") else "right")
    with torch.inference_mode():
        for stage in stages(model, published, point, batch, options.compile):
            with FlopCounterMode(display=False) as counter:
                stage.counted()
            operations = counter.get_total_flops()
            with Convolutions() as convolutions:
                stage.run()
            took = seconds(stage.run, options.rounds, device)
            in_convolutions = seconds(convolutions.repeat, options.rounds, device) if convolutions.calls else 0.0
            least = {"compute": operations / ceilings.compute, "memory": stage.moved / ceilings.copy}
            bound = max(least, key=lambda kind: least[kind])
            table.add_row(
                stage.name,
                f"{1e3 * took / batch:.4f}",
                f"{operations / batch / 1e6:,.1f}",
                f"{stage.moved / batch / 1e6:.2f}",
                f"{operations / took / 1e9:,.0f}",
                f"{stage.moved / took / 1e9:.1f}",
                bound,
                f"{least[bound] / took:.0%}",
                f"{in_convolutions / took:.0%}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
