"""`srs-ray verify`: what a row claims, and whether certifying its point again gives the same."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srs_ray import cli
from srs_ray.analysis.verification import verify_run
from srs_ray.errors import RunDirectoryError, SrsRayError, WeightsError
from srs_ray.runs import RunDirectory
from srs_ray.runs.claims import Claims, p_lower_of
from srs_ray.runs.fingerprint import digest

STORED = Path(__file__).resolve().parents[1] / "stored" / "runs"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED / "srs-exact", tmp_path / "run"))


def polish(run: Path) -> int:
    """Makes a point's samples all hits, with the bound and the radius that such counts give; the point's index."""
    claims = Claims.by(RunDirectory.open(run).fingerprint)
    assert claims is not None
    for part in sorted((run / "points").glob("*.parquet")):
        table = pq.read_table(part)
        rows = table.to_pylist()
        for row in rows:
            if row["status"] == "ok" and row["correct"] and row["counts"] != [row["n"]]:
                row |= {"classes": [row["selected"]], "counts": [row["n"]], "disagreed": 0}
                row["p_lower"] = p_lower_of(row, claims.smoothing)
                row["radius"] = claims.smoothing.radius(row["p_lower"])
                pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
                return int(row["index"])
    raise AssertionError("no row to polish")


@pytest.mark.parametrize("name", sorted(path.name for path in STORED.iterdir() if path.name != "standard-parquet"))
def test_every_kind_of_run_holds_and_comes_out_the_same_on_the_processor_that_made_it(name):
    found = verify_run(STORED / name)
    assert found.holds
    assert found.done
    assert found.faults == ()
    assert found.certificate
    assert "1 - alpha" in found.guarantee or "UNSOUND" in found.guarantee


@pytest.fixture
def certified(digits_job, run_in_process) -> Path:
    """A run of this machine's."""
    job = digits_job()
    run_in_process(job)
    return Path(job.output)


def test_counts_that_were_polished_with_all_that_follows_from_them_are_found_by_certifying_again(certified):
    assert verify_run(certified, points=99).holds
    index = polish(certified)
    assert verify_run(certified).holds, "the row is what its counts say"
    found = verify_run(certified, points=99)
    assert not found.holds
    (bad,) = [each for each in found.repeated if not each.equal]
    assert bad.index == index
    assert {"classes", "counts"} <= set(bad.differing)
    assert bad.explained == "", "this very processor made the run"
    assert f"point {index}: another classes, counts" in str(bad)


def test_a_difference_on_another_processor_is_explained_and_does_not_hold_all_the_same(certified):
    index = polish(certified)
    record = json.loads((certified / "run.json").read_text())
    record["sessions"][0]["rehearsed"] = {"Abacus 1, batch 3, float32": "0"}
    (certified / "run.json").write_text(json.dumps(record))
    found = verify_run(certified, points=99)
    (bad,) = [each for each in found.repeated if not each.equal]
    assert (bad.index, found.holds) == (index, False)
    assert "this processor is none of the run's" in bad.explained


def test_points_are_drawn_by_the_seed_or_by_nobody_knows_what(certified):

    def drawn(seed):
        return [each.index for each in verify_run(certified, points=2, seed=seed).repeated]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(None)) for _ in range(8)} | {tuple(drawn(1))}) > 1


def test_other_weights_data_or_settings_are_refused_by_name(certified):
    with pytest.raises(WeightsError, match="these weights fit mdeq-small-cifar10"):
        verify_run(certified, points=1, weights="mdeq-small-cifar10-sigma50")
    record = json.loads((certified / "run.json").read_text())
    settings = record["fingerprint"]["settings"] | {"execution.seed": 1}
    record["fingerprint"] = {"digest": digest(settings), "settings": settings}
    (certified / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunDirectoryError, match=r"execution\.seed: 1 in the run, 0 here"):
        verify_run(certified, points=1)


