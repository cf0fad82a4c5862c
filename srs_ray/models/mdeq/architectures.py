"""The architectures by name: the three of the published MDEQ checkpoints, and a tiny one for handwritten digits."""

from __future__ import annotations

from srs_ray.errors import WeightsError
from srs_ray.models.mdeq.config import MDEQConfig
from srs_ray.solvers.settings import SolverSettings

_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

ARCHITECTURES: dict[str, MDEQConfig] = {
    config.name: config
    for config in (
        MDEQConfig(
            name="mdeq-tiny-digits",
            input_shape=(1, 16, 16),
            mean=(0.3054,),
            std=(0.3181,),
            channels=(8, 16),
            head_channels=(8, 16),
            final_channels=128,
            classes=10,
            downsample_times=0,
            solver=SolverSettings(solver="anderson", steps=30, tolerance=1e-3),
        ),
        MDEQConfig(
            name="mdeq-small-cifar10",
            input_shape=(3, 32, 32),
            mean=_CIFAR10_MEAN,
            std=_CIFAR10_STD,
            channels=(8, 16, 32),
            head_channels=(7, 14, 28),
            final_channels=200,
            classes=10,
            downsample_times=0,
            solver=SolverSettings(solver="anderson", steps=30, tolerance=1e-3),
        ),
        MDEQConfig(
            name="mdeq-large-cifar10",
            input_shape=(3, 32, 32),
            mean=_CIFAR10_MEAN,
            std=_CIFAR10_STD,
            channels=(32, 64, 128, 256),
            head_channels=(14, 28, 56, 112),
            final_channels=1680,
            classes=10,
            downsample_times=0,
            solver=SolverSettings(solver="anderson", steps=30, tolerance=1e-3),
        ),
        MDEQConfig(
            name="mdeq-small-imagenet",
            input_shape=(3, 224, 224),
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            channels=(32, 64, 128, 256),
            head_channels=(28, 56, 112, 224),
            final_channels=2048,
            classes=1000,
            downsample_times=2,
            solver=SolverSettings(solver="broyden", steps=14, tolerance=1e-3),
        ),
    )
}


def architecture(name: str) -> MDEQConfig:
    """The configuration by its name; an unknown name is a WeightsError that lists the known ones."""
    if name not in ARCHITECTURES:
        raise WeightsError(f"no architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
