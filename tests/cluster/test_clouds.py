"""The cluster launcher's files (`ray up`), by Ray's own checks, which need no cloud: its defaults, then its schema."""

from __future__ import annotations

import copy
import re
import subprocess
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
CLOUDS = ("aws", "gcp")


@pytest.fixture(params=CLOUDS)
def path(request) -> Path:
    return ROOT / "cluster" / f"{request.param}.yaml"


@pytest.fixture
def config(path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@pytest.fixture
def prepared(config) -> dict[str, Any]:
    """The file as `ray up` completes it."""
    return prepare_config(copy.deepcopy(config))


def test_ray_takes_the_file_and_refuses_unknown_settings(config, prepared):
    validate_config(prepared)
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config | {"max_worker": 3}))


def test_the_head_gets_no_points_and_the_workers_are_gpus_on_spot(prepared):
    nodes = prepared["available_node_types"]
    head, [gpu] = nodes.pop(prepared["head_node_type"]), nodes.values()
    assert head["resources"] == {"CPU": 0}
    assert any("ray start --head" in command and "--num-cpus=0" in command for command in head_start(prepared))
    assert head["max_workers"] == 0
    assert gpu["resources"]["GPU"] == 1
    assert 0 <= gpu["min_workers"] < gpu["max_workers"] == prepared["max_workers"]
    node = gpu["node_config"]
    aws, gcp = node.get("InstanceMarketOptions"), node.get("scheduling", {})
    assert aws == {"MarketType": "spot"} or gcp.get("provisioningModel") == "SPOT"
    assert 0 < prepared["idle_timeout_minutes"] <= 10


def head_start(prepared: dict[str, Any]) -> list[str]:
    return prepared["head_start_ray_commands"]


def test_what_is_sent_exists_and_is_installed_with_the_pinned_versions(prepared):
    home = f"/home/{prepared['auth']['ssh_user']}"
    sent = {PurePosixPath(remote): local for remote, local in prepared["file_mounts"].items()}
    token = sent.pop(PurePosixPath(home) / ".ray" / "auth_token")
    assert token == "~/.ray/auth_token"
    assert all((ROOT / local).exists() for local in sent.values())
    source = PurePosixPath(home) / "srs-ray"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    built_from = {project["project"]["readme"], *project["project"]["license-files"]}  # or it cannot be built
    built_from |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    assert {remote.relative_to(source).as_posix() for remote in sent} == {
        "pyproject.toml",
        "constraints.txt",
        *built_from,
    }
    for commands in (prepared["head_setup_commands"], prepared["worker_setup_commands"]):
        [install] = [command for command in commands if command.endswith(" ~/srs-ray")]
        assert "--constraint ~/srs-ray/constraints.txt" in install


def test_the_commands_are_valid_shell(prepared):
    keys = ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    for command in [command for key in keys for command in prepared[key]]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_every_node_wants_the_token_and_the_dashboard_stays_on_loopback(prepared):
    for commands in (head_start(prepared), prepared["worker_start_ray_commands"]):
        [start] = [command for command in commands if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
        assert "--dashboard-host" not in start


def test_what_to_change_first_is_said_on_top_and_is_all_there_is_to_change(path):
    text = path.read_text()
    top, _, rest = text.partition("\ncluster_name:")
    said = set(re.findall(r"^#   (YOUR-\w+)", top, re.MULTILINE))
    assert said == set(re.findall(r"YOUR-\w+", rest))
    assert "YOUR-BUCKET" in said
