from __future__ import annotations

import re
import time
import urllib.request

import ray

from srs_ray.runner.preparation import JobInputs
from srs_ray.runner.ray_backend import RayBackend


def scraped(run: str) -> dict[tuple[str, str], float]:
    """What Prometheus would read of a run on this node: (metric, its status or by) -> value."""
    [node] = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    found = {}
    for line in text.splitlines():
        of_run = line.startswith("ray_srs_ray_") and f'run="{run}"' in line
        if of_run and "_bucket{" not in line and "_sum{" not in line:
            kind = re.search(r'[{,](?:status|by)="(\w+)"', line)
            found[line.partition("{")[0], kind.group(1) if kind else ""] = float(line.rpartition(" ")[2])
    return found


def test_rays_metrics_count_points_their_seconds_and_their_evaluations(digits_job, cluster):
    job = digits_job(data={"stop": 20})
    inputs = JobInputs.read(job)
    backend = RayBackend(job.execution, cluster)
    try:
        rows = [row for row in backend.rows(inputs.resolve("cpu"), inputs.weights, list(inputs.indices)) if row]
        expected = {
            ("ray_srs_ray_points_total", "ok"): 2,
            ("ray_srs_ray_function_evaluations_total", "sampler"): sum(row["function_evaluations"] for row in rows),
            ("ray_srs_ray_function_evaluations_total", "audit"): sum(row["reference_evaluations"] for row in rows),
            ("ray_srs_ray_point_seconds_count", ""): 2,
        }
        deadline = time.monotonic() + 60
        while (found := scraped(job.output)) != expected and time.monotonic() < deadline:  # Ray exports now and then
            time.sleep(0.5)
    finally:
        backend.close()
    assert found == expected
