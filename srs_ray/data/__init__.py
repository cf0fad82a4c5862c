"""Where points come from: images with labels, by index, in a fixed order."""

from __future__ import annotations

from srs_ray.data.opening import open_data, open_dataset
from srs_ray.data.points import PointDataset, load_all, point_indices
from srs_ray.data.registry import KINDS

__all__ = ["KINDS", "PointDataset", "load_all", "open_data", "open_dataset", "point_indices"]