def test_code_that_a_run_names_is_not_run_unasked(run, tmp_path, monkeypatch):
    record = json.loads((run / "run.json").read_text())
    record["job"]["data"] |= {"kind": "import", "import": "os:mkdir", "args": {"path": str(tmp_path / "ran")}}
    record["fingerprint"]["settings"] |= {"data.kind": "import", "data.import": "os:mkdir"}
    del record["fingerprint"]["settings"]["data.split"]
    record["fingerprint"]["digest"] = digest(record["fingerprint"]["settings"])
    for part in (run / "points").glob("*.parquet"):
        part.unlink()
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(SrsRayError, match=r"data\.import: os:mkdir.*allow it with --run-code"):
        verify_run(run, points=1)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("section", "value", "complaint"),
    [
        ("execution", {"workers": -3}, "execution.workers"),
        ("sampling", {"method": "dice"}, "run.json holds no job: sampling"),
        ("data", {"kind": "imagefolder", "path": "x", "classes": "/etc/passwd"}, "data.classes names a file"),
        ("output", 5, "run.json holds no job: output"),
    ],
)
def test_a_job_that_is_none_is_one_message(run, section, value, complaint):
    record = json.loads((run / "run.json").read_text())
    before = record["job"][section]
    record["job"][section] = before | value if isinstance(value, dict) else value
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunDirectoryError, match=complaint):
        verify_run(run)


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["srs-ray", "verify", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out + err


def test_the_command_says_what_holds_and_what_does_not(run, monkeypatch, capsys):
    code, said = command(monkeypatch, capsys, str(run))
    assert code == 0
    assert "say what their counts give" in said
    assert said.rstrip().endswith("holds")
    code, said = command(monkeypatch, capsys, str(run), "--points", "2", "--seed", "1", "--format", "json")
    assert json.loads(said)["holds"] is (code == 0)
    assert [each["index"] for each in json.loads(said)["repeated"]]
    part = min((run / "points").glob("*.parquet"))
    rows = pq.read_table(part)
    radius = rows.schema.get_field_index("radius")
    pq.write_table(rows.set_column(radius, rows.schema.field(radius), pa.array([5.0] * len(rows))), part)
    code, said = command(monkeypatch, capsys, str(run))
    assert code == 1
    assert "is not what its counts say: " in said
    assert said.rstrip().endswith("does not hold")
    code, said = command(monkeypatch, capsys, str(run / "nowhere"))
    assert code == 2
    assert "no run here" in said


def rewrite(part: Path, change) -> None:
    table = pq.read_table(part)
    pq.write_table(pa.Table.from_pylist([row | change(row) for row in table.to_pylist()], schema=table.schema), part)


def test_a_label_that_is_missing_is_found_and_so_are_two_rows_of_a_point_that_differ(run):
    (first, *_) = sorted((run / "points").glob("*.parquet"))
    second = first.with_name("part-of-somebody.parquet")
    shutil.copy(first, second)
    assert verify_run(run).holds, "the same rows twice"
    rewrite(second, lambda row: {"reference_evaluations": row["reference_evaluations"] + 1})
    found = verify_run(run)
    assert not found.holds
    assert "two rows of it differ in reference_evaluations" in found.faults[-1]
    second.unlink()
    rewrite(first, lambda row: {"label": None, "correct": True})
    assert "no value for label" in verify_run(run).faults[0]


def test_nothing_that_could_be_certified_again_is_no_proof(run):
    for part in (run / "points").glob("*.parquet"):
        part.unlink()
    assert verify_run(run).holds
    assert not verify_run(run, points=5).holds


def test_weights_and_data_that_would_be_left_aside_are_refused(run):
    with pytest.raises(SrsRayError, match="say how many"):
        verify_run(run, weights="mdeq-tiny-digits-sigma25")
    with pytest.raises(SrsRayError, match="have no path"):
        verify_run(run, points=1, data="images.parquet")
