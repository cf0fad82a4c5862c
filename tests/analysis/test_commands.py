"""The commands that show results: their options, and what they say on stderr."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import urllib.request

import pandas as pd
import pytest
from typer.testing import CliRunner

from srs_ray.cli import app
from srs_ray.errors import SrsRayError


def command(*arguments: object) -> tuple[str, str]:
    """Standard output and standard error of `srs-ray` with these arguments, which ends well."""
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, " ".join(result.stderr.split())


def test_aggregate_divides_by_the_points_asked_for_where_that_is_wanted(write_run, points):
    run = write_run("small", points, stop=200)
    shares = {
        of: json.loads(command("aggregate", run, "--format", "json", "--of", of)[0])[0]["certified_accuracy"][0]
        for of in ("ended", "asked")
    }
    assert {of: at["certified_accuracy"] for of, at in shares.items()} == {"ended": 0.4, "asked": 0.2}
    assert {of: at["floor"] for of, at in shares.items()} == {"ended": False, "asked": True}


def test_aggregate_projects_to_another_n(write_run, points):
    out, _ = command("aggregate", write_run("small", points), "--project-n", "100000", "--radii", "0")
    assert "Projection, NO certificate (small): n = 100,000: r = 0: 40.0" in " ".join(out.split())


def test_data_for_programs_comes_with_its_warning_on_stderr(write_run, points):
    runs = (write_run("first", points), write_run("second", points[:2]))
    for form in ("csv", "json"):
        out, err = command("aggregate", *runs, "--format", form)
        assert "warning: first and second are over different points (5 and 2 ended, 2 in both)" in err
        assert "warning" not in command("aggregate", runs[0], runs[0], "--format", form)[1]
    assert len(json.loads(out)) == 2


def test_export_says_what_the_text_cannot_on_stderr(write_run, points, tmp_path):
    run = write_run("small", points, stop=200)
    out, err = command("export", run)
    for note in ("1 of 5 points ended in an error", "5 of 10 points asked for have no row yet"):
        assert note in err
    command("export", run, "--output", tmp_path / "a.tsv")
    assert (tmp_path / "a.tsv").read_text() == out
    theirs = pd.read_csv(tmp_path / "a.tsv", delimiter="\t")
    assert theirs["correct"].mean() == 0.4


def test_aggregate_writes_what_it_prints_to_a_file(write_run, points, tmp_path):
    run = write_run("small", points)
    printed, _ = command("aggregate", run)
    said, _ = command("aggregate", run, "--output", tmp_path / "tables" / "a.txt")
    assert said == ""
    assert (tmp_path / "tables" / "a.txt").read_text() == printed


def test_a_latex_table_has_intervals_caption_and_label_where_they_are_wanted(write_run, points):
    run, latex = write_run("small", points), ("--format", "latex")
    out, _ = command("aggregate", run, *latex, "--intervals", "--caption", "A & B: 50 % {x}", "--tag", "tab:a-1")
    assert r"\centering" + "\n" + r"\caption{A \& B: 50 \% \{x\}}" + "\n" + r"\label{tab:a-1}" in out
    assert "40.0 {[}5.3, 85.3]" in out
    assert "Clopper-Pearson" in out
    plain, _ = command("aggregate", run, *latex)
    assert "40.0 &" in plain
    assert r"\caption" not in plain


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--intervals"], "are for --format latex, found 'table'"),
        (["--format", "latex", "--tag", "a b"], "'a b' is no label of LaTeX"),
        (["--format", "latex", "--tag", "a}b"], "is no label of LaTeX"),
    ],
)
def test_options_of_latex_are_refused_elsewhere(write_run, points, options, said):
    with pytest.raises(SrsRayError, match=said):
        CliRunner().invoke(app, ["aggregate", str(write_run("a", points)), *options], catch_exceptions=False)


def plotted(tmp_path, *arguments: object) -> str:
    command("plot", *arguments, "--output", tmp_path / "a.svg")
    return (tmp_path / "a.svg").read_text()


def test_a_plot_takes_title_labels_and_radii_and_leaves_bands_out(write_run, points, tmp_path):
    runs = (write_run("first", points), write_run("second", points, kind="released"))
    plain = plotted(tmp_path, *runs)
    labels = ("--label", "ours", "--label", "_theirs")
    options = ("--title", "Mine", *labels, "--no-bands", "--from", "51/255", "--to", "0.5")
    own = plotted(tmp_path, *runs, *options)
    assert ('id="band-0"' in plain, 'id="band-0"' in own) == (True, False)
    texts = re.findall(r"<!-- (.*?) -->", own)
    assert {"Mine", "ours", " _theirs (UNSOUND)"} <= set(texts)
    assert not any("Bands:" in text for text in texts)
    assert any("Bands:" in text for text in re.findall(r"<!-- (.*?) -->", plain))
    assert "0.20" in texts


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "a", "--label", "b"], "2 labels for 1 runs"),
        (["--from", "1", "--to", "0.5"], "cannot draw radii from 1 to 0.5"),
        (["--to", "0,1"], "'0,1': expected one radius"),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_refused(write_run, points, tmp_path, options, said):
    run = str(write_run("a", points))
    with pytest.raises(SrsRayError, match=said):
        CliRunner().invoke(app, ["plot", run, "--output", str(tmp_path / "a.svg"), *options], catch_exceptions=False)


def test_status_of_several_runs_is_one_block_each_or_a_list(write_run, points):
    runs = (write_run("first", points), write_run("second", points[:4]))
    out, _ = command("status", *runs)
    assert "first: SRS 3A" in out
    assert "second: SRS 3A" in out
    assert [state["done"] for state in json.loads(command("status", *runs, "--json")[0])] == [4, 4]
    assert json.loads(command("status", runs[0], "--json")[0])["run"] == "first"


@pytest.mark.parametrize("options", [["--json", "--serve"], ["--watch", "--serve"], ["--port", "1"]])
def test_options_of_status_that_exclude_each_other_are_refused(write_run, points, options):
    result = CliRunner().invoke(app, ["status", str(write_run("a", points)), *options])
    assert result.exit_code == 2


def test_a_run_is_served_until_ctrl_c(write_run, points):
    call = [sys.executable, "-m", "srs_ray", "status", str(write_run("small", points)), "--serve"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert "<h2>small</h2>" in answer.read().decode()
        server.send_signal(signal.SIGINT)
        _, err = server.communicate()
    assert (server.returncode, err) == (130, "")


def test_a_port_that_is_taken_is_told(write_run, points):
    call = [sys.executable, "-m", "srs_ray", "status", str(write_run("small", points)), "--serve"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as server:
        port = server.stdout.readline().split()[0].rstrip("/").rpartition(":")[2]
        second = subprocess.run([*call, "--port", port], capture_output=True, text=True)
        server.send_signal(signal.SIGINT)
    assert second.returncode == 2
    assert f"port {port} of 127.0.0.1 cannot be had" in second.stderr


def test_runs_are_watched_on_a_terminal_until_ctrl_c(write_run, points):
    runs = [str(write_run("first", points, stop=200)), str(write_run("second", points))]
    main, side = pty.openpty()
    call = [sys.executable, "-m", "srs_ray", "status", *runs, "--watch", "--every", "0.1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "30"}
    with subprocess.Popen(call, stdout=side, stderr=side, env=environment) as watch:
        os.close(side)
        shown = b""
        while shown.count(b"newest row") < 2:
            shown += os.read(main, 4096)
        watch.send_signal(signal.SIGINT)
        try:
            while piece := os.read(main, 4096):
                shown += piece
        except OSError:  # the terminal's other end is closed
            pass
    os.close(main)
    assert watch.returncode == 130
    assert b"first" in shown
    assert b"4/10" in shown
    assert b"Traceback" not in shown
