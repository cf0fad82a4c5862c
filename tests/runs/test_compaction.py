"""Merging small parts loses no row, hides none from a reader, and stays cheap however long a run is."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srs_ray import cli
from srs_ray.errors import RunDirectoryError
from srs_ray.runs import Lease, RowWriter, RunDirectory, compaction
from srs_ray.runs.compaction import AT_ONCE_BYTES, SMALL_BYTES, in_parts, parts_to_merge
from srs_ray.runs.parts import ROWS_OF_A_PART
from srs_ray.runs.record import RunRecord
from srs_ray.runs.storage import LocalStorage


def parts(path: Path) -> list[Path]:
    return sorted((path / "points").glob("part-*.parquet"))


def all_rows(path: Path) -> list[tuple[object, ...]]:
    """Every row of every part, sorted."""
    table = pa.concat_tables([pq.read_table(part) for part in parts(path)])
    return sorted((row["index"], row["status"], row["attempt"], row["worker"]) for row in table.to_pylist())


def test_every_attempt_is_kept_and_exact_duplicates_once(start, ok_row, error_row, tmp_path) -> None:
    run = start(tmp_path)
    attempts = [
        error_row(0),
        ok_row(0, attempt=2),
        ok_row(1),
        ok_row(1, counts=[9_999]),
        ok_row(1, radius=float("nan")),
    ]
    run.append(attempts[:3])
    run.append(attempts[1:])
    run.append(attempts[4:] * 2)
    before = run.rows(["index", "status", "attempt"])
    assert run.compact() == (3, 1)
    assert [row[:2] for row in all_rows(tmp_path)] == [(0, "error"), (0, "ok"), (1, "ok"), (1, "ok"), (1, "ok")]
    assert run.rows(["index", "status", "attempt"]).equals(before)
    assert run.compact() == (1, 1)


def test_part_that_cannot_be_read_is_left_alone(start, ok_row, tmp_path) -> None:
    run = start(tmp_path)
    for index in range(3):
        run.append([ok_row(index)])
    cut = parts(tmp_path)[0]
    cut.write_bytes(cut.read_bytes()[:-1])
    left = cut.read_bytes()
    assert run.compact() == (3, 2)
    assert cut.read_bytes() == left


class CompactedMeanwhile(LocalStorage):
    """A folder in which another process merges all parts right after two of them were read."""

    parts_read = 0

    def read(self, name: str, at_most: int | None = None) -> pa.Buffer:
        data = super().read(name, at_most)
        self.parts_read += 1
        if self.parts_read == 2:
            RunDirectory.open(self.location).compact()
        return data


def test_two_compactions_at_once_lose_nothing_and_are_no_error(start, ok_row, tmp_path) -> None:
    run = start(tmp_path)
    for index in range(4):
        run.append([ok_row(index)])
    record = RunRecord.from_json((tmp_path / "run.json").read_bytes())
    RunDirectory(CompactedMeanwhile(tmp_path, str(tmp_path)), record).compact()
    assert run.rows()["index"].to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("place", ["folder", "object store"])
def test_two_writers_that_append_and_merge_at_once_hide_no_row_from_a_reader(
    start, ok_row, tmp_path, request, place
) -> None:
    path = str(tmp_path) if place == "folder" else f"{request.getfixturevalue('bucket')}/run"
    start(path)
    kept: set[int] = set()
    failures: list[Exception] = []

    def write(first: int) -> None:
        try:
            run = RunDirectory.open(path)
            for index in range(first, 24, 2):
                run.append([ok_row(index)])
                kept.add(index)
                if index % 6 < 2:
                    run.compact()
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 1)]
    for writer in writers:
        writer.start()
    reader = RunDirectory.open(path)
    while any(writer.is_alive() for writer in writers):
        promised = set(kept)
        assert promised <= reader.finished()
    assert failures == []
    assert reader.rows()["index"].to_pylist() == list(range(24))
    reader.compact()
    assert reader.rows()["index"].to_pylist() == list(range(24))


def test_writer_keeps_the_parts_that_a_reader_faces_fewer_than_100(start, ok_row, tmp_path) -> None:
    run = start(tmp_path)
    most = 0
    with RowWriter(run, max_rows=1) as writer:
        for index in range(150):
            writer.add(ok_row(index))
            most = max(most, len(parts(tmp_path)))
    assert most < 100
    assert run.rows()["index"].to_pylist() == list(range(150))
    for index in range(150, 200):
        run.append([ok_row(index)])
    with RowWriter(run):
        assert len(parts(tmp_path)) == 1


def test_merge_that_finds_no_room_is_a_warning_and_the_run_goes_on(
    start, ok_row, full_disk, monkeypatch, tmp_path, caplog
) -> None:
    run = start(tmp_path)
    one = ok_row(0, selection_counts=list(range(1000)), selection_classes=list(range(1000)))
    with RowWriter(run, max_rows=1) as writer:
        writer.add(one)
        size = parts(tmp_path)[0].stat().st_size
        with full_disk(size + 4096):
            for index in range(1, 40):
                writer.add({**one, "index": index, "selection_counts": [index * 1000 + at for at in range(1000)]})
    assert len(parts(tmp_path)) == 40
    assert run.finished() == set(range(40))
    assert len(caplog.messages) == 1
    assert f"{tmp_path}: cannot merge the parts of points/ (File too large)" in caplog.text
    assert "the run goes on" in caplog.text


@pytest.mark.parametrize("part_bytes", [4_000, 20_000, 150_000, 2_000_000])
def test_merging_costs_a_run_of_a_million_points_a_bounded_multiple_of_its_rows(part_bytes) -> None:
    sizes: dict[str, int] = {}
    written = merged = most = 0
    for number in range(min(60_000, 4_000_000_000 // part_bytes)):
        sizes[str(number)] = part_bytes
        written += part_bytes
        if number % 32 == 31:
            for batch in parts_to_merge(sizes):
                total = sum(sizes.pop(name) for name in batch)
                assert total <= AT_ONCE_BYTES
                sizes[f"merged-{number}-{batch[0]}"] = total
                merged += total
        most = max(most, sum(size < SMALL_BYTES for size in sizes.values()))
    assert most <= 64
    # Between two merges 32 parts come, so a row is merged at most as often as these go into SMALL_BYTES, and once more.
    assert merged <= written * (SMALL_BYTES / (32 * part_bytes) + 2)


def test_parts_to_merge_are_all_small_ones_in_batches_of_bounded_size() -> None:
    sizes = {"big": SMALL_BYTES, "a": SMALL_BYTES - 1, "b": SMALL_BYTES - 1, "c": SMALL_BYTES - 1, "d": 2, "e": 1}
    assert parts_to_merge(sizes) == [["e", "d", "a"], ["b", "c"]]
    assert parts_to_merge({"big": SMALL_BYTES, "a": 1}) == []
    assert parts_to_merge({}) == []


def test_compact_command_works_under_the_lease_and_says_how_many_parts_became_how_many(
    start, ok_row, tmp_path, monkeypatch, capsys
) -> None:
    run = start(tmp_path / "run")
    for index in range(3):
        run.append([ok_row(index)])

    def call(path: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["srs-ray", "compact", str(path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out + err

    with Lease.acquire(tmp_path / "run"):
        code, said = call(tmp_path / "run")
        assert code == 2
        assert "writes this run" in said
        assert len(parts(tmp_path / "run")) == 3
    assert call(tmp_path / "run") == (0, "3 parts before, 1 now\n")
    assert call(tmp_path / "nowhere")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_store_that_fails_is_named_when_compacting(start, ok_row, tmp_path) -> None:
    run = start(tmp_path)
    for index in (0, 1):
        run.append([ok_row(index)])
    (tmp_path / "points").rename(tmp_path / "elsewhere")
    (tmp_path / "points").write_text("a file")
    with pytest.raises(RunDirectoryError, match=f"{tmp_path}: cannot merge the parts"):
        run.compact()


def test_no_part_grows_past_the_rows_that_are_read(start, ok_row, tmp_path, monkeypatch) -> None:
    assert in_parts({"a": 1, "b": ROWS_OF_A_PART - 1, "c": 1}) == [["a", "b"]]
    assert in_parts({"a": 2 * ROWS_OF_A_PART, "b": 1, "c": 1}) == [["b", "c"]]
    monkeypatch.setattr(compaction, "ROWS_OF_A_PART", 4)
    run = start(tmp_path)
    for index in range(10):
        run.append([ok_row(index)])
    before = all_rows(tmp_path)
    assert run.compact() == (10, 3)
    assert all_rows(tmp_path) == before
    assert sorted(pq.read_metadata(part).num_rows for part in parts(tmp_path)) == [2, 4, 4]
