"""A run lives on an S3-compatible store as in a local folder, and a store that fails costs no row and no patience."""

from __future__ import annotations

import os
import select
import socket
import socketserver
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs as fs
import pytest
import yaml

from srs_ray import cli
from srs_ray.errors import RunDirectoryError
from srs_ray.runs import Lease, RunDirectory, storage
from srs_ray.runs.storage import open_storage


@pytest.fixture
def one_attempt(monkeypatch) -> None:
    """No waiting between attempts, where what they end in is tested."""
    monkeypatch.setattr(storage, "_S3_ATTEMPTS", 1)


def objects(uri: str) -> list[str]:
    """The keys below a URI, folder marks aside."""
    filesystem, root = fs.FileSystem.from_uri(uri)
    found = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(root + "/") for info in found if info.type == fs.FileType.File)


def test_run_on_an_object_store_is_started_continued_cleaned_and_compacted(
    bucket, start, ok_row, error_row, caplog
) -> None:
    uri = f"{bucket}/deep/run"
    run = start(uri)
    run.append([ok_row(1), error_row(2)])
    (whole,) = objects(f"{uri}/points")
    filesystem, root = fs.FileSystem.from_uri(uri)
    with filesystem.open_input_file(f"{root}/points/{whole}") as part:
        beginning = part.read(part.size() - 1)
    with filesystem.open_output_stream(f"{root}/points/part-cut.parquet") as part:
        part.write(beginning)
    run = start(uri, session={"batch": 50})
    assert caplog.messages == [
        f"{uri}/points/part-cut.parquet moved to {uri}/quarantine/part-cut.parquet: "
        + caplog.messages[0].partition("parquet: ")[2]
    ]
    assert objects(f"{uri}/quarantine") == ["part-cut.parquet"]
    run.append([ok_row(2), ok_row(0)])
    assert run.compact() == (2, 1)
    run = RunDirectory.open(uri)
    assert (len(run.sessions), run.sessions[1], run.finished()) == (2, {"batch": 50}, {0, 1, 2})
    assert run.rows(["index", "status"]).to_pylist() == [{"index": index, "status": "ok"} for index in (0, 1, 2)]
    assert len(objects(f"{uri}/points")) == 1


def test_run_on_an_object_store_with_other_settings_is_refused(bucket, start) -> None:
    start(f"{bucket}/run")
    with pytest.raises(RunDirectoryError, match="holds a run with other settings"):
        start(f"{bucket}/run", fingerprint={"noise.sigma": 1.0})


def test_bucket_with_other_objects_is_refused_and_an_empty_one_is_a_run(bucket, start, ok_row) -> None:
    with Lease.acquire(bucket):
        start(bucket).append([ok_row(0)])
    assert RunDirectory.open(bucket).finished() == {0}
    with pytest.raises(RunDirectoryError, match=r"holds files but no run\.json"):
        start(f"{bucket}/points")


