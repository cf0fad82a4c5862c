"""Run directories from anybody: settings that no run has, files that fill the memory, links, secrets, neighbours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srs_ray.analysis import load_points
from srs_ray.errors import RunDirectoryError
from srs_ray.runs import RunDirectory, runs_on_the_same_noise
from srs_ray.runs import parts as parts_module
from srs_ray.runs.claims import Claims
from srs_ray.runs.fingerprint import digest
from srs_ray.runs.schema import ROW_SCHEMA
from srs_ray.smoothing.noise import GENERATORS, noise_generator

STORED = Path(__file__).resolve().parents[1] / "stored" / "runs"
HOSTILE = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "hostile"
needs_cases = pytest.mark.skipif(not HOSTILE.is_dir(), reason="shared/cases is not there")
Row = dict[str, Any]


def edit_record(run: Path, change: Any, *, sealed: bool = False) -> None:
    """run.json with a change made; `sealed`: its fingerprint's digest made to fit."""
    document = json.loads((run / "run.json").read_text())
    change(document)
    if sealed:
        document["fingerprint"]["digest"] = digest(document["fingerprint"]["settings"])
    (run / "run.json").write_text(json.dumps(document))


def dictionary_bomb(table: pa.Table, fingerprint: bytes, length: int) -> bytes:
    """The table with one text for all rows, which a file holds but once."""
    text = pa.array(["x" * length]).dictionary_encode()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * len(table), pa.int32()), text.dictionary)
    place = table.column_names.index("worker")
    bomb = table.set_column(place, "worker", column.cast(pa.string()))
    sink = pa.BufferOutputStream()
    pq.write_table(bomb.replace_schema_metadata(table.schema.metadata), sink)
    return sink.getvalue().to_pybytes()


def unreadable(run: Path, part: Path) -> str:
    directory = RunDirectory.open(run)
    with pytest.raises(parts_module.UnreadablePartError) as error:
        parts_module.decode_part(pa.py_buffer(part.read_bytes()), digest(directory.fingerprint), ROW_SCHEMA.names)
    return str(error.value)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED / "srs-exact", tmp_path / "run"))


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["job"]["noise"].update(sigma=2.0),
        lambda document: document["job"]["certificate"].update(alpha=0.5),
        lambda document: document["job"]["sampling"].update(n=10**6),
        lambda document: document["job"]["model"].update(arch="mdeq-small-cifar10"),
        lambda document: document["job"]["data"].update(kind="cifar10"),
    ],
)
def test_a_job_that_is_not_its_fingerprints_is_refused(run: Path, change: Any) -> None:
    edit_record(run, change)
    with pytest.raises(RunDirectoryError, match=r"in its fingerprint, .* in its job"):
        load_points(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [("noise.deviation", -0.4), ("certificate.alpha", 2), ("certificate.kind", "magic"), ("sampling.n.more", 1),
     ("noise.sigma", "wide"), ("sampling.method", 7), ("sampling", 3), ("certificate", [])],
)  # fmt: skip
def test_a_fingerprint_that_gives_counts_no_meaning_is_refused(run: Path, name: str, value: Any) -> None:
    edit_record(run, lambda document: document["fingerprint"]["settings"].update({name: value}), sealed=True)
    with pytest.raises(RunDirectoryError, match="fingerprint"):
        load_points(run)


@needs_cases
def test_texts_that_would_fill_the_memory_and_points_without_end_are_read_in_little() -> None:
    assert len(load_points(HOSTILE / "memory" / "string-bomb")) == 24
    assert len(load_points(HOSTILE / "memory" / "points-stop")) == 24


def test_a_text_that_is_long_only_when_it_is_written_out_is_found_before_that(run: Path) -> None:
    part = min((run / "points").glob("*.parquet"))
    table = pq.read_table(part)
    whole = pa.concat_tables([table] * 200)
    part.write_bytes(dictionary_bomb(whole, b"", 1_000_000))
    assert part.stat().st_size < 5_000_000
    reason = unreadable(run, part)
    assert "worker holds texts longer than a run writes" in reason


@pytest.mark.parametrize("limit", ["LARGEST_FILE", "MOST_ROWS", "LARGEST_EXPANDED"])
def test_a_part_larger_than_any_of_a_run_is_damaged(run: Path, monkeypatch, limit: str) -> None:
    monkeypatch.setattr(parts_module, limit, 0)
    assert "part of a run" in unreadable(run, min((run / "points").glob("*.parquet")))


