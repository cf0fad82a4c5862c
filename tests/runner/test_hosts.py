"""A cluster of three hosts with their own addresses (network namespaces): one is cut off in mid-run and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from srs_ray.runs import RunDirectory

BRIDGE, NETWORK, HEAD = "srs-ray-br", "10.213.7", "10.213.7.1:6379"
ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_health_check_period_ms": "1000",  # Ray gives a silent host up after seconds instead of half a minute
    "RAY_health_check_timeout_ms": "1000",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True, text=True)


class Host:
    """A network namespace with one cable to the bridge, and a Ray node in it that sees a /tmp/ray of its own."""

    def __init__(self, number: int) -> None:
        self.name, self.cable, self.address = f"srs-ray-{number}", f"srs-ray-c{number}", f"{NETWORK}.{number}"
        self.ray: subprocess.Popen[bytes] | None = None
        sh(f"ip netns add {self.name}")
        sh(f"ip link add {self.cable} type veth peer name eth0 netns {self.name}")
        sh(f"ip link set {self.cable} master {BRIDGE} up")
        sh(f"ip -n {self.name} address add {self.address}/24 dev eth0")
        sh(f"ip -n {self.name} link set eth0 up && ip -n {self.name} link set lo up")

    def start_ray(self, options: str, log: Path) -> None:
        start = (
            f"mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && exec {sys.executable} -m ray.scripts.scripts start "
            f"--node-ip-address {self.address} --object-store-memory 100000000 --block {options}"
        )
        command = ["ip", "netns", "exec", self.name, "unshare", "--mount", "sh", "-c", start]
        self.ray = subprocess.Popen(command, stdout=log.open("ab"), stderr=subprocess.STDOUT, env=ENVIRONMENT)

    def inside(self, *command: str) -> list[str]:
        """The command as it is run on this host, where its Ray runs."""
        assert self.ray is not None
        return ["nsenter", "--target", str(self.ray.pid), "--mount", "--net", *command]

    def plug(self, how: str) -> None:
        """`down` pulls the cable, `up` puts it back."""
        sh(f"ip link set {self.cable} {how}")

    def at_work(self) -> bool:
        """Whether a worker on this host certifies a point right now."""
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False).stdout
        for pid in pids.split():
            try:
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::CertifierActor.certify"):
                    return True
            except OSError:
                continue  # it ended meanwhile
        return False

    def remove(self) -> None:
        subprocess.run(f"ip netns pids {self.name} | xargs -r kill -9", shell=True, check=False)
        if self.ray is not None:
            self.ray.kill()
            self.ray.wait()
        subprocess.run(f"ip netns del {self.name}", shell=True, check=False)


@pytest.fixture
def hosts(tmp_path) -> Iterator[list[Host]]:
    """A head without workers, and two hosts with room for one each."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("ip", "nsenter", "unshare")):
        pytest.skip("network namespaces need root and iproute2")
    made = subprocess.run(
        f"ip link add {BRIDGE} type bridge && ip link set {BRIDGE} up", shell=True, capture_output=True
    )
    if made.returncode:
        pytest.skip(f"this machine allows no network bridge: {made.stderr.decode().strip()}")
    hosts: list[Host] = []
    try:
        for number in (1, 2, 3):
            hosts += [Host(number)]  # one after the other: those that were made are removed if the next one fails
        head, *others = hosts
        head.start_ray("--head --port 6379 --num-cpus 0 --include-dashboard false", tmp_path / "ray-1")
        for host in others:
            join(host, tmp_path)
        yield hosts
    finally:
        for host in hosts:
            host.remove()
        subprocess.run(f"ip link del {BRIDGE}", shell=True, check=False)


def join(host: Host, folder: Path) -> None:
    host.start_ray(f"--address {HEAD} --num-cpus 1", folder / f"ray-{host.address}")


def wait_for(condition, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_host_that_is_cut_off_and_comes_back_changes_no_row(hosts, digits_job, tmp_path, run_in_process, result_rows):
    head, steady, cut = hosts
    sections = {"sampling": {"n": 8000}, "data": {"stop": 24, "every": 1}, "execution": {"device": "cpu", "workers": 2}}
    job = digits_job(**sections)
    job_file = tmp_path / "job.yaml"
    job_file.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    certify = [sys.executable, "-m", "srs_ray.cli", "certify", str(job_file), "--address", HEAD]
    log = tmp_path / "driver.log"
    time.sleep(10)  # for all hosts to join: a head that answers does not mean that they did
    driver = subprocess.Popen(head.inside(*certify), stdout=log.open("wb"), stderr=subprocess.STDOUT, env=ENVIRONMENT)
    try:
        wait_for(lambda: steady.at_work() and cut.at_work())
        cut.plug("down")  # for a moment: nobody notices
        time.sleep(2)
        cut.plug("up")
        wait_for(cut.at_work)
        cut.plug("down")  # for good: Ray gives the host up, and its node ends itself when it hears so
        wait_for(lambda: "replaced" in log.read_text() or "out of reach" in log.read_text())
        cut.plug("up")
        cut.ray.wait(timeout=120)
        join(cut, tmp_path)
        wait_for(cut.at_work)
        assert driver.wait(timeout=600) == 0, log.read_text()
    finally:
        if driver.poll() is None:
            driver.send_signal(signal.SIGTERM)
            driver.wait(timeout=30)
        print(log.read_text())
    undisturbed = digits_job(**{**sections, "execution": {"device": "cpu"}}, output=str(tmp_path / "undisturbed"))
    run_in_process(undisturbed)
    assert result_rows(job.output) == result_rows(undisturbed.output)
    assert set(RunDirectory.open(job.output).rows(["attempt"])["attempt"].to_pylist()) == {1}
