from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

# Certifies, then reads what Prometheus would read on this node until all is there: Ray exports now and then. It is a
# process of its own, as a driver is: Ray counts twice where it was started and stopped in a process before.
DRIVER = """
import json, re, sys, time, urllib.request
import ray
from srs_ray.job_file import load_job
from srs_ray.runner.preparation import JobInputs
from srs_ray.runner.ray_backend import RayBackend

def scraped(run):
    [node] = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found = {}
    for line in urllib.request.urlopen(address, timeout=10).read().decode().splitlines():
        name = line.partition("{")[0]
        if name.startswith("ray_srs_ray_") and f'run="{run}"' in line and not name.endswith(("_bucket", "_sum")):
            kind = re.search(r'[{,](?:status|by)="(\\w+)"', line)
            found[f"{name} {kind.group(1)}" if kind else name] = float(line.rpartition(" ")[2])
    return found

job = load_job(sys.argv[1])
inputs = JobInputs.read(job)
backend = RayBackend(job.execution, sys.argv[2])
rows = [row for row in backend.rows(inputs.resolve("cpu"), inputs.cargo, list(inputs.indices)) if row]
expected = {
    "ray_srs_ray_points_total ok": len(rows),
    "ray_srs_ray_function_evaluations_total sampler": sum(row["function_evaluations"] for row in rows),
    "ray_srs_ray_function_evaluations_total audit": sum(row["reference_evaluations"] for row in rows),
    "ray_srs_ray_point_seconds_count": len(rows),
}
deadline = time.monotonic() + 60
while (found := scraped(job.output)) != expected and time.monotonic() < deadline:
    time.sleep(0.5)
print(json.dumps([found, expected]))
"""


def test_rays_metrics_count_points_their_seconds_and_their_evaluations(digits_job, cluster, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(digits_job(data={"stop": 20}).model_dump(mode="json")))
    command = [sys.executable, "-c", DRIVER, str(job), cluster]
    driver = subprocess.run(command, capture_output=True, text=True, check=False)
    if driver.returncode:
        pytest.fail(driver.stderr)
    found, expected = json.loads(driver.stdout.splitlines()[-1])
    assert found == expected
    assert expected["ray_srs_ray_points_total ok"] == 2