def test_want_of_memory_is_no_damage(run: Path, monkeypatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    before = sorted(path.name for path in run.rglob("*"))
    monkeypatch.setattr(parts_module.pq.ParquetFile, "read", refuse)
    directory = RunDirectory.open(run)
    with pytest.raises(RunDirectoryError, match=r"too little memory for a part of .* nothing was changed"):
        directory.rows()
    with pytest.raises(RunDirectoryError, match="too little memory"):
        RunDirectory.create_or_continue(run, directory.job, directory.fingerprint, directory.points, {})
    assert sorted(path.name for path in run.rglob("*")) == before


@pytest.mark.parametrize("name", ["points", "quarantine", "run.json"])
def test_what_is_a_link_is_read_and_never_written_through(run: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    if (run / name).exists():
        (run / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
        (elsewhere / "kept").write_text("mine")
    (run / name).symlink_to(elsewhere)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file())
    assert len(load_points(run)) == 3
    directory = RunDirectory.open(run)
    for write in (
        directory.compact,
        lambda: RunDirectory.create_or_continue(run, directory.job, directory.fingerprint, directory.points, {}),
    ):
        with pytest.raises(RunDirectoryError, match=f"{name} is a link to somewhere else"):
            write()
    assert sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/run?X-Amz-Signature=abcdef",
        "abfss://container@account.dfs.core.windows.net/run?sv=2022&sig=abc%2Fdef",
        "gs://bucket/run?GoogleAccessId=someone",
        "s3://bucket/run?region=eu-west-1&sig=abcdef",
    ],
)
def test_a_uri_with_a_signature_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(RunDirectoryError, match=r"must not carry credentials.*Options that it may have: ") as refusal:
        RunDirectory.open(uri)
    assert "abc" not in str(refusal.value)
    assert "someone" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"noise.deviation": 0.0}, "noise.deviation"),
        ({"noise.deviation": 1e-12}, "draws no noise on the image grid"),
        ({"noise.deviation": 1e-12, "noise.generator": None}, "draws no noise on the image grid"),
        ({"noise.sigma": 1e-323}, "noise.sigma"),
        ({"sampling.version": "x"}, "sampling.version"),
        ({"sampling.n": 10**400}, "sampling.n is 10"),
    ],
)
def test_settings_that_no_run_has_are_refused_in_no_time(run: Path, change: Row, complaint: str) -> None:
    record = json.loads((run / "run.json").read_text())
    settings = record["fingerprint"]["settings"] | change
    record["fingerprint"] = {"digest": digest(settings), "settings": settings}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunDirectoryError, match=complaint):
        RunDirectory.open(run)


@pytest.mark.parametrize(
    ("section", "names", "dropped"),
    [
        ("model", {"import": "others.py:Best", "input_shape": [1, 16, 16], "classes": 10}, ()),
        ("model", {"arch": "mdeq-large-cifar10"}, ("model.arch",)),
        ("data", {"kind": "cifar10", "split": "test"}, ("data.kind", "data.split")),
        ("data", {"import": "others.py:Images"}, ("data.kind",)),
    ],
)
def test_a_model_or_data_that_the_fingerprint_does_not_name_are_refused(run: Path, section, names, dropped) -> None:
    record = json.loads((run / "run.json").read_text())
    if "import" in names:
        record["job"][section].pop("arch", None)
    record["job"][section] |= names
    settings = {name: value for name, value in record["fingerprint"]["settings"].items() if name not in dropped}
    record["fingerprint"] = {"digest": digest(settings), "settings": settings}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunDirectoryError, match="contradicts itself"):
        load_points(run)


def test_a_time_that_there_is_not_is_damage_and_lists_without_end_are_not_read(run: Path) -> None:
    part = min((run / "points").glob("*.parquet"))
    table = pq.read_table(part)
    place = table.schema.get_field_index("finished_at")
    never = pa.array([2**62] * len(table), pa.int64()).cast(table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), never), part)
    assert "a value that there is not" in str(RunDirectory.open(run).faults())
    rows = table.to_pylist()
    rows[0] |= {"classes": [1] * 5_000_000}
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
    assert "lists longer than a run writes" in str(RunDirectory.open(run).faults())


def test_what_lies_beside_a_run_keeps_it_from_nothing(run: Path) -> None:
    fingerprint = RunDirectory.open(run).fingerprint
    for name, text in (("deep", "[" * 950 + "]" * 950), ("none", "{}")):
        (run.parent / name).mkdir()
        (run.parent / name / "run.json").write_text(text)
    (run.parent / "tiny").mkdir()
    record = json.loads((run / "run.json").read_text())
    settings = record["fingerprint"]["settings"] | {"noise.sigma": 1e-323}
    record["fingerprint"] = {"digest": digest(settings), "settings": settings}
    (run.parent / "tiny" / "run.json").write_text(json.dumps(record))
    assert runs_on_the_same_noise(str(run.parent / "new"), fingerprint | {"certificate.alpha": 0.5})


def test_only_noise_on_the_grid_has_a_deviation_and_is_named_so() -> None:
    for name in GENERATORS:
        generator = noise_generator(name, "cpu")
        assert (generator.law(0.5, 3072).deviation > 0) is generator.name.startswith("grid")


def test_a_row_of_a_model_with_21841_classes_is_read(start, ok_row, tmp_path) -> None:
    classes = list(range(21_841))
    run = start(tmp_path)
    run.append([ok_row(index, classes=classes, counts=[1] * len(classes)) for index in (0, 20)])
    assert RunDirectory.open(tmp_path).rows(["classes"]).to_pylist()[1]["classes"] == classes


def test_a_part_with_far_more_rows_than_the_run_has_points_is_damaged(run: Path, monkeypatch) -> None:
    monkeypatch.setattr(Claims, "most_rows", 0)
    assert "far more than the run has points" in RunDirectory.open(run).faults()[0]
    monkeypatch.undo()
    claims = Claims.by(RunDirectory.open(run).fingerprint)
    assert claims is not None
    assert claims.most_rows == parts_module.ROWS_OF_A_PART
