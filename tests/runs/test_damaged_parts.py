"""What cannot be read is moved aside, never deleted, and its points are to be done again."""

from __future__ import annotations

import logging
import os
import struct
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srs_ray.runs import RunDirectory
from srs_ray.runs.parts import encode_part
from srs_ray.runs.schema import (
    BY_LOOKS_COLUMNS,
    IMAGE_COLUMNS,
    LIPSCHITZ_COLUMNS,
    MISSES_COLUMNS,
    STEPS_COLUMNS,
    rows_to_table,
)


@pytest.fixture
def part(start, ok_row, tmp_path) -> Path:
    """The part of a run in `tmp_path` / run whose point 0 is finished."""
    start(tmp_path / "run").append([ok_row(0)])
    (part,) = (tmp_path / "run" / "points").iterdir()
    return part


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_part_cut_at_any_length_is_quarantined_and_its_points_are_pending(part, start, tmp_path) -> None:
    whole = part.read_bytes()
    part.unlink()
    for length in range(len(whole)):
        part.with_name(f"part-{length}.parquet").write_bytes(whole[:length])
    run = start(tmp_path / "run")
    assert run.finished() == set()
    assert run.rows().num_rows == 0
    assert names(tmp_path / "run" / "points") == []
    assert len(names(tmp_path / "run" / "quarantine")) == len(whole)
    for length in (0, 1, len(whole) - 1):
        assert (tmp_path / "run" / "quarantine" / f"part-{length}.parquet").read_bytes() == whole[:length]


def test_quarantined_part_is_named_in_a_warning_with_the_reason(part, start, tmp_path, caplog) -> None:
    part.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        start(tmp_path / "run")
    assert len(caplog.messages) == 1
    assert f"points/{part.name} moved to {tmp_path}/run/quarantine/{part.name}" in caplog.text
    assert "0 bytes" in caplog.text


def test_part_beside_a_damaged_one_is_kept(part, start, ok_row, tmp_path) -> None:
    run = RunDirectory.open(tmp_path / "run")
    run.append([ok_row(1)])
    part.write_bytes(part.read_bytes()[:100])
    assert start(tmp_path / "run").finished() == {1}


def test_changed_byte_in_the_data_is_noticed(part, start, tmp_path) -> None:
    content = bytearray(part.read_bytes())
    content[content.index(struct.pack("<d", 0.1 + 0.2))] ^= 1  # the radius: a valid number still, but another
    part.write_bytes(content)
    assert start(tmp_path / "run").finished() == set()
    assert names(tmp_path / "run" / "quarantine") == [part.name]


def test_part_of_another_run_is_quarantined(part, start, ok_row, tmp_path, caplog) -> None:
    start(tmp_path / "other", fingerprint={"noise.sigma": 1.0}).append([ok_row(5)])
    (foreign,) = (tmp_path / "other" / "points").iterdir()
    foreign.rename(part.with_name(foreign.name))
    assert start(tmp_path / "run").finished() == {0}
    assert names(tmp_path / "run" / "quarantine") == [foreign.name]
    assert "its fingerprint is another run's" in caplog.text


@pytest.mark.parametrize(
    ("version", "drop", "reason"),
    [
        (b"7", [], "schema version is 7, expected 6 or less"),
        (b"6", ["radius"], "columns are not those of the row schema"),
        (b"6", ["look_found"], "columns are not those of the row schema"),
        (b"5", [], "columns are not those of the row schema"),
        (b"4", [], "columns are not those of the row schema"),
        (b"3", ["pixels"], "columns are not those of the row schema"),
        (b"3", [], "columns are not those of the row schema"),
        (b"2", [], "columns are not those of the row schema"),
        (b"1", [], "columns are not those of the row schema"),
    ],
)
def test_part_of_another_schema_is_quarantined(part, start, ok_row, tmp_path, caplog, version, drop, reason) -> None:
    table = pq.read_table(part).drop_columns(drop)
    metadata = {**table.schema.metadata, b"srs_ray.schema_version": version}
    pq.write_table(table.replace_schema_metadata(metadata), part)
    assert start(tmp_path / "run").finished() == set()
    assert names(tmp_path / "run" / "quarantine") == [part.name]
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        (b"1", BY_LOOKS_COLUMNS + MISSES_COLUMNS + IMAGE_COLUMNS + STEPS_COLUMNS + LIPSCHITZ_COLUMNS),
        (b"2", MISSES_COLUMNS + IMAGE_COLUMNS + STEPS_COLUMNS + LIPSCHITZ_COLUMNS),
        (b"3", MISSES_COLUMNS[2:] + STEPS_COLUMNS + LIPSCHITZ_COLUMNS),
        (b"4", STEPS_COLUMNS + LIPSCHITZ_COLUMNS),
        (b"5", LIPSCHITZ_COLUMNS),
    ],
)
def test_part_written_before_there_were_some_columns_is_read_with_nulls_for_them(
    part, start, tmp_path, version: bytes, missing: tuple[str, ...]
) -> None:
    table = pq.read_table(part).drop_columns(list(missing))
    metadata = {**table.schema.metadata, b"srs_ray.schema_version": version}
    pq.write_table(table.replace_schema_metadata(metadata), part)
    run = start(tmp_path / "run")
    assert run.finished() == {0}
    assert run.rows(["index", *missing]).to_pylist() == [{"index": 0, **dict.fromkeys(missing)}]


