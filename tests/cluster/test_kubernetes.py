"""The image and the RayJob: what they name exists, fits together, and is what our own command line takes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml

from srs_ray.job import Job

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())


@pytest.fixture(scope="module")
def pods(manifest) -> dict[str, dict[str, Any]]:
    """The specifications of head and worker pods."""
    cluster = manifest["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    return {"head": cluster["headGroupSpec"]["template"]["spec"], "worker": workers["template"]["spec"]}


def pinned(package: str) -> str:
    [version] = re.findall(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return version


def dockerfile() -> list[list[str]]:
    """Its instructions, as words."""
    text = (CLUSTER / "Dockerfile").read_text()
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def image_files() -> dict[PurePosixPath, Path]:
    """The files of the image that come from the repository."""
    files: dict[PurePosixPath, Path] = {}
    folder = PurePosixPath("/")
    for instruction, *words in dockerfile():
        if instruction == "WORKDIR":
            folder = PurePosixPath(words[0])
        if instruction == "COPY":
            *sources, target = words
            for source in sources:
                path = ROOT / source
                found = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
                base = path if path.is_dir() else path.parent
                files |= {folder / target / each.relative_to(base).as_posix(): each for each in found}
    return files


def test_the_image_is_built_of_files_that_the_repository_has_and_needs_no_more():
    files = image_files()
    assert all(path.is_file() for path in files.values())
    needed = {"pyproject.toml", "constraints.txt", "srs_ray/cli.py", "jobs/paper/imagenet-small-srs-3b.yaml"}
    assert {str(PurePosixPath("/opt/srs-ray") / name) for name in needed} <= set(map(str, files))
    packages = [p for p in (ROOT / "srs_ray").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert set(packages) <= set(files.values())


def test_the_image_installs_the_pinned_versions_and_runs_as_a_user():
    instructions = dockerfile()
    assert ["FROM", "python:3.11-slim"] in instructions
    assert ["RUN", "pip", "install", "--no-cache-dir", "--constraint", "constraints.txt", "."] in instructions
    user = next(words[words.index("--uid") + 1] for _, *words in instructions if "useradd" in words)
    assert instructions[-1] == ["USER", user]
    assert int(user) > 0


def test_the_manifest_is_a_rayjob_without_unknown_keys(manifest, shared):
    schema = json.loads((shared / "schemas" / "rayjob-v1.schema.json").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    jsonschema.validate(manifest, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest | {"spec": manifest["spec"] | {"backoff": 5}}, schema)


def test_the_manifest_runs_rays_pinned_version_in_the_same_image_everywhere(manifest, pods):
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == pinned("ray")
    images = {container["image"] for pod in pods.values() for container in pod["containers"]}
    tag = re.search(r"--tag (\S+)", (CLUSTER / "Dockerfile").read_text())
    assert tag is not None
    assert images == {tag[1]}


def test_the_image_has_what_the_package_is_built_from_when_it_is_built():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    copied: set[str] = set()
    for instruction, *words in dockerfile():
        if instruction == "COPY":
            copied |= set(words[:-1])
        if words[:2] == ["pip", "install"]:
            break
    assert needed <= copied


@pytest.fixture(scope="module")
def job(manifest, job_of_command) -> Job:
    """The job as the entrypoint's own words make it, in the image."""
    return job_of_command(manifest["spec"]["entrypoint"], lambda name: image_files()[PurePosixPath(name)])


def test_the_entrypoint_is_a_command_of_ours_on_a_job_file_of_the_image(job):
    assert job.model.arch == "mdeq-small-imagenet"


def test_weights_data_and_runs_are_on_a_volume_that_every_pod_mounts(job, pods):
    for pod in pods.values():
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        [container] = pod["containers"]
        [mount] = container["volumeMounts"]
        assert volumes == {mount["name"]: "srs-ray"}
        for place in (job.model.weights, job.data.path, job.output):
            assert PurePosixPath(mount["mountPath"]) in PurePosixPath(place).parents
        assert not mount.get("readOnly", False)


def test_workers_have_the_gpu_that_the_job_asks_for_and_the_head_does_no_points(manifest, job, pods):
    assert job.execution.device == "cuda"
    [worker], [head] = pods["worker"]["containers"], pods["head"]["containers"]
    for kind in ("requests", "limits"):
        assert worker["resources"][kind]["nvidia.com/gpu"] == job.execution.gpus_per_worker
        assert "nvidia.com/gpu" not in head["resources"].get(kind, {})
    assert manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    [group] = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] > 0


def test_a_job_that_failed_is_run_again_and_a_cluster_is_not_left_behind(manifest):
    spec = manifest["spec"]
    assert spec["backoffLimit"] >= 1  # exit code 3, a lost head: the same command goes on
    assert spec["shutdownAfterJobFinishes"]
    assert "activeDeadlineSeconds" not in spec  # a run takes as long as it takes


def test_the_dashboard_asks_for_a_token_and_stays_in_the_pod_network(manifest, pods):
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert head["rayStartParams"]["dashboard-host"] == "0.0.0.0"  # the submitter is a pod of its own
    assert not {"enableIngress", "headService", "ingressOptions"} & set(head)
    assert not any(pod.get("hostNetwork") for pod in pods.values())
    assert not any("ports" in container for pod in pods.values() for container in pod["containers"])


def test_pods_run_as_the_images_user_and_give_the_driver_time_to_stop(pods):
    for pod in pods.values():
        assert ["USER", str(pod["securityContext"]["runAsUser"])] in dockerfile()
        assert pod["securityContext"]["runAsNonRoot"]
    environment = {entry["name"]: entry["value"] for entry in pods["head"]["containers"][0]["env"]}
    assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) >= 30
