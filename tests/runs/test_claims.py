"""Rows that claim other than their counts give: from a stranger, or edited. No reader counts them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srs_ray.analysis import load_points
from srs_ray.runs import RunDirectory
from srs_ray.runs.claims import Claims, p_lower_of

STORED = Path(__file__).resolve().parents[1] / "stored" / "runs"
HOSTILE = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "hostile"
needs_cases = pytest.mark.skipif(not HOSTILE.is_dir(), reason="shared/cases is not there")
RUNS = sorted(path.name for path in STORED.iterdir())
BY_LOOKS = ("anchored-two-sided-looks", "auto-looks", "srs-looks", "standard-mixture")

Row = dict[str, Any]


def rows_of(run: Path) -> list[Row]:
    return RunDirectory.open(run).rows().to_pylist()


def claims_of(run: Path) -> Claims:
    claims = Claims.by(RunDirectory.open(run).fingerprint)
    assert claims is not None
    return claims


@pytest.mark.parametrize("name", RUNS)
def test_rows_of_every_kind_of_run_are_what_their_counts_say(name: str) -> None:
    rows = rows_of(STORED / name)
    assert rows
    assert claims_of(STORED / name).fault(rows) is None


FORGED: dict[str, Any] = {
    "a larger radius": lambda row: {"radius": 5.0},
    "an infinite radius": lambda row: {"radius": math.inf},
    "no radius": lambda row: {"radius": math.nan},
    "a larger bound, and its radius": lambda row: {"p_lower": 0.999, "radius": row["sigma"] * 3.09},
    "a radius above 0 by a hair": lambda row: {"radius": 1e-12 if row["radius"] == 0 else 0.0},
    "a class certified by a hair": lambda row: {
        "p_lower": row["p_lower"] if row["radius"] == 0 else 0.0,
        "radius": 1e-12,
        "predicted": row["selected"],
        "correct": row["selected"] == row["label"],
    },
    "another class": lambda row: {"predicted": (row["predicted"] + 2) % 10},
    "a class where it abstains": lambda row: (
        {"predicted": row["selected"]} if row["predicted"] < 0 else {"predicted": -1}
    ),
    "right where it is wrong": lambda row: {"correct": not row["correct"]},
    "another sigma": lambda row: {"sigma": 2 * row["sigma"]},
    "more samples than were drawn": lambda row: {"n": row["n"] + 1},
    "fewer selection samples": lambda row: {"n0": row["n0"] - 1},
    "another candidate": lambda row: {"selected": (row["selected"] + 1) % 10},
    "counts that do not sum to n": lambda row: {"counts": [row["counts"][0] - 1, *row["counts"][1:]]},
    "a class twice": lambda row: {"classes": row["classes"] * 2, "counts": row["counts"] * 2},
    "an index that there is not": lambda row: {"index": 10**6},
    "an index below 0": lambda row: {"index": -1},
    "no attempt": lambda row: {"attempt": None},
    "seconds without end": lambda row: {"seconds": math.inf},
    "a status of its own": lambda row: {"status": "fine"},
    "no results": lambda row: {"p_lower": None},
    "negative evaluations": lambda row: {"function_evaluations": -1},
    "evaluations without end": lambda row: {"function_evaluations": 2**62},
    "seconds beyond all time": lambda row: {"seconds": 1e14},
    "a batch of nothing": lambda row: {"batch": 0},
    "no label, and right": lambda row: {"label": None, "correct": True},
    "a label that is none, and right": lambda row: {"label": -7, "correct": True, "predicted": row["selected"]},
    "an error with a result": lambda row: {"status": "error", "error": "broken"},
    "another method": lambda row: {"method": "dice"},
    "more denied than audited": lambda row: {"disagreed": row["audited"] + 1},
    "fewer denied than none": lambda row: {"disagreed": -5},
    "misses that nobody audits": lambda row: {"audited_misses": 10**6, "found": 10**6},
}


@pytest.mark.parametrize("forgery", FORGED)
@pytest.mark.parametrize("name", ["srs-exact", "standard-cohen", "srs-looks", "anchored-two-sided-looks"])
def test_each_forgery_is_found_and_its_point_named(name: str, forgery: str) -> None:
    rows = rows_of(STORED / name)
    for number, row in enumerate(rows):
        forged = row | FORGED[forgery](row)
        found = claims_of(STORED / name).fault([*rows[:number], forged, *rows[number + 1 :]])
        assert found is not None
        assert f"point {forged['index']} " in found


def test_counts_of_the_audit_and_of_looks_are_part_of_the_claim() -> None:
    for name in ("srs-exact", "srs-looks"):
        claims = claims_of(STORED / name)
        for row in rows_of(STORED / name):
            if row["disagreed"] and row["p_lower"] > 0:
                looks = {} if row["look_n"] is None else {"look_disagreed": [0] * len(row["look_n"])}
                assert claims.fault([row | {"disagreed": 0} | looks]) is not None
    claims, (row, *_) = claims_of(STORED / "srs-exact"), rows_of(STORED / "srs-exact")
    assert "audited" in str(claims.fault([row | {"audited": 10 * row["audited"]}]))
    claims, rows = claims_of(STORED / "srs-looks"), rows_of(STORED / "srs-looks")
    assert all(claims.fault([row | {"audit_share": 0.0}]) is not None for row in rows), "or no audit would be due"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED / "srs-exact", tmp_path / "run"))


def edit_part(run: Path, **columns: Any) -> Path:
    """The run's first part with these columns of its first row replaced."""
    part = min((run / "points").glob("*.parquet"))
    table = pq.read_table(part)
    rows = table.to_pylist()
    rows[0] |= columns
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
    return part


