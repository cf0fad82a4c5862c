"""The monotone architectures by name: those of the published monDEQ and LBEN files, and tiny ones for digits."""

from __future__ import annotations

from srs_ray.models.monotone.config import Kind, MonotoneConfig
from srs_ray.solvers.settings import SolverSettings

_PLAIN = SolverSettings(solver="naive", steps=100, tolerance=1e-4)
_ANDERSON = SolverSettings(solver="anderson", steps=200, tolerance=1e-3)


def _digits(name: str, kind: Kind, *widths: int, pool: int = 1) -> MonotoneConfig:
    shape = (1, 8, 8)
    return MonotoneConfig(name, kind, shape, (0.3054,), (0.3768,), widths, 10, _PLAIN, pool)


def _mnist(name: str, kind: Kind, *widths: int, pool: int = 1) -> MonotoneConfig:
    return MonotoneConfig(name, kind, (1, 28, 28), (0.1307,), (0.3081,), widths, 10, _PLAIN, pool)


def _cifar10(name: str, kind: Kind, *widths: int, pool: int = 1, solver: SolverSettings = _PLAIN) -> MonotoneConfig:
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    return MonotoneConfig(name, kind, (3, 32, 32), mean, std, widths, 10, solver, pool)


MONOTONE: dict[str, MonotoneConfig] = {
    config.name: config
    for config in (
        _digits("mondeq-tiny-digits", "dense", 24),
        _digits("mondeq-tiny-digits-conv", "conv", 6, pool=2),
        _digits("mondeq-tiny-digits-tiers", "tiers", 4, 6),
        _digits("lben-tiny-digits", "lben-dense", 24),
        _digits("lben-tiny-digits-conv", "lben-conv", 6, pool=2),
        _digits("explicit-tiny-digits", "explicit", 24),
        _mnist("mondeq-mnist-fc40", "dense", 40),
        _mnist("mondeq-mnist-fc87", "dense", 87),
        _mnist("mondeq-mnist-conv54", "conv", 54, pool=4),
        _mnist("mondeq-mnist-conv128", "conv", 128, pool=4),
        _mnist("mondeq-mnist-tiers-16-32-32", "tiers", 16, 32, 32),
        _mnist("mondeq-mnist-tiers-32-64-128", "tiers", 32, 64, 128),
        _mnist("lben-mnist-fc80", "lben-dense", 80),
        _cifar10("mondeq-cifar10-conv81", "conv", 81, pool=4),
        _cifar10("mondeq-cifar10-conv200", "conv", 200, pool=4),
        _cifar10("mondeq-cifar10-tiers-16-32-60", "tiers", 16, 32, 60),
        _cifar10("lben-cifar10-conv81", "lben-conv", 81, pool=2, solver=_ANDERSON),
    )
}
