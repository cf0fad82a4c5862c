"""srs-ray: certified robustness of image classifiers, point by point, over a Ray cluster.

Names are imported when they are first used: reading results loads no torch, and nothing here loads Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from srs_ray.analysis import (
        attacked_accuracy,
        average_certified_radius,
        certified_accuracy,
        load_attacks,
        load_points,
        p_lower_quantiles,
        paired_difference,
        projected_radii,
        recertify,
    )
    from srs_ray.interface import certify_point, certify_points, open_model, predict
    from srs_ray.models.mdeq.checkpoints import load_model
    from srs_ray.smoothing.bounds import (
        clopper_pearson_lower,
        exact_p_lower,
        paper_p_lower,
        released_p_lower,
        two_sided_p_lower,
        union_p_lower,
        weighted_p_lower,
    )
    from srs_ray.smoothing.predict import Prediction
    from srs_ray.smoothing.row import PointRow
    from srs_ray.smoothing.samplers import Looks
    from srs_ray.solvers.iteration import SolverSetting

_HOMES = {
    "srs_ray.analysis": (
        "attacked_accuracy",
        "average_certified_radius",
        "certified_accuracy",
        "load_attacks",
        "load_points",
        "p_lower_quantiles",
        "paired_difference",
        "projected_radii",
        "recertify",
    ),
    "srs_ray.interface": ("certify_point", "certify_points", "open_model", "predict"),
    "srs_ray.models.mdeq.checkpoints": ("load_model",),
    "srs_ray.smoothing.bounds": (
        "clopper_pearson_lower",
        "exact_p_lower",
        "paper_p_lower",
        "released_p_lower",
        "two_sided_p_lower",
        "union_p_lower",
        "weighted_p_lower",
    ),
    "srs_ray.smoothing.predict": ("Prediction",),
    "srs_ray.smoothing.row": ("PointRow",),
    "srs_ray.smoothing.samplers": ("Looks",),
    "srs_ray.solvers.iteration": ("SolverSetting",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Looks",
    "PointRow",
    "Prediction",
    "SolverSetting",
    "attacked_accuracy",
    "average_certified_radius",
    "certified_accuracy",
    "certify_point",
    "certify_points",
    "clopper_pearson_lower",
    "exact_p_lower",
    "load_attacks",
    "load_model",
    "load_points",
    "open_model",
    "p_lower_quantiles",
    "paired_difference",
    "paper_p_lower",
    "predict",
    "projected_radii",
    "recertify",
    "released_p_lower",
    "two_sided_p_lower",
    "union_p_lower",
    "weighted_p_lower",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("srs-ray")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'srs_ray' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
