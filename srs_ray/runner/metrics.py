"""What a run tells Ray's metrics, so that Ray's dashboard and Prometheus show it."""

from __future__ import annotations

from ray.util.metrics import Counter, Histogram

from srs_ray.runs.schema import Row

_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]


class RunMetrics:
    """Points finished and in error, seconds per point, and function evaluations, each tagged with its run."""

    def __init__(self, run: str) -> None:
        self._points = Counter("srs_ray_points", "Points that ended, by status (ok or error).", ("run", "status"))
        self._evaluations = Counter(
            "srs_ray_function_evaluations",
            "Calls of the layer, by who made them (sampler, audit or attack).",
            ("run", "by"),
        )
        self._seconds = Histogram("srs_ray_point_seconds", "Wall time of a point in its worker.", _SECONDS, ("run",))
        for metric in (self._points, self._evaluations, self._seconds):
            metric.set_default_tags({"run": run})

    def record(self, row: Row) -> None:
        """Counts one row."""
        self._points.inc(1, {"status": row["status"]})
        if row["status"] == "ok":
            columns = (
                ("sampler", "function_evaluations"),
                ("solver", "layer_evaluations"),
                ("audit", "reference_evaluations"),
                ("attack", "evaluations"),
            )
            for by, column in columns:
                if row.get(column):  # Ray takes no step of zero
                    self._evaluations.inc(row[column], {"by": by})
            self._seconds.observe(row["seconds"])