def test_parquet_file_of_somebody_else_under_our_kind_of_name_is_quarantined(part, start, tmp_path) -> None:
    pq.write_table(pa.table({"index": [7]}), part.with_name("part-7.parquet"))
    assert start(tmp_path / "run").finished() == {0}
    assert names(tmp_path / "run" / "quarantine") == ["part-7.parquet"]


def test_files_of_other_names_are_ignored_and_left_where_they_are(part, start, tmp_path, caplog) -> None:
    others = ["notes.txt", "part-1.parquet.bak", "copy of part-1.parquet"]
    for name in others:
        part.with_name(name).write_bytes(b"mine")
    part.with_name("part-folder.parquet").mkdir()
    part.with_name("part-gone.parquet").symlink_to("nowhere")
    run = start(tmp_path / "run")
    assert run.finished() == {0}
    assert set(others) < set(names(part.parent))
    assert not (tmp_path / "run" / "quarantine").exists()
    assert caplog.messages == []


def test_quarantine_keeps_both_of_two_parts_with_one_name(part, start, tmp_path) -> None:
    for content in (b"first", b"second"):
        part.write_bytes(content)
        start(tmp_path / "run")
    kept = {file.read_bytes() for file in (tmp_path / "run" / "quarantine").iterdir()}
    assert kept == {b"first", b"second"}


def test_reader_skips_a_damaged_part_with_one_warning_and_moves_nothing(part, ok_row, tmp_path, caplog) -> None:
    run = RunDirectory.open(tmp_path / "run")
    run.append([ok_row(1)])
    part.write_bytes(part.read_bytes()[:-1])
    before = names(part.parent)
    for _ in range(2):
        assert run.rows()["index"].to_pylist() == [1]
        assert run.finished() == {1}
    assert len(caplog.messages) == 1
    assert part.name in caplog.text
    assert names(part.parent) == before
    assert not (tmp_path / "run" / "quarantine").exists()


def test_temporaries_are_swept_once_an_hour_old_and_left_to_their_writer_before(part, start, tmp_path) -> None:
    now = time.time()
    for folder in (tmp_path / "run", part.parent):
        for name, age in ((".srs-ray-old", 3700), (".srs-ray-young", 3500), (".other-old", 3700)):
            (folder / name).write_bytes(b"half a p")
            os.utime(folder / name, (now - age, now - age))
    assert start(tmp_path / "run").finished() == {0}
    assert names(tmp_path / "run") == [".other-old", ".srs-ray-young", "points", "run.json"]
    assert names(part.parent) == [".other-old", ".srs-ray-young", part.name]


def test_reading_sweeps_nothing(part, tmp_path) -> None:
    stray = part.with_name(".srs-ray-old")
    stray.write_bytes(b"half a p")
    os.utime(stray, (0, 0))
    assert RunDirectory.open(tmp_path / "run").finished() == {0}
    assert stray.exists()


def test_part_is_plain_parquet_that_reads_without_this_package(ok_row) -> None:
    table = rows_to_table([ok_row(0), ok_row(1)])
    data = encode_part(table, "0" * 64)
    assert pq.read_table(pa.BufferReader(data)).equals(table)


def test_part_with_text_that_is_no_text_is_quarantined(part, start, tmp_path) -> None:
    table = pq.read_table(part)
    broken = pa.array([b"\xff"]).view(pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("worker"), table.schema.field("worker"), broken), part)
    assert start(tmp_path / "run").finished() == set()
    assert names(tmp_path / "run" / "quarantine") == [part.name]
