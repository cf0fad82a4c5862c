"""A job on a cluster elsewhere: the job and its files are sent by Ray, and `srs-ray certify` runs there."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from srs_ray.errors import JobError, SrsRayError
from srs_ray.job import AnyJob
from srs_ray.models.weights import shipped_weights
from srs_ray.runner.packing import JOB_FILE, pack
from srs_ray.runs.storage import check_no_credentials

STOPPED = 143
_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.2
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True)
class Submission:
    """A job that a cluster took; it goes on whether or not anyone follows it."""

    client: JobSubmissionClient
    id: str
    sent: tuple[tuple[str, int], ...] = ()  # the files that went along, with their bytes

    def ray_command(self, verb: str) -> str:
        """The `ray job` command that looks at this job or stops it from any machine that reaches the cluster."""
        return f"ray job {verb} {self.id} --address {self.client.get_address()}"

    def follow(self, write: Callable[[str], None]) -> int:
        """Writes the job's log as it grows, and gives its exit code when it ends.

        That is the code of the driver where Ray knows it, 143 for a job that was stopped, else 1 for one that failed.
        Raises SrsRayError where the connection is lost.
        """
        try:
            asyncio.run(self._tail(write))
            while not (details := self.client.get_job_info(self.id)).status.is_terminal():
                time.sleep(_POLL_SECONDS)
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            raise SrsRayError(
                f"lost sight of {self.id}, which goes on if its cluster does ({error}); "
                f"to follow it again: {self.ray_command('logs --follow')}"
            ) from error
        if details.status == JobStatus.STOPPED:
            return STOPPED
        if details.driver_exit_code is None and details.status == JobStatus.FAILED:
            write(f"{details.message}\n")  # it did not come to a driver, and so not to a log
            return 1
        code = details.driver_exit_code or 0
        return code if code >= 0 else 128 - code

    async def _tail(self, write: Callable[[str], None]) -> None:
        async for text in self.client.tail_job_logs(self.id):
            write(text)


def submit(job: AnyJob, address: str | None = None, download: bool = False) -> Submission:
    """Hands a job to the cluster whose dashboard is at `address`, such as http://HEAD:8265.

    RAY_API_SERVER_ADDRESS and RAY_ADDRESS win over `address`, as they do for `ray job`; without any of them it is the
    cluster of this machine. Files that the job imports go along (`srs_ray.runner.packing`). Raises JobError for paths
    that mean nothing on the cluster and for files that cannot go along, SrsRayError where it cannot be reached.
    """
    _check_paths(job)
    with tempfile.TemporaryDirectory() as folder:
        sent = pack(job, Path(folder))
        client = _connect(address)
        try:
            command = f"srs-ray certify {JOB_FILE}{' --download' if download else ''}"
            identity = client.submit_job(entrypoint=command, runtime_env={"working_dir": folder})
        except (OSError, RuntimeError, RayError) as error:
            raise SrsRayError(f"{client.get_address()} did not take the job: {error}") from error
    return Submission(client, identity, tuple(sent))


def _check_paths(job: AnyJob) -> None:
    """A submitted job starts in a folder of its own, which Ray throws away: only absolute paths mean a place there."""
    places = {"output": job.output, "data.path": job.data.path, "model.weights": job.model.weights}
    if job.model.weights in shipped_weights():
        del places["model.weights"]
    if "://" in job.output:
        check_no_credentials(job.output)  # before the cluster gets to keep them
        del places["output"]
    relative = [f"{setting} {place}" for setting, place in places.items() if place and not place.startswith("/")]
    if relative:
        raise JobError(
            f"relative to this folder, which the cluster does not see: {', '.join(relative)}; give absolute paths as "
            f"the cluster's nodes see them (--set {relative[0].split()[0]}=/shared/...), for output also a URI"
        )


def _connect(address: str | None) -> JobSubmissionClient:
    if address is not None and "://" not in address:
        address = f"http://{address}"
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)  # else Ray tells of every upload and every closed connection
    named = next((os.environ[name] for name in _ADDRESS_VARIABLES if os.environ.get(name)), address)
    try:
        _check_reachable(named)
        return JobSubmissionClient(address)
    except RayError as error:  # AuthenticationError, in the versions of Ray that have it
        raise SrsRayError(
            f"the cluster at {named} asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what "
            "`ray get-auth-token` prints on its head"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise SrsRayError(
            f"no Ray dashboard answers at {named or 'this machine'} ({error}); expected a URL such as http://HEAD:8265 "
            "(--address, or RAY_API_SERVER_ADDRESS)"
        ) from error


def _check_reachable(address: str | None) -> None:
    """Ray itself would wait for minutes."""
    parts = urlsplit(address if address is None or "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((str(parts.hostname), parts.port), timeout=_CONNECT_SECONDS).close()
