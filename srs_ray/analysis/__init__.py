"""Reading what runs have found: certified accuracy, tables, curves and exports, from run directories alone."""

from srs_ray.analysis.accuracy import average_certified_radius, certified_accuracy, summary
from srs_ray.analysis.attacks import attacked_accuracy, load_attacks
from srs_ray.analysis.comparison import point_warnings
from srs_ray.analysis.export import cohen_export, write_cohen_export, write_text
from srs_ray.analysis.pairing import paired_difference
from srs_ray.analysis.plot import plot_curves
from srs_ray.analysis.points import load_points
from srs_ray.analysis.points_export import points_export
from srs_ray.analysis.projection import p_lower_quantiles, projected_radii
from srs_ray.analysis.radii import parse_radii
from srs_ray.analysis.recertification import recertify
from srs_ray.analysis.status import run_status, status_text
from srs_ray.analysis.table import comparison_table
from srs_ray.analysis.training_curves import plot_training

__all__ = [
    "attacked_accuracy",
    "average_certified_radius",
    "certified_accuracy",
    "cohen_export",
    "comparison_table",
    "load_attacks",
    "load_points",
    "p_lower_quantiles",
    "paired_difference",
    "parse_radii",
    "plot_curves",
    "plot_training",
    "point_warnings",
    "points_export",
    "projected_radii",
    "recertify",
    "run_status",
    "status_text",
    "summary",
    "write_cohen_export",
    "write_text",
]
