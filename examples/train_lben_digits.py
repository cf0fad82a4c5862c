"""Trains the LBEN that ships as lben-tiny-digits-gamma2, on scikit-learn's digits, in a minute on a CPU.

    python examples/train_lben_digits.py lben-digits.safetensors

The loss is a cross-entropy after the label's logit was lowered by what an l2 perturbation of EPSILON can take from it
by the model's own constant. The gradient at the equilibrium is that of a few last steps. What the parametrisation
promises is proved again of the file by `srs-ray weights verify`.
"""

from __future__ import annotations

import json
import sys
from math import sqrt
from pathlib import Path

import torch
from torch.nn import functional

from srs_ray.data.digits import Digits
from srs_ray.data.points import load_all
from srs_ray.models.monotone.checkpoints import certified_network, monotone, random_monotone
from srs_ray.models.monotone.networks import network_of
from srs_ray.models.weights import Weights, write_weights
from srs_ray.solvers.iteration import SolverSetting, solve

ARCH, M, GAMMA, EPSILON, EPOCHS, BATCH, SEED = "lben-tiny-digits", 1.0, 2.0, 0.3, 60, 128, 0
GRADIENT_STEPS = 6
SOLVER = SolverSetting.named("naive", 60, 1e-4)


def main(target: Path) -> None:
    """Trains, proves, and writes the weights."""
    torch.manual_seed(SEED)
    config = monotone(ARCH)
    x_NCHW, y_N = load_all(Digits("train", config.input_shape))
    tensors = dict(random_monotone(ARCH, SEED, M, GAMMA).tensors)
    learned = [tensor.requires_grad_() for name, tensor in tensors.items() if name not in config.constants]
    optimiser = torch.optim.Adam(learned, lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    lost = sqrt(2) * GAMMA / min(config.std) * EPSILON
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(y_N)).split(BATCH):
            model = network_of(config, tensors)
            x, y = x_NCHW[rows], y_N[rows]
            v = model.inject(x)
            with torch.no_grad():
                z = solve(lambda z, v=v, model=model: model.f(z, v), torch.zeros_like(v), SOLVER).z_BD
            for _ in range(GRADIENT_STEPS):
                z = model.f(z, v)
            logits = model.head(z) - lost * functional.one_hot(y, config.classes)
            loss = functional.cross_entropy(logits, y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        schedule.step()
        print(f"epoch {epoch + 1:2d}: loss {total / len(y_N):.3f}", flush=True)
    made = {name: tensor.detach() for name, tensor in tensors.items()}
    card = certified_network(ARCH, Weights(made, {})).constants.card()
    del card["pair_constants"]
    metadata = {
        "architecture": ARCH,
        "proved": json.dumps(card),
        "training": f"examples/train_lben_digits.py: digits, {EPOCHS} epochs, margin {EPSILON} l2, seed {SEED}",
    }
    write_weights(Weights(made, metadata), target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