def test_endpoint_may_stand_in_the_uri_and_messages_name_files_without_it(
    bucket, s3_endpoint, start, ok_row, monkeypatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    uri = f"{bucket}/run?endpoint_override={s3_endpoint}&scheme=http"
    run = start(uri)
    run.append([ok_row(0)])
    assert RunDirectory.open(uri).finished() == {0}
    assert RunDirectory.open(run.path).finished() == {0}
    assert open_storage(uri).where("run.json") == f"{bucket}/run/run.json"


def test_lease_on_an_object_store_keeps_the_second_of_two_drivers_out_and_is_given_back(bucket) -> None:
    with Lease.acquire(f"{bucket}/run"):
        with pytest.raises(RunDirectoryError, match=f"process {os.getpid()} of host"):
            Lease.acquire(f"{bucket}/run")
        assert objects(f"{bucket}/run") == ["lease.json"]
    assert objects(f"{bucket}/run") == []


@pytest.mark.parametrize(
    "uri",
    [
        "s3://user@bucket/run",
        "s3://KEY:hush-hush@bucket/run",
        "s3://KEY:hush-hush/with-a-slash@bucket/run",
        "s3://bucket/run?access_key=KEY&secret_key=hush-hush",
        "s3://bucket/run?session_token=hush-hush",
        "s3://bucket/run?region=x&Secret%5Fkey=hush-hush",
        "s3://bucket/run?endpoint_override=http://KEY:hush-hush@host",
        "hdfs://KEY:hush-hush@host/run",
    ],
)
def test_uri_with_credentials_is_refused_without_repeating_them(start, uri) -> None:
    for attempt in (start, RunDirectory.open, Lease.acquire):
        with pytest.raises(RunDirectoryError, match=r"must not carry credentials.*AWS_SECRET_ACCESS_KEY") as refusal:
            attempt(uri)
        assert "hush" not in str(refusal.value)
        assert "KEY:" not in str(refusal.value)


@contextmanager
def network_that_breaks(endpoint: str, after_bytes: int) -> Iterator[str]:
    """A way to the server that is cut, for good, once so many bytes went there."""
    host, port = endpoint.split(":")
    left = [after_bytes]

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as server:
                while left[0] > 0:
                    for end in select.select([self.request, server], [], [])[0]:
                        data = end.recv(65536)
                        if not data:
                            return
                        if end is self.request:
                            data = data[: max(left[0], 0)]
                            left[0] -= len(data)
                        (server if end is self.request else self.request).sendall(data)

    class Way(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Connections end in the middle: that is the point."""

    with Way(("127.0.0.1", 0), Connection) as way:
        threading.Thread(target=way.serve_forever, daemon=True).start()
        yield "{}:{}".format(*way.server_address)
        way.shutdown()


@pytest.mark.parametrize("megabytes", [1, 12])  # in one request, and in several parts
def test_upload_that_breaks_off_is_an_error_and_leaves_no_object(bucket, s3_endpoint, one_attempt, megabytes) -> None:
    data = os.urandom(megabytes << 20)
    with network_that_breaks(s3_endpoint, after_bytes=len(data) * 2 // 3) as way:
        broken = open_storage(f"{bucket}/run?endpoint_override={way}&scheme=http")
        with pytest.raises(OSError):
            broken.put("points/part-0.parquet", data)
    assert objects(f"{bucket}/run") == []
    whole = open_storage(f"{bucket}/run")
    whole.put("points/part-0.parquet", data)
    assert whole.read("points/part-0.parquet").to_pybytes() == data


def test_store_that_is_away_is_named_in_a_message_after_a_few_attempts(bucket) -> None:
    attempts = []

    class HangsUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            attempts.append(self.client_address)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HangsUp) as store:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        uri = f"{bucket}/run?endpoint_override=127.0.0.1:{store.server_address[1]}&scheme=http"
        with pytest.raises(RunDirectoryError, match=r"/run\?.*: cannot read run\.json \(.*NETWORK_CONNECTION"):
            RunDirectory.open(uri)
        store.shutdown()
    assert len(attempts) == 4


def test_store_that_refuses_connections_is_named_in_a_message(bucket, one_attempt, monkeypatch, start) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for attempt in (RunDirectory.open, start, Lease.acquire):
        with pytest.raises(RunDirectoryError, match=rf"{bucket}/run: .*[Cc]ould not connect"):
            attempt(f"{bucket}/run")


@pytest.mark.slow
def test_store_that_never_answers_is_given_up(bucket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"{bucket}/run?endpoint_override=127.0.0.1:{silent.getsockname()[1]}&scheme=http"
        with pytest.raises(RunDirectoryError, match=r"cannot read run.json \(.*[Tt]ime"):
            RunDirectory.open(uri)


def test_bucket_that_is_not_there_is_named_in_a_message(bucket, start) -> None:
    for attempt in (start, Lease.acquire):
        with pytest.raises(RunDirectoryError, match=r"s3://no-such-bucket/run: .*'no-such-bucket' not found"):
            attempt("s3://no-such-bucket/run")


def test_access_that_is_denied_is_named_in_a_message(bucket, s3_endpoint, start) -> None:
    start(f"{bucket}/run")

    def check_credentials_after(requests: str) -> None:
        plain = {"Content-Type": "text/plain"}
        url = f"http://{s3_endpoint}/moto-api/reset-auth"
        urllib.request.urlopen(urllib.request.Request(url, requests.encode(), plain))

    check_credentials_after("0")
    try:
        for attempt in (RunDirectory.open, start, Lease.acquire):
            with pytest.raises(RunDirectoryError, match=rf"{bucket}/run: .*ACCESS_DENIED"):
                attempt(f"{bucket}/run")
    finally:
        check_credentials_after("inf")


def test_command_line_works_on_an_object_store_and_keeps_credentials_to_itself(
    bucket, digits_settings, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(digits_settings(data={"stop": 20}, output=f"{bucket}/run")))
    monkeypatch.chdir(tmp_path)

    def in_a_process(*arguments: str) -> str:
        command = [sys.executable, "-m", "srs_ray.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert (done.returncode, done.stderr) == (0, "")  # and no warning at its end
        return done.stdout

    def in_this_process(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["srs-ray", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    said = [
        in_a_process("certify", "job.yaml", "--no-ray"),
        in_this_process("certify", "job.yaml", "--no-ray"),
        in_this_process("status", f"{bucket}/run"),
        in_this_process("aggregate", f"{bucket}/run"),
        in_a_process("compact", f"{bucket}/run"),
    ]
    expected = ["2 of them now", "0 of them now", "2 of 2 points done", "exact", "2 parts before, 1 now"]
    assert [words in " ".join(text.split()) for words, text in zip(expected, said, strict=True)] == [True] * 5
    assert [name.partition("-")[0] for name in objects(f"{bucket}/run")] == ["points/part", "run.json"]
    assert (
        "hush-hush" not in "".join(said) + storage.open_storage(f"{bucket}/run").read("run.json").to_pybytes().decode()
    )
