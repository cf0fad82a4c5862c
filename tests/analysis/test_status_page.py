"""The page of `status --serve`, asked for by a real client and shown by a real browser."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from srs_ray.analysis.status_page import LOOPBACK, status_page, status_server
from srs_ray.analysis.watch import Look, look_again

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def serving(*runs: object) -> Iterator[int]:
    """The port at which the page of these runs is served, read anew at every request."""
    with status_server(look_again([Look(str(run)) for run in runs]), 0, every=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_the_page_shows_the_runs_and_renews_itself(write_run, points):
    with serving(write_run("first", points, stop=200), write_run("second", points)) as port:
        code, text, headers = ask(port, "/")
        assert code == 200
        assert "<h2>first</h2>" in text
        assert "<h2>second</h2>" in text
        assert '<meta http-equiv="refresh" content="1">' in text
        assert "prefers-color-scheme: dark" in text
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        first, second = json.loads(ask(port, "/status.json")[1])
        assert (first["state"]["pending"], second["state"]["done"]) == (5, 4)


def test_a_run_that_goes_away_is_told_and_comes_back(write_run, points, tmp_path):
    run = write_run("small", points)
    with serving(run) as port:
        assert "cannot be read now" not in ask(port, "/")[1]
        run.rename(tmp_path / "away")
        code, text, _ = ask(port, "/")
        assert code == 200
        assert "small: cannot be read now" in text
        assert "<b>4</b> of 5 points done" in text
        (tmp_path / "away").rename(run)
        assert "cannot be read now" not in ask(port, "/")[1]


@pytest.mark.parametrize("path", ["/../run.json", "/run.json", "/%2e%2e/run.json", "//etc/passwd", "/?a", "/points/"])
def test_nothing_else_is_served(write_run, points, path):
    with serving(write_run("small", points)) as port:
        assert ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_get_is_answered(write_run, points, method):
    with serving(write_run("small", points)) as port:
        assert ask(port, "/", method)[0] == 501


@pytest.mark.parametrize(("host", "code"), [("evil.example", 403), ("evil.example:80", 403), ("localhost:1", 200)])
def test_a_name_that_is_not_this_machines_is_refused(write_run, points, host, code):
    with serving(write_run("small", points)) as port:
        assert ask(port, "/", Host=host)[0] == code


def test_texts_of_a_run_are_text_on_the_page(write_run, points):
    broken = {"label": None, "error": "PointError: <script>alert(1)</script>"}
    look = look_again([Look(str(write_run("<b>x", [*points, broken])))])[0]
    text = status_page([look, Look("<i>never", fault="a < b")], 5)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<b>x" not in text
    assert "&lt;i&gt;never" in text


def test_a_browser_shows_the_page(write_run, points, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no chromium is installed")
    picture = tmp_path / "page.png"
    with serving(write_run("first", points, stop=200), write_run("second", points)) as port:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        page = f"http://{LOOPBACK}:{port}/"
        shown = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, timeout=120)
        subprocess.run([*command, f"--screenshot={picture}", page], capture_output=True, timeout=120, check=True)
    assert "4</b> of 10 points done" in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
