"""The report in a browser: it fits narrow and wide screens in both colour schemes, loads nothing, and prints."""

from __future__ import annotations

import html
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from srs_ray.analysis.report import Options, find_browser, write_report
from srs_ray.analysis.report.pdf import VARIABLE, headless_options
from srs_ray.cli import app
from srs_ray.errors import SrsRayError

MEASURE = """
<!DOCTYPE html><body><iframe style="border:0;width:{width}px;height:800px" srcdoc="{page}"></iframe><script>
addEventListener("load", function () {{
  var root = document.querySelector("iframe").contentDocument, w = root.defaultView;
  var colour = w.getComputedStyle(root.body);
  var heads = root.querySelectorAll("thead th .sort");
  if (heads.length) heads[heads.length - 1].click();
  document.body.textContent = ["MEASURED", root.documentElement.scrollWidth, w.innerWidth, colour.backgroundColor,
    root.querySelectorAll("[aria-sort]").length].join(" | ");
}});
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    try:
        return find_browser()
    except SrsRayError as error:
        pytest.skip(str(error))


@pytest.fixture
def report_file(write_run, points, tmp_path) -> Path:
    points[2] |= {"source": "validation/" + "long" * 40 + ".png", "class_name": "wide" * 50}
    runs = [write_run("first", points), write_run("a-name-of-a-run-that-is-rather-" + "long" * 20, points)]
    write_report(runs, tmp_path / "report.html", Options())
    return tmp_path / "report.html"


@pytest.mark.parametrize(
    ("scheme", "setting", "background"), [("light", 1, "255, 255, 255"), ("dark", 0, "21, 23, 26")]
)
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_overflows_and_tables_sort(browser, report_file, tmp_path, width, scheme, setting, background):
    page = html.escape(report_file.read_text(encoding="utf-8"), quote=True)
    (tmp_path / "measure.html").write_text(MEASURE.format(width=width, page=page), encoding="utf-8")
    command = [browser, *headless_options(tmp_path / scheme), f"--blink-settings=preferredColorScheme={setting}"]
    command += ["--window-size=1400,900", "--dump-dom", (tmp_path / "measure.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"MEASURED \| (\d+) \| (\d+) \| rgb\(([\d, ]+)\) \| (\d+)", done.stdout)
    assert found is not None, done.stderr
    assert int(found[1]) <= int(found[2]) == width
    assert found[3] == background
    assert found[4] == "1"


def test_a_pdf_is_made_and_has_pages(browser, write_run, points, tmp_path):
    write_report([write_run("small", points)], tmp_path / "report.pdf", Options())
    made = (tmp_path / "report.pdf").read_bytes()
    assert made.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", made)) >= 3


def test_without_a_browser_a_pdf_is_refused_in_one_sentence(write_run, points, tmp_path, monkeypatch):
    run = write_run("small", points)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SrsRayError, match="a PDF needs a browser, and none of chromium, "):
        write_report([run], tmp_path / "report.pdf", Options())
    monkeypatch.setenv(VARIABLE, "no-such-browser")
    with pytest.raises(SrsRayError, match="SRS_RAY_BROWSER is 'no-such-browser', which is no program"):
        write_report([run], tmp_path / "report.pdf", Options())
    assert not (tmp_path / "report.pdf").exists()


def test_a_browser_that_fails_is_told_with_its_last_words(write_run, points, tmp_path, monkeypatch):
    (tmp_path / "browser").write_text("#!/bin/sh\necho 'no display' >&2\nexit 3\n")
    (tmp_path / "browser").chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "browser"))
    with pytest.raises(SrsRayError, match=r"made no PDF \(no display\)"):
        write_report([write_run("small", points)], tmp_path / "report.pdf", Options())


def test_the_command_writes_it_and_tells_what_is_missing(write_run, points, tmp_path):
    run = write_run("small", points)
    done = CliRunner().invoke(app, ["report", str(run), "--output", str(tmp_path / "r.html")], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout == f"wrote {tmp_path / 'r.html'}\n"
    assert "small: Pictures are missing: the data cannot be opened" in " ".join(done.stderr.split())
    words = ["report", str(run), "--output", str(tmp_path / "r.html"), "--no-images"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).stderr == ""


def test_the_command_ends_with_1_where_a_run_does_not_hold(write_run, points, tmp_path):
    from srs_ray.runs.directory import RunDirectory

    run = write_run("small", points)
    directory = RunDirectory.open(run)
    directory.append([directory.attempts().to_pylist()[0] | {"radius": 3.0}])
    done = CliRunner().invoke(app, ["report", str(run), "--output", str(tmp_path / "r.html")], catch_exceptions=False)
    assert done.exit_code == 1
    assert (tmp_path / "r.html").is_file()
