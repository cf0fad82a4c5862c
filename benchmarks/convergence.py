"""How much of a state still moves at each step of a solve: what skipping the parts that have settled could save.

    python benchmarks/convergence.py [--arch mdeq-tiny-digits] [--images FILE.parquet] [--solver anderson]

Noisy images are solved from zero, and along chains in the way of serialized sampling. An element moves at a step if
the step changes it by more than --threshold times the root mean square of its branch at the last iterate. What can be
left out of dense convolutions are whole tiles of 4 x 4 places that have settled in every channel, with the ring of
places around them that a 3x3 convolution reads. Without --images they are scikit-learn's digits.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise

import torch
from point import SHIPPED, SIGMA
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from srs_ray.data import open_dataset
from srs_ray.models.mdeq.checkpoints import build_model, read_weights
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.solvers.iteration import FixedPointIteration, SolverSetting

TILE = 4  # places on a side
CHAIN = 4  # samples along each chain, of which the last is looked at


def iterates(model: MDEQ, x_BCHW: Tensor, z_BD: Tensor, setting: SolverSetting) -> Iterator[Tensor]:
    """z after each step, the start first."""
    injection_BCHW = model.inject(x_BCHW)
    iteration = FixedPointIteration(lambda z_BD: model.f(z_BD, injection_BCHW), z_BD, setting)
    yield z_BD
    for _ in range(setting.steps):
        iteration.advance()
        yield iteration.z_BD.clone()


def moving(model: MDEQ, before_BD: Tensor, after_BD: Tensor, last_BD: Tensor, threshold: float) -> tuple[float, float]:
    """The shares of elements that move in this step, and of the work on tiles that cannot be left out in it."""
    elements, work = 0.0, 0.0
    branches = (model.split(z_BD) for z_BD in (before_BD, after_BD, last_BD))
    for before_BCHW, after_BCHW, last_BCHW in zip(*branches, strict=True):
        moves_BCHW = (after_BCHW - before_BCHW).abs() > threshold * last_BCHW.square().mean().sqrt()
        share_of_state = last_BCHW[0].numel() / model.config.state_size
        elements += share_of_state * moves_BCHW.float().mean().item()
        any_B1HW = moves_BCHW.any(dim=1, keepdim=True).float()
        read_B1HW = F.max_pool2d(any_B1HW, 3, stride=1, padding=1)
        tile = min(TILE, *read_B1HW.shape[2:])
        work += share_of_state * F.max_pool2d(read_B1HW, tile).mean().item()
    return elements, work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="mdeq-tiny-digits", choices=SHIPPED)
    parser.add_argument("--images", help="a Parquet file of images")
    parser.add_argument("--solver", default="anderson", choices=("naive", "anderson", "broyden"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--count", type=int, default=64, help="images, one chain each")
    parser.add_argument("--threshold", type=float, default=1e-2)
    given = parser.parse_args()

    model = build_model(given.arch, read_weights(SHIPPED[given.arch]))
    kind = "parquet" if given.images else "digits"
    images = open_dataset(kind, given.images, None, model.config.input_shape)
    x_BCHW = torch.stack([images.image(index) for index in range(given.count)])
    generator = torch.Generator().manual_seed(0)
    from_zero = SolverSetting.named(given.solver, given.steps)

    def noisy() -> Tensor:
        return x_BCHW + SIGMA * torch.randn(x_BCHW.shape, generator=generator)

    shares: dict[str, list[tuple[float, float]]] = {}
    with torch.inference_mode():
        z_BD = model.zero_state(given.count)
        for sample in range(CHAIN):
            z = list(iterates(model, noisy(), z_BD, from_zero))
            z_BD = z[-1]
            if sample in (0, CHAIN - 1):
                way = "from zero" if sample == 0 else "from the chain's last state"
                shares[way] = [moving(model, *pair, z[-1], given.threshold) for pair in pairwise(z)]

    title = f"{given.arch}, {given.solver}, sigma {SIGMA:g}: share that moves by over {given.threshold:g} of its size"
    table = Table(title=title)
    table.add_column("step", justify="right")
    for way in shares:
        table.add_column(f"{way}: elements", justify="right")
        table.add_column("work on tiles", justify="right")
    for step in range(given.steps):
        table.add_row(str(step + 1), *(f"{share:.1%}" for of_way in shares.values() for share in of_way[step]))
    Console().print(table)


if __name__ == "__main__":
    main()
