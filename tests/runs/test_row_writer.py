"""Rows reach the disk in time, and a flush that fails loses none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from srs_ray.errors import RunDirectoryError
from srs_ray.runs import RowWriter, RunDirectory


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def parts(path: Path) -> list[Path]:
    return list((path / "points").iterdir())


def test_rows_are_kept_as_one_part_when_there_are_enough(start, ok_row, tmp_path) -> None:
    writer = RowWriter(start(tmp_path), max_rows=3)
    for index in (0, 1, 2):  # the first at once
        writer.add(ok_row(index))
    assert RunDirectory.open(tmp_path).finished() == {0}
    writer.add(ok_row(3))
    assert len(parts(tmp_path)) == 2
    assert RunDirectory.open(tmp_path).finished() == {0, 1, 2, 3}


def test_a_row_after_a_pause_is_kept_at_once_and_no_row_waits_too_long(start, ok_row, tmp_path) -> None:
    clock = Clock()
    run = start(tmp_path)
    writer = RowWriter(run, max_seconds=30.0, clock=clock)
    writer.add(ok_row(0))
    assert run.finished() == {0}
    clock.now += 20
    writer.add(ok_row(1))
    clock.now += 9.5
    writer.tick()
    assert run.finished() == {0}
    clock.now += 0.5
    writer.tick()
    assert run.finished() == {0, 1}
    clock.now += 29.5
    writer.add(ok_row(2))
    assert run.finished() == {0, 1}
    clock.now += 0.5
    writer.add(ok_row(3))
    assert run.finished() == {0, 1, 2, 3}
    assert len(parts(tmp_path)) == 3
    clock.now += 100
    writer.tick()
    assert len(parts(tmp_path)) == 3
    writer.add(ok_row(4))
    assert run.finished() == {0, 1, 2, 3, 4}


def test_rows_are_kept_when_the_writer_is_left(start, ok_row, tmp_path) -> None:
    with RowWriter(start(tmp_path)) as writer:
        writer.add(ok_row(0))
        writer.add(ok_row(1))
    assert RunDirectory.open(tmp_path).finished() == {0, 1}


def test_rows_are_kept_when_the_writer_is_left_by_an_interrupt(start, ok_row, tmp_path) -> None:
    def interrupted() -> None:
        with RowWriter(start(tmp_path)) as writer:
            writer.add(ok_row(0))
            writer.add(ok_row(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert RunDirectory.open(tmp_path).finished() == {0, 1}


def test_writer_without_rows_leaves_no_part(start, tmp_path) -> None:
    with RowWriter(start(tmp_path)) as writer:
        writer.flush()
    assert parts(tmp_path) == []


def test_row_that_breaks_the_schema_is_not_taken_and_spoils_no_other(start, ok_row, tmp_path) -> None:
    with RowWriter(start(tmp_path)) as writer:
        writer.add(ok_row(0))
        with pytest.raises(ValueError, match="radius"):
            writer.add(ok_row(1, radius=None))
    assert RunDirectory.open(tmp_path).finished() == {0}


def test_rows_outlive_a_full_disk_and_are_kept_by_a_later_flush(start, ok_row, full_disk, tmp_path) -> None:
    run = start(tmp_path)
    writer = RowWriter(run, max_rows=2)
    with full_disk():
        with pytest.raises(RunDirectoryError) as refusal:
            writer.add(ok_row(0))
        with pytest.raises(RunDirectoryError):
            writer.add(ok_row(1))
        with pytest.raises(RunDirectoryError):
            writer.flush()
    assert str(tmp_path) in str(refusal.value)
    assert "File too large" in str(refusal.value)
    assert parts(tmp_path) == []  # neither a part nor a temporary
    writer.flush()
    assert run.finished() == {0, 1}


def test_rows_outlive_a_folder_that_is_gone_and_are_kept_once_it_is_back(start, ok_row, tmp_path) -> None:
    run = start(tmp_path)
    (tmp_path / "points").rename(tmp_path / "moved")
    writer = RowWriter(run)
    with pytest.raises(RunDirectoryError, match="cannot write 1 rows"):
        writer.add(ok_row(0))
    (tmp_path / "moved").rename(tmp_path / "points")
    writer.flush()
    assert run.finished() == {0}
