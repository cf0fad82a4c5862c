"""A run directory remembers its job, refuses to mix two of them, and gives its rows back as they were."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from srs_ray.errors import RunDirectoryError
from srs_ray.runs import RunDirectory
from srs_ray.runs.fingerprint import digest
from srs_ray.runs.schema import RESULT_COLUMNS, ROW_SCHEMA


def run_json(path: Path) -> dict:
    return json.loads((path / "run.json").read_text())


def test_run_opens_with_what_it_was_started_with(start, tmp_path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    session = {"started_at": "2025-01-01T00:00:00+00:00", "versions": {"torch": "2.15.0"}, "batch": 100}
    start(tmp_path / "deep" / "run", job={"noise": {"sigma": 0.1 + 0.2}}, session=session)
    run = RunDirectory.open(tmp_path / "deep" / "run")
    assert run.job == {"noise": {"sigma": 0.1 + 0.2}}
    assert run.fingerprint["sampling.solver"] == "anderson"
    assert run.points == {"start": 0, "stop": 100, "every": 20}
    assert run.sessions == [session]
    assert before <= datetime.fromisoformat(run.created_at) <= datetime.now(UTC)
    assert run.notes == []
    assert run.path == str(tmp_path / "deep" / "run")


def test_run_json_names_its_version_and_the_digest_of_its_fingerprint(start, tmp_path) -> None:
    run = start(tmp_path)
    document = run_json(tmp_path)
    assert list(document) == ["schema_version", "job", "fingerprint", "created_at", "points", "sessions"]
    assert document["schema_version"] == 6
    assert document["fingerprint"] == {"digest": digest(run.fingerprint), "settings": run.fingerprint}


def test_continuing_keeps_every_session_and_the_newest_job_and_points(start, ok_row, tmp_path) -> None:
    first = start(tmp_path, session={"batch": 100})
    first.append([ok_row(0)])
    run = start(
        tmp_path, job={"output": "elsewhere"}, points={"start": 0, "stop": 500, "every": 5}, session={"batch": 50}
    )
    again = RunDirectory.open(tmp_path)
    for opened in (run, again):
        assert opened.sessions == [{"batch": 100}, {"batch": 50}]
        assert opened.job == {"output": "elsewhere"}
        assert opened.points == {"start": 0, "stop": 500, "every": 5}
        assert opened.created_at == first.created_at
        assert opened.finished() == {0}


def test_notes_say_what_changed_between_sessions(start, tmp_path) -> None:
    versions = {"torch": "2.14.0", "ray": "2.60.0"}
    start(tmp_path, session={"started_at": "2026-01-01", "versions": versions, "device": "cpu", "batch": 100})
    start(tmp_path, session={"started_at": "2026-01-02", "versions": versions, "device": "cuda", "batch": 100})
    versions = {"torch": "2.15.0", "ray": "2.60.0"}
    run = start(tmp_path, session={"started_at": "2026-01-03", "versions": versions, "device": "cuda"})
    assert run.notes == [
        "session 2 (2026-01-02): device changed from cpu to cuda",
        "session 3 (2026-01-03): batch changed from 100 to (not set)",
        "session 3 (2026-01-03): versions.torch changed from 2.14.0 to 2.15.0",
    ]
    assert RunDirectory.open(tmp_path).notes == run.notes


def test_other_fingerprint_is_refused_with_every_setting_named_and_nothing_changed(start, ok_row, tmp_path) -> None:
    start(tmp_path, fingerprint={"noise.sigma": 0.5, "sampling.steps": 3, "seed": 0}).append([ok_row(0)])
    before = (tmp_path / "run.json").read_bytes()
    (tmp_path / "points" / "part-broken.parquet").touch()
    with pytest.raises(RunDirectoryError) as refusal:
        start(tmp_path, fingerprint={"noise.sigma": 0.25, "seed": 0, "certificate.kind": "exact"})
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path}: ")
    assert 'certificate.kind: (not set) there, "exact" now' in message
    assert "noise.sigma: 0.5 there, 0.25 now" in message
    assert "sampling.steps: 3 there, (not set) now" in message
    assert "seed" not in message
    assert "choose another output" in message
    assert (tmp_path / "run.json").read_bytes() == before
    assert (tmp_path / "points" / "part-broken.parquet").exists()


def test_folder_of_something_else_is_refused_and_left_alone(start, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunDirectoryError, match=r"holds files but no run.json.*choose another output"):
        start(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_the_place_of_the_folder_is_refused(start, tmp_path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunDirectoryError, match=str(tmp_path / "run")):
        start(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=str(tmp_path / "run")):
        RunDirectory.open(tmp_path / "run")


@pytest.mark.parametrize("name", ["", "absent"])
def test_opening_where_no_run_is_says_what_was_looked_for(tmp_path, name) -> None:
    with pytest.raises(RunDirectoryError, match=r"no run here \(run.json not found\)"):
        RunDirectory.open(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_run_json_cut_anywhere_is_refused_by_name_and_not_overwritten(start, tmp_path) -> None:
    start(tmp_path)
    file = tmp_path / "run.json"
    text = file.read_bytes().rstrip()
    for length in range(len(text)):
        file.write_bytes(text[:length])
        for attempt in (RunDirectory.open, start):
            with pytest.raises(RunDirectoryError, match=r"run\.json: not JSON"):
                attempt(tmp_path)
    assert file.read_bytes() == text[:-1]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema_version": 7}, "its schema version is 7, this srs-ray reads up to 6"),
        ({"schema_version": "one"}, "its schema version is 'one'"),
        ({"sessions": {}}, "sessions: Input should be a valid list, found {}"),
        ({"job": None}, "job: .*found None"),
        ({"points": {"start": 0, "stop": "x", "every": 1}}, "points.stop: Input should be a valid integer, found 'x'"),
        ({"points": {"start": 0, "stop": 5, "every": 0}}, "points.every: .* greater than or equal to 1, found 0"),
        ({"job": {"data": None}}, "job.data: .*found None"),
        ({"job": {"report": {"radii": [0.5, -1]}}}, "job.report.radii.1: .*found -1"),
        ({"sessions": [{"started_at": "lately"}]}, "sessions.0.started_at: Invalid isoformat string"),
        ({"fingerprint": {"digest": "0", "settings": {"seed": 1}}}, "digest is not that of its settings"),
    ],
)
def test_run_json_of_another_version_or_shape_is_refused_with_the_reason(start, tmp_path, change, complaint) -> None:
    start(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**run_json(tmp_path), **change}))
    for attempt in (RunDirectory.open, start):
        with pytest.raises(RunDirectoryError, match=complaint):
            attempt(tmp_path)


def test_every_column_comes_back_with_its_type_and_value(start, ok_row, error_row, tmp_path) -> None:
    rows = [ok_row(3), {**error_row(1), "label": 2}, ok_row(2, radius=0.0, predicted=-1, correct=False, classes=[])]
    rows[0]["counts"] = [2**60]
    start(tmp_path).append(rows)
    table = RunDirectory.open(tmp_path).rows()
    assert table.schema.equals(ROW_SCHEMA, check_metadata=True)
    complete = [{**dict.fromkeys(ROW_SCHEMA.names), **rows[position]} for position in (1, 2, 0)]
    assert table.to_pylist() == complete
    assert {table[name][0].as_py() for name in RESULT_COLUMNS} == {None}


def test_times_of_other_zones_are_kept_as_the_same_instant(start, ok_row, tmp_path) -> None:
    time = datetime(2025, 1, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    run = start(tmp_path)
    run.append([ok_row(0, finished_at=time)])
    assert run.rows()["finished_at"].to_pylist() == [time]


def test_newer_error_does_not_displace_an_ok_row_of_another_part(start, ok_row, error_row, tmp_path) -> None:
    run = start(tmp_path)
    run.append([error_row(1, second=1), ok_row(2, second=1, worker="old")])
    run.append([error_row(2, second=9), error_row(1, second=3, error="newest"), error_row(4)])
    run.append([ok_row(2, second=5, worker="new"), error_row(1, second=2)])
    table = run.rows(["worker", "index", "error"])
    assert table.to_pylist() == [
        {"worker": None, "index": 1, "error": "newest"},
        {"worker": "new", "index": 2, "error": None},
        {"worker": None, "index": 4, "error": "image 7 has 1 channel, expected 3"},
    ]
    assert run.finished() == {2}


def test_rows_have_the_asked_columns_in_the_asked_order_even_without_rows(start, tmp_path) -> None:
    table = start(tmp_path).rows(["radius", "index"])
    assert table.schema == pa.schema([("radius", pa.float64()), ("index", pa.int64())])
    assert table.num_rows == 0


def test_unknown_column_is_refused_by_name(start, tmp_path) -> None:
    with pytest.raises(ValueError, match="rows have no column radios"):
        start(tmp_path).rows(["radios"])


def test_rows_that_break_the_schema_leave_no_part(start, ok_row, tmp_path) -> None:
    with pytest.raises(ValueError, match="unknown column"):
        start(tmp_path).append([ok_row(0), ok_row(1, mood="good")])
    assert list((tmp_path / "points").iterdir()) == []


def test_points_are_a_dataset_that_pandas_opens_beside_an_interrupted_write(start, ok_row, tmp_path) -> None:
    run = start(tmp_path)
    run.append([ok_row(0)])
    run.append([ok_row(1)])
    (tmp_path / "points" / ".srs-ray-0123456789abcdef0123456789abcdef").write_bytes(b"PAR1")
    assert sorted(pd.read_parquet(tmp_path / "points")["index"]) == [0, 1]


def test_every_part_names_its_schema_version_and_fingerprint(start, ok_row, tmp_path) -> None:
    run = start(tmp_path)
    run.append([ok_row(0)])
    (part,) = (tmp_path / "points").iterdir()
    metadata = pa.parquet.read_metadata(part).metadata
    assert metadata[b"srs_ray.schema_version"] == b"6"
    assert metadata[b"srs_ray.fingerprint"] == digest(run.fingerprint).encode()


def test_a_run_of_an_older_program_goes_on_without_what_its_fingerprint_did_not_know(start, ok_row, tmp_path) -> None:
    start(tmp_path / "run").append([ok_row(0)])
    older = RunDirectory.open(tmp_path / "run").fingerprint
    run = start(tmp_path / "run", fingerprint={**older, "data.sample": "abc"})
    assert run.finished() == {0}
    assert run.fingerprint == older
    assert run.notes == [
        "data.sample is not compared: the fingerprint of this run, by an older srs-ray, does not know it"
    ]
    assert RunDirectory.open(tmp_path / "run").notes == []
    with pytest.raises(RunDirectoryError, match=r"data\.new: \(not set\) there"):
        start(tmp_path / "run", fingerprint={**older, "data.sample": "abc", "data.new": 1})


def test_what_a_fingerprint_knew_is_compared_unless_the_caller_has_verified_it(start, ok_row, tmp_path) -> None:
    known = {"noise.sigma": 0.5, "data.sample": "abc"}
    start(tmp_path / "run", fingerprint=known).append([ok_row(0)])
    for other in ({"noise.sigma": 0.5, "data.sample": "other"}, {"noise.sigma": 0.5}):
        with pytest.raises(RunDirectoryError, match=r"data\.sample: \"abc\" there"):
            start(tmp_path / "run", fingerprint=other)
    run = start(tmp_path / "run", fingerprint={**known, "data.sample": "other"}, verified=("data.sample",))
    assert (run.fingerprint, run.finished(), run.notes) == (known, {0}, [])
