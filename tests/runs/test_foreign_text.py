"""Text in a run directory from elsewhere reaches a terminal as text, never as commands to the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from srs_ray import cli
from srs_ray.analysis import comparison_table, load_points
from srs_ray.errors import RunDirectoryError
from srs_ray.runs import RunDirectory
from srs_ray.runs.printable import printable
from srs_ray.smoothing.bounds import Evidence
from srs_ray.smoothing.smoothing import smoothing_of

TITLE = "\x1b]0;owned\x07\x9b31m\u202e"  # sets a window's title and a colour, and turns the line round
ESCAPED = r"\x1b]0;owned\x07\x9b31m\u202e"
JOB = {
    "model": {"arch": TITLE},
    "data": {"kind": TITLE, "split": None},
    "noise": {"sigma": 0.5},
    "sampling": {
        "method": "srs",
        "n0": 100,
        "n": 10_000,
        "chains": 400,
        "solver": "anderson",
        "steps": 3,
        "reference": {"solver": "anderson", "steps": 30, "tolerance": 0.001},
    },
    "certificate": {"kind": "exact", "alpha": 0.001, "audit": 400},
    "report": {"radii": [0]},
}


@pytest.fixture
def run(start, ok_row, error_row, tmp_path) -> Path:
    """A run whose texts hold commands to terminals, and a part whose name does."""
    points = {"start": 0, "stop": 2, "every": 1}
    session = {"started_at": "2025-01-01T00:00:00+00:00", TITLE: TITLE}
    smoothing = smoothing_of(0.5, JOB["sampling"], JOB["certificate"])
    whole = {"job": JOB, "points": points, "fingerprint": {**smoothing.fingerprint(), "data.kind": TITLE}}
    whole["fingerprint"]["model.arch"] = TITLE
    bound = smoothing.drawn.p_lower(smoothing.certificate.bound.p_lower(Evidence(10_000, 10_000, 400, 2), 0.001))
    row = ok_row(0, worker=TITLE, p_lower=bound, radius=smoothing.radius(bound))
    start(tmp_path / "run", **whole).append([row, error_row(1, error=TITLE)])
    start(tmp_path / "run", **whole, session=session)
    (tmp_path / "run" / "points" / f"part-{TITLE}.parquet").write_bytes(b"no part")
    return tmp_path / "run"


@pytest.mark.parametrize("command", [["status"], ["aggregate"], ["aggregate", "--format", "csv"], ["status", "--json"]])
def test_commands_print_it_escaped(run, monkeypatch, capsys, caplog, command) -> None:
    monkeypatch.setattr(sys, "argv", ["srs-ray", command[0], str(run), *command[1:]])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert not ended.value.code
    shown = out + err + "\n".join(caplog.messages)
    assert [line for line in shown.split("\n") if not line.isprintable()] == []
    assert "part-" + ESCAPED in "\n".join(caplog.messages)


def test_readers_get_it_escaped_and_files_keep_it(run) -> None:
    directory = RunDirectory.open(run)
    assert directory.rows(["worker", "error"]).to_pylist() == [
        {"worker": ESCAPED, "error": None},
        {"worker": None, "error": ESCAPED},
    ]
    assert directory.job["model"]["arch"] == ESCAPED
    assert ESCAPED in "\n".join(directory.notes)
    assert TITLE in json.loads((run / "run.json").read_text())["sessions"][1]
    directory.append([{**directory.rows().to_pylist()[1], "error": TITLE, "attempt": 2}])
    directory.compact()
    (part,) = (run / "points").glob("part-????????????????????????????????.parquet")
    assert TITLE.encode() in part.read_bytes()


def test_refusal_for_other_settings_names_them_escaped(start, tmp_path) -> None:
    start(tmp_path, fingerprint={TITLE: TITLE})
    with pytest.raises(RunDirectoryError) as refusal:
        start(tmp_path)
    assert str(refusal.value).isprintable()
    assert start(tmp_path, fingerprint={TITLE: TITLE}).fingerprint == {TITLE: TITLE}


def test_text_that_shows_stays_as_it_is() -> None:
    assert printable(r"[red] C:\n ü 漢字 🎲") == r"[red] C:\n ü 漢字 🎲"
    assert printable("two\nlines\ud800") == r"two\nlines\ud800"


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_names_are_text_in_every_form_of_a_table(run, tmp_path, form) -> None:
    hostile = run.rename(tmp_path / f"{TITLE}<script>[a](b)`x`|$\\input{{y}}$")
    text = comparison_table([load_points(hostile)], [0], form)
    assert [line for line in text.split("\n") if not line.isprintable()] == []
    if form == "markdown":
        assert "&lt;script>[a]\\(b)\\`x\\`\\|" in text
        assert "<script>" not in text
    if form == "latex":
        assert r"\textless{}script\textgreater{}" in text
        assert r"\$\textbackslash{}input\{y\}\$" in text
