"""Weights of monotone models: published files by their names, constants that these lack, and random weights.

A published monDEQ or LBEN file has `mon.linear_module.` before the names of its layer. It holds neither m nor gamma,
without which it is no certain model: `srs-ray weights convert --m M --gamma GAMMA` adds them as tensors, so that they
are in the digest of the weights, and a model without them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

from srs_ray.errors import WeightsError
from srs_ray.models.monotone.architectures import MONOTONE
from srs_ray.models.monotone.certified import CertifiedNetwork
from srs_ray.models.monotone.config import MonotoneConfig
from srs_ray.models.monotone.networks import network_of
from srs_ray.models.monotone.verification import refuse_broken
from srs_ray.models.weights import Weights, misfits_of, named_briefly, read_tensors, shown_briefly

LAYER = "mon.linear_module."


def monotone(name: str) -> MonotoneConfig:
    """The configuration by its name; an unknown name is a WeightsError that lists the known ones."""
    if name not in MONOTONE:
        raise WeightsError(f"no monotone architecture {name!r}; there are {', '.join(MONOTONE)}")
    return MONOTONE[name]


def read_monotone(source: str | Path, constants: Mapping[str, float] | None = None) -> Weights:
    """The tensors of a file by our names, with constants added (float64); WeightsError where one is there already."""
    found = read_tensors(source)
    tensors = {name.removeprefix(LAYER): tensor for name, tensor in found.tensors.items()}
    for name, value in (constants or {}).items():
        if name in tensors and float(tensors[name]) != value:
            raise WeightsError(f"{source} holds {name} = {float(tensors[name]):g} already, not {value:g}: leave it out")
        tensors[name] = torch.tensor(value, dtype=torch.float64)
    return Weights(tensors, found.metadata)


def monotone_misfits(weights: Weights, config: MonotoneConfig) -> list[str]:
    """What keeps these weights from fitting: tensors missing, extra, of the wrong shape, or not finite."""
    expected = {name: torch.empty(shape, device="meta") for name, shape in config.shapes.items()}
    found = dict(weights.tensors)
    psi = found.get("psi")
    if config.kind == "lben-conv" and psi is not None and _spreads_to(psi, expected["psi"]):
        expected["psi"] = torch.empty(psi.shape, device="meta")  # one for each channel or place
    return misfits_of(found, expected, "architecture")


def _spreads_to(tensor: Tensor, onto: Tensor) -> bool:
    return tensor.dim() == onto.dim() and all(a in (1, b) for a, b in zip(tensor.shape, onto.shape, strict=True))


def fitting_monotone(weights: Weights) -> list[str]:
    """The names of the architectures that these weights fit, constants that are not in them aside."""
    found = []
    for name, config in MONOTONE.items():
        constants = {each: torch.zeros(()) for each in config.constants if each not in weights.tensors}
        if not monotone_misfits(Weights({**weights.tensors, **constants}, {}), config):
            found.append(name)
    return found


def certified_network(arch: str, weights: Weights) -> CertifiedNetwork:
    """The model in float64 with what is proved of it; WeightsError names what does not fit, or does not hold."""
    config = checked(arch, weights)
    made = CertifiedNetwork(network_of(config, weights.tensors, torch.float64))
    _ = made.constants  # which are proved here, or refused
    return made


def checked(arch: str, weights: Weights) -> MonotoneConfig:
    """The configuration, where the tensors are those of such a model; WeightsError names what is wrong."""
    config = monotone(arch)
    lacking = [name for name in config.constants if name not in weights.tensors]
    if lacking:
        options = " ".join(f"--{name} VALUE" for name in lacking)
        raise WeightsError(
            f"the weights hold no {' and no '.join(lacking)}, which published files leave out and {arch} needs: add "
            f"what the training had by `srs-ray weights convert FILE TARGET --arch {arch} {options}`"
        )
    problems = monotone_misfits(weights, config)
    if problems:
        fitting = fitting_monotone(weights)
        hint = (
            f"these weights fit {named_briefly(fitting)}" if fitting else "they fit none of the monotone architectures"
        )
        side = "x".join(map(str, config.input_shape))
        raise WeightsError(
            f"the weights do not fit {arch}, whose images are {side} ({hint}):\n  {shown_briefly(problems)}"
        )
    refuse_broken(config, weights.tensors)
    return config


def random_monotone(arch: str, seed: int = 0, m: float = 1.0, gamma: float = 1.0) -> Weights:
    """Untrained weights, drawn as published programs do (uniform within 1 / sqrt of a unit's inputs; scales 1)."""
    config = monotone(arch)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in config.shapes.items():
        if name in ("m", "gamma"):
            tensors[name] = torch.tensor({"m": m, "gamma": gamma}[name], dtype=torch.float64)
        elif not shape:
            tensors[name] = torch.ones(())
        elif name == "psi":
            tensors[name] = torch.zeros(shape)
        else:
            fan = max(1, torch.Size(shape)[1:].numel()) if len(shape) > 1 else config.widths[0]
            tensors[name] = (2 * torch.rand(shape, generator=generator) - 1) / sqrt(fan)
    if config.kind == "explicit":
        tensors["W.weight"] = tensors["W.weight"] / 2
        tensors["G.weight"], tensors["U.weight"] = tensors["G.weight"] / 4, tensors["U.weight"] / 4
    return Weights(tensors, {"architecture": arch, "training": f"none: random, seed {seed}"})
