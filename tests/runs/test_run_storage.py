"""A run lives on any filesystem that pyarrow opens, and says plainly what a filesystem refuses."""

from __future__ import annotations

import pytest

from srs_ray.errors import RunDirectoryError
from srs_ray.runs import RunDirectory
from srs_ray.runs.record import RunRecord
from srs_ray.runs.storage import LocalStorage


def test_run_lives_on_another_filesystem_of_pyarrow(start, ok_row, error_row, caplog) -> None:
    run = start("mock:///bucket/runs/x")  # pyarrow's own filesystem in memory, lost with the object
    run.append([ok_row(1), error_row(2)])
    run.append([ok_row(0)])
    assert run.rows()["index"].to_pylist() == [0, 1, 2]
    assert run.finished() == {0, 1}
    assert caplog.messages == []


def test_file_uri_is_the_local_folder(start, ok_row, tmp_path) -> None:
    start(f"file://{tmp_path}/run").append([ok_row(0)])
    assert RunDirectory.open(tmp_path / "run").finished() == {0}


def test_relative_path_stays_the_folder_it_was_when_opened(start, ok_row, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = start("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.append([ok_row(0)])
    assert RunDirectory.open(tmp_path / "run").finished() == {0}


def test_uri_that_pyarrow_does_not_know_is_refused(start) -> None:
    with pytest.raises(RunDirectoryError, match=r"ftp://host/run: not a place that pyarrow can open"):
        start("ftp://host/run")


class CompactedWhileRead(LocalStorage):
    """A local folder in which another process merges all parts right after they were listed for the first time."""

    compacted = False

    def file_sizes(self, folder: str) -> dict[str, int]:
        listed = super().file_sizes(folder)
        if not self.compacted:
            self.compacted = True
            RunDirectory.open(self.location).compact()
        return listed


def test_reader_survives_compaction_between_listing_and_reading(start, ok_row, error_row, tmp_path) -> None:
    run = start(tmp_path)
    run.append([ok_row(0), error_row(1)])
    run.append([ok_row(2)])
    record = RunRecord.from_json((tmp_path / "run.json").read_bytes())
    reader = RunDirectory(CompactedWhileRead(tmp_path, str(tmp_path)), record)
    assert reader.rows()["index"].to_pylist() == [0, 1, 2]
    assert len(list((tmp_path / "points").iterdir())) == 1


class CompactedWhileListed(LocalStorage):
    """A folder listed in pages, in which another process merges all parts after the page that the new one is on."""

    compacted = False

    def file_sizes(self, folder: str) -> dict[str, int]:
        first_page: dict[str, int] = {}
        if not self.compacted:
            self.compacted = True
            RunDirectory.open(self.location).compact()
            return first_page  # the old parts would have been on the second
        return super().file_sizes(folder)


def test_reader_survives_compaction_during_listing(start, ok_row, tmp_path) -> None:
    run = start(tmp_path)
    for index in (0, 1):
        run.append([ok_row(index)])
    record = RunRecord.from_json((tmp_path / "run.json").read_bytes())
    reader = RunDirectory(CompactedWhileListed(tmp_path, str(tmp_path)), record)
    assert reader.finished() == {0, 1}


class ListsWhatIsGone(LocalStorage):
    """A folder whose listing never catches up, as a stale network mount's."""

    def file_sizes(self, folder: str) -> dict[str, int]:
        return {**super().file_sizes(folder), "part-gone.parquet": 1}


def test_part_that_is_listed_but_never_there_ends_in_a_message(start, tmp_path) -> None:
    start(tmp_path)
    record = RunRecord.from_json((tmp_path / "run.json").read_bytes())
    reader = RunDirectory(ListsWhatIsGone(tmp_path, str(tmp_path)), record)
    with pytest.raises(RunDirectoryError, match="parts kept coming and vanishing"):
        reader.finished()


def test_read_only_run_can_be_read_with_its_damage_skipped(start, ok_row, open_folder, unprivileged) -> None:
    path = open_folder / "run"
    run = start(path)
    run.append([ok_row(0)])
    (path / "points" / "part-cut.parquet").write_bytes(b"PAR1")
    for folder in (path, path / "points"):
        folder.chmod(0o555)
    said = unprivileged("run = RunDirectory.open(sys.argv[1])\nprint(run.finished(), run.rows().num_rows)", path)
    assert said == ["{0} 1"]


def test_appending_without_permission_names_path_and_reason(start, open_folder, unprivileged) -> None:
    path = open_folder / "run"
    start(path)
    (path / "points").chmod(0o555)
    script = """
from datetime import UTC, datetime
now = datetime.now(UTC)
run = RunDirectory.open(sys.argv[1])
try:
    run.append([{**dict.fromkeys(["index", "attempt"], 0), "status": "error", "error": "e", "finished_at": now}])
except RunDirectoryError as error:
    print(error)
"""
    (message,) = unprivileged(script, path)
    assert message.startswith(f"{path}: cannot write 1 rows to points/ (Permission denied); ")
    assert list((path / "points").iterdir()) == []


def test_continuing_without_permission_is_refused_and_changes_nothing(start, open_folder, unprivileged) -> None:
    path = open_folder / "run"
    run = start(path)
    path.chmod(0o555)
    before = (path / "run.json").read_bytes()
    script = """
run = RunDirectory.open(sys.argv[1])
try:
    RunDirectory.create_or_continue(sys.argv[1], run.job, run.fingerprint, run.points, {})
except RunDirectoryError as error:
    print(error)
"""
    (message,) = unprivileged(script, path)
    assert message.startswith(f"{path}: cannot write run.json (Permission denied)")
    assert (path / "run.json").read_bytes() == before
    assert run.sessions == RunDirectory.open(path).sessions


def test_part_that_may_not_be_read_is_an_error_and_no_damage(start, ok_row, open_folder, unprivileged) -> None:
    path = open_folder / "run"
    start(path).append([ok_row(0)])
    (part,) = (path / "points").iterdir()
    part.chmod(0)
    for folder in (path, path / "points"):
        folder.chmod(0o777)
    script = """
run = RunDirectory.open(sys.argv[1])
for attempt in (run.rows, lambda: RunDirectory.create_or_continue(sys.argv[1], {}, run.fingerprint, {}, {})):
    try:
        attempt()
    except RunDirectoryError as error:
        print("Permission denied" in str(error))
"""
    assert unprivileged(script, path) == ["True", "True"]
    assert part.exists()
