"""Connecting to Ray: a cluster that runs, or a local Ray that is started."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import ray

from srs_ray.errors import SrsRayError

_CONNECT_SECONDS = 10.0


def nodes_alive() -> list[dict[str, Any]]:
    """The nodes of the cluster that this process is connected to, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def attach(address: str | None, worker_logs: bool) -> str:
    """Connects to a cluster or starts a local Ray, and says which.

    Without an address Ray finds the cluster of RAY_ADDRESS or `ray start`, and else starts one; `auto` would also
    attach to the local Ray of another run, which ends with that run.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    named = named_address(address)
    try:
        if named is not None:
            _check_reachable(named)
        ray.init(address=address, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=worker_logs)
    except Exception as error:  # ray.init raises a plain Exception where a node is too slow to start
        if named in (None, "local"):
            reason = " ".join(str(error).split())
            raise SrsRayError(
                f"cannot start a local Ray: {reason}; if the machine is busy, run the same command again, or with "
                "--no-ray in this process"
            ) from error
        hint = "" if "RAY_AUTH_MODE" in os.environ else "; if the cluster demands its token, set RAY_AUTH_MODE=token"
        raise SrsRayError(f"cannot reach a Ray cluster at {named}: {error}{hint}") from error
    nodes = len(nodes_alive())
    return f"Ray at {ray.get_runtime_context().gcs_address} ({nodes} node{'s' * (nodes != 1)})"


def named_address(address: str | None) -> str | None:
    """The address that somebody named, if anybody did: `address`, else RAY_ADDRESS."""
    return address or os.environ.get("RAY_ADDRESS")


def _check_reachable(address: str) -> None:
    """Ray itself waits minutes for a cluster that is not there."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "//" not in address:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