def test_a_forged_part_is_skipped_by_readers_and_set_aside_by_a_run_that_goes_on(run: Path, caplog) -> None:
    whole = load_points(run)
    part = edit_part(run, radius=5.0, p_lower=0.9999)
    left = load_points(run)
    assert len(left) < len(whole)
    assert left["radius"].max() < 5.0
    assert f"{part.name} skipped: its row of point" in caplog.text
    directory = RunDirectory.open(run)
    assert directory.finished() == set(left["index"])
    continued = RunDirectory.create_or_continue(
        run, directory.job, directory.fingerprint, directory.points, {"started_at": "2026-01-01T00:00:00+00:00"}
    )
    assert [path.name for path in (run / "quarantine").iterdir()] == [part.name]
    assert continued.finished() == set(left["index"])


BAD_ROWS = ("attempt-null", "counts-short", "radius-inf", "results-null", "seconds-inf")


@needs_cases
@pytest.mark.parametrize("case", ["forged-radius", *(f"rows/{name}" for name in BAD_ROWS)])
def test_no_case_of_bad_rows_is_counted(case: str, caplog) -> None:
    df = load_points(HOSTILE / case)
    assert not len(df)
    assert "not what its counts say" in caplog.text


def test_parts_are_merged_without_a_forged_one_which_would_take_them_along(run: Path) -> None:
    directory = RunDirectory.open(run)
    first, *_ = directory.rows().to_pylist()
    for index in (first["index"] + 1, first["index"] + 2):
        directory.append([first | {"index": index}])
    part = edit_part(run, radius=5.0)
    kept = RunDirectory.open(run).finished()
    RunDirectory.open(run).compact()
    assert part.exists()
    assert RunDirectory.open(run).finished() == kept
    assert len(kept) >= 2


def settled(row: Row, claims: Claims) -> Row:
    """The row with the bound, radius, class and correctness that its counts give."""
    bound = p_lower_of(row, claims.smoothing)
    radius = claims.smoothing.radius(bound)
    predicted = row["selected"] if radius > 0 else -1
    return row | {
        "p_lower": bound, "radius": radius, "predicted": predicted,
        "correct": predicted >= 0 and predicted == row["label"],
    }  # fmt: skip


def hits_of(row: Row) -> int:
    return dict(zip(row["classes"], row["counts"], strict=True)).get(row["selected"], 0)


def fewer_audits(row: Row) -> Row:
    return {"audited": row["audited"] - row["disagreed"], "disagreed": 0}


def every_miss_found(row: Row) -> Row:
    misses = row["n"] - hits_of(row)
    return {"audited": min(100, hits_of(row)), "disagreed": 0, "audited_misses": misses, "found": misses}


def every_hit_audited(row: Row) -> Row:
    hits = row["look_hits"]
    audits = {"look_audited": hits, "look_disagreed": [0] * len(hits), "audited": hits_of(row), "disagreed": 0}
    return audits if hits else {"look_n": [row["n"]], "look_hits": [1]}


def more_hits_than_samples(row: Row) -> Row:
    """After its first looks no sample is left for all these hits."""
    if len(row["look_n"]) < 2 or row["look_hits"][0] == row["look_n"][0]:
        return every_hit_audited(row)
    looks = [name for name in row if name.startswith("look_") and row[name] is not None]
    return {name: row[name][:1] for name in looks} | {"classes": [row["selected"]], "counts": [row["n"]]}


def by_no_audit(row: Row) -> Row:
    looks = {"look_audited": [0] * len(row["look_n"]), "look_disagreed": [0] * len(row["look_n"])}
    return looks | {"method": "anchored", "steps": 1, "audit_share": 0.0, "audited": 0, "disagreed": 0}


@pytest.mark.parametrize(
    ("name", "forgery"),
    [
        ("srs-exact", fewer_audits),
        ("grid-two-sided", every_miss_found),
        ("srs-looks", every_hit_audited),
        ("srs-looks", more_hits_than_samples),
    ],
)
def test_counts_that_no_run_of_these_settings_has_are_found_with_all_that_follows_from_them(name, forgery) -> None:
    claims = claims_of(STORED / name)
    for row in rows_of(STORED / name):
        assert claims.fault([settled(row | forgery(row), claims)]) is not None


def test_a_row_of_auto_is_of_what_auto_chooses_among() -> None:
    fingerprint = RunDirectory.open(STORED / "auto-looks").fingerprint
    claims = Claims.by(fingerprint | {"sampling.version": 8})
    assert claims is not None
    (row, *_) = [row for row in rows_of(STORED / "auto-looks") if row["method"] == "standard"]
    assert claims.fault([row]) is None
    for forgery in (by_no_audit, lambda row: {"method": "srs"}, lambda row: {"steps": 1}):
        assert claims.fault([settled(row | forgery(row), claims)]) is not None
