"""Connecting to Ray: a cluster that runs, or a local Ray that is started."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants, services

from srs_ray.errors import SrsRayError

_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 5.0  # for a head that has just been started, or is busy
# The beginning of every HTTP/2 connection, and a SETTINGS frame without settings: RFC 9113, 3.4 and 6.5.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
_SETTINGS_FRAME = 4
_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # where this is 0, a Ray that is started has the address 127.0.0.1


class _NoAnswer(Exception):
    """Nothing answers at an address as a Ray head does."""


def nodes_alive() -> list[dict[str, Any]]:
    """The nodes of the cluster that this process is connected to, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def attach(address: str | None, worker_logs: bool) -> str:
    """Connects to a cluster or starts a local Ray, and says which.

    Without an address Ray finds the cluster of RAY_ADDRESS or `ray start`, and else starts one; `auto` would also
    attach to the local Ray of another run, which ends with that run. A local Ray listens on loopback alone, and asks
    for a token. Raises SrsRayError where no cluster answers within some seconds, or none can be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    named = named_address(address)
    running = _running_cluster(address)
    try:
        if running is None:
            with _loopback_alone():
                _init(address, worker_logs)
        else:
            _check_answers(running)
            _init(address, worker_logs)
    except Exception as error:  # ray.init raises a plain Exception where a node is too slow to start
        if running is None:
            reason = " ".join(str(error).split())
            raise SrsRayError(
                f"cannot start a local Ray: {reason}; if the machine is busy, run the same command again, or with "
                "--no-ray in this process"
            ) from error
        whose = "" if named is not None else ", the last that was started on this machine"
        token_may_be_missing = not isinstance(error, _NoAnswer) and "RAY_AUTH_MODE" not in os.environ
        hint = "; if the cluster demands its token, set RAY_AUTH_MODE=token" if token_may_be_missing else ""
        raise SrsRayError(
            f"cannot reach a Ray cluster at {named or running}{whose}: {error}{hint}; --address local starts a Ray for "
            "this run"
        ) from error
    nodes = len(nodes_alive())
    return f"Ray at {ray.get_runtime_context().gcs_address} ({nodes} node{'s' * (nodes != 1)})"


def named_address(address: str | None) -> str | None:
    """The address that somebody named, if anybody did: `address`, else RAY_ADDRESS."""
    return address or os.environ.get("RAY_ADDRESS")


def _init(address: str | None, worker_logs: bool) -> None:
    ray.init(address=address, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=worker_logs)


def _running_cluster(address: str | None) -> str | None:
    """Where the cluster is that `ray.init` would connect to; None where it would start one."""
    if address is not None and "://" in address:
        return address
    try:
        return services.canonicalize_bootstrap_address(address or None)  # type: ignore[arg-type]  # None is documented
    except (ConnectionError, OSError, ValueError):
        return named_address(address)  # Ray will say what is wrong with it


def _check_answers(address: str) -> None:
    """Raises _NoAnswer where nothing answers as a Ray head does; Ray itself would wait for minutes, without a word."""
    host, _, port = address.rpartition("://")[2].rstrip("/").rpartition(":")
    if not host or not port.isdecimal():
        return
    deadline = time.monotonic() + _PROBE_SECONDS
    while True:
        try:
            _greet(host.strip("[]"), int(port))
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise _NoAnswer(f"no Ray head answers there ({error})") from error
        time.sleep(0.5)


def _greet(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return
        connection.sendall(_GREETING)
        frame = connection.recv(9)
    if len(frame) < 4 or frame[3] != _SETTINGS_FRAME:
        raise OSError("what listens speaks another protocol")


@contextmanager
def _loopback_alone() -> Iterator[None]:
    """Has a Ray that is started meanwhile listen on 127.0.0.1 alone, unless RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is set.

    The token is Ray's own doing, unless RAY_AUTH_MODE is set.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    if _LOOPBACK_ONLY not in os.environ:
        ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read the variable when it was imported
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
