"""The Grafana dashboard shows the metrics that a run tells, all of them and no others."""

from __future__ import annotations

import ast
import json
import re
from itertools import combinations
from pathlib import Path

import srs_ray

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "cluster" / "grafana-dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ENDINGS = {"Counter": ("_total",), "Histogram": ("_bucket", "_sum", "_count")}  # as Prometheus names them
PREFIX = "ray_"


def metrics() -> dict[str, tuple[str, set[str]]]:
    """The metrics that the code makes: the kind and the tags of each by its name."""
    found = {}
    tree = ast.parse((Path(srs_ray.__file__).parent / "runner" / "metrics.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ENDINGS:
            tags = next(ast.literal_eval(each) for each in node.args if isinstance(each, ast.Tuple))
            found[ast.literal_eval(node.args[0])] = (node.func.id, set(tags))
    return found


def test_the_metrics_on_the_dashboard_are_those_of_the_code():
    series = {f"{PREFIX}{name}{ending}" for name, (kind, _) in metrics().items() for ending in ENDINGS[kind]}
    shown = set(re.findall(rf"{PREFIX}srs_ray_\w+", json.dumps(DASHBOARD)))
    assert len(series) == 5
    assert shown == series


def test_series_are_told_apart_by_tags_that_they_have():
    for expression in EXPRESSIONS:
        for series, chosen in re.findall(rf"{PREFIX}(srs_ray_\w+)\{{([^}}]*)\}}", expression):
            name = next(name for name in metrics() if series.startswith(name))
            assert set(re.findall(r"(\w+)=", chosen)) <= metrics()[name][1]
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
        known = {tag for name, (_, tags) in metrics().items() if f"{PREFIX}{name}" in expression for tag in tags}
        assert grouped <= known | {"le"}


def test_panels_lie_side_by_side_and_say_what_they_show():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["description"].endswith(".") for panel in DASHBOARD["panels"])
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    assert all(expression.count("(") == expression.count(")") for expression in EXPRESSIONS)
