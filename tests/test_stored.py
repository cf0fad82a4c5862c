"""Jobs and runs of srs-ray 0.1.0, kept in `stored/`: later programs read them, and go on with them.

`fingerprints.json` has jobs as they were written, resolved, and their fingerprints (less the entries `left_out`, where
data or weights are not in the repository). `runs/` has run directories that were stopped halfway on a CPU; in
`expected.json` are the rows that the same program drew of their whole jobs.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from srs_ray.analysis import certified_accuracy, comparison_table, load_points, recertify
from srs_ray.data.digits import Digits
from srs_ray.errors import RunDirectoryError
from srs_ray.job import Job
from srs_ray.models.mdeq.architectures import architecture
from srs_ray.models.mdeq.checkpoints import random_weights, read_weights
from srs_ray.models.opening import ArchitectureSource
from srs_ray.runner.backend import InProcess
from srs_ray.runner.certification import certify
from srs_ray.runner.preparation import JobInputs, fingerprint_of
from srs_ray.runs import RunDirectory
from srs_ray.runs.fingerprint import digest

STORED = Path(__file__).resolve().parent / "stored"
JOBS: dict[str, dict[str, Any]] = json.loads((STORED / "fingerprints.json").read_text())
RUNS: dict[str, dict[str, Any]] = json.loads((STORED / "expected.json").read_text())

# Columns of a row that are the same on every machine; those of which one of another kind may count a sample or two
# differently, where logits tie within rounding; and what follows from the counts. A tie could also end a point at
# another look (`n`, `stopped`): of these points it ended none, by another batch or another instruction set.
FIXED = ("index", "label", "status", "selected", "predicted", "correct", "n0", "n", "method", "stopped", "audit_share")
FIXED += ("look_n", "sigma", "dtype", "batch", "attempt")
TALLIES = (("selection_classes", "selection_counts"), ("classes", "counts"))
COUNTS = ("audited", "disagreed", "look_hits", "look_audited", "look_disagreed", "fallbacks", "unconverged")
SINCE_3 = ("audited_misses", "found")  # which older rows do not have
EVALUATIONS = ("function_evaluations", "reference_evaluations")
BOUNDS = ("p_lower", "radius")
TIES = 2


@pytest.fixture(autouse=True)
def _beside_the_stored_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored jobs name `digits.parquet` from here."""
    monkeypatch.chdir(STORED)


# Large weights are drawn, and the digits read, but once.
random_weights_of = functools.lru_cache(random_weights)
digits_as = functools.lru_cache(Digits)


def fingerprint_now(job: Job, device: str, left_out: list[str]) -> dict[str, Any]:
    """The job's fingerprint as a run on that kind of device gets it, with stand-ins for what is left out of it."""
    inputs = JobInputs.read(job) if not left_out else inputs_with_stand_ins(job, left_out)
    floats = "philox4x64" if device == "cpu" else "philox4x32"  # what such a run was begun with, and goes on with
    found = json.loads(json.dumps(fingerprint_of(inputs.resolve(device, floats), inputs.source)))
    return {name: value for name, value in found.items() if not name.startswith(tuple(left_out))}


def inputs_with_stand_ins(job: Job, left_out: list[str]) -> JobInputs:
    arch = job.model.arch
    weights = random_weights_of(arch) if "model.weights." in left_out else read_weights(job.model.weights)
    return JobInputs(
        job, ArchitectureSource(arch, weights), None, digits_as("test", architecture(arch).input_shape), range(0)
    )


CHAINS_OF_AUTO = ("chains", "steps", "warmup_steps")  # which chose chains before version 8


def without_chains_of_auto(resolved: dict[str, Any]) -> dict[str, Any]:
    """A resolved job without the settings that `auto` had, and defaults for, while it chose chains."""
    if resolved["sampling"]["method"] != "auto":
        return resolved
    sampling = {name: value for name, value in resolved["sampling"].items() if name not in CHAINS_OF_AUTO}
    return {**resolved, "sampling": sampling}


def changes(stored: Any, now: Any, name: str = "job") -> list[str]:
    """What is no longer as it was stored; a setting that has come since, and is not set, is no change."""
    if not (isinstance(stored, dict) and isinstance(now, dict)):
        return [] if stored == now else [f"{name}: {stored!r} has become {now!r}"]
    found = [f"{name}.{key}: is gone" for key in stored.keys() - now.keys()]
    found += [f"{name}.{key}: has come, as {now[key]!r}" for key in now.keys() - stored.keys() if now[key] is not None]
    return found + [line for key in stored.keys() & now.keys() for line in changes(stored[key], now[key], key)]


@pytest.mark.parametrize("name", JOBS)
def test_a_stored_job_resolves_as_it_did_and_so_does_what_it_resolved_to(name: str) -> None:
    stored = JOBS[name]
    for raw in (stored["raw"], stored["resolved"]):
        resolved = Job.model_validate(raw).model_dump(mode="json")
        assert changes(*map(without_chains_of_auto, (stored["resolved"], resolved))) == []


@pytest.mark.parametrize("name", JOBS)
def test_a_stored_job_has_the_fingerprint_that_it_had(name: str) -> None:
    stored = JOBS[name]
    assert digest(stored["fingerprint"]) == stored["digest"]
    found = fingerprint_now(Job.model_validate(stored["raw"]), stored["device"], stored["left_out"])
    if stored["resolved"]["sampling"]["method"] == "auto":
        own = ("sampling.version", *(f"sampling.{name}" for name in CHAINS_OF_AUTO))
        assert (stored["fingerprint"]["sampling.version"], found["sampling.version"]) == (6, 8)
        stored, found = ({k: v for k, v in of.items() if k not in own} for of in (stored["fingerprint"], found))
        assert changes(stored, found) == [], "nothing else has changed"
        return
    assert changes(stored["fingerprint"], found, "fingerprint") == []
    assert digest(found) == stored["digest"]


def test_every_stored_run_is_expected_to_go_on() -> None:
    assert {path.name for path in (STORED / "runs").iterdir()} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_stored_run_opens_with_its_rows_and_certifies_what_it_did(name: str) -> None:
    run, expected = RunDirectory.open(STORED / "runs" / name), RUNS[name]
    points = range(run.points["start"], run.points["stop"], run.points["every"])
    rows = {row["index"]: row for row in run.rows().to_pylist()}
    assert list(rows) == list(points)
    for row in expected["rows"]:
        if row["index"] in rows:
            assert {column: rows[row["index"]][column] for column in row} == row, "that is stored, not drawn again"
    df = load_points(STORED / "runs" / name)
    assert df["index"].tolist() == list(points)
    table = certified_accuracy(df, expected["radii"])
    assert table["certified"].tolist() == expected["certified"]["stored"]


@pytest.mark.parametrize("name", RUNS)
def test_the_table_of_a_stored_run_shows_what_it_certified(name: str) -> None:
    expected, df = RUNS[name], load_points(STORED / "runs" / name)
    lines = comparison_table([df], expected["radii"]).splitlines()
    line = next(line for line in lines if line.split()[:1] == [name])
    for certified in expected["certified"]["stored"]:
        assert f" {100 * certified / len(df):.1f} " in line
    job = RunDirectory.open(STORED / "runs" / name).job
    assert job["certificate"]["kind"] in line


@pytest.mark.parametrize("name", RUNS)
def test_the_certificates_of_a_stored_run_come_out_again_from_its_counts(name: str) -> None:
    df = load_points(STORED / "runs" / name)
    again = recertify(df)
    for column in BOUNDS:
        assert again[column].tolist() == pytest.approx(df[column].tolist(), rel=1e-12, abs=1e-12, nan_ok=True)
    assert again["predicted"].equals(df["predicted"])
    assert again["correct"].equals(df["correct"])


@pytest.mark.parametrize("name", RUNS)
def test_a_stored_run_goes_on_with_the_rows_that_it_would_have_drawn(name: str, tmp_path: Path) -> None:
    shutil.copytree(STORED / "runs" / name, tmp_path / name)
    before, expected = RunDirectory.open(tmp_path / name), RUNS[name]
    if before.job["sampling"]["method"] == "auto":
        pytest.skip("auto samples otherwise since version 8: a test below shows how it is refused")
    kept = {row["index"]: row for row in before.rows().to_pylist() if row["status"] == "ok"}
    data = {**before.job["data"], "stop": expected["stop"]}
    job = Job.model_validate({**before.job, "data": data, "output": str(tmp_path / name)})

    summary = certify(job, lambda: InProcess(job.execution), Console(file=io.StringIO()))

    done = [row for row in expected["rows"] if row["status"] == "ok"]
    asked = len(expected["rows"])
    assert (summary.asked, summary.done, summary.finished) == (asked, len(done), len(done) - len(kept))
    after = RunDirectory.open(tmp_path / name)
    assert after.sessions[:-1] == before.sessions
    rows = after.rows().to_pylist()
    assert [row["index"] for row in rows] == [row["index"] for row in expected["rows"]]
    for row, would_be in zip(rows, expected["rows"], strict=True):
        if row["index"] in kept:
            assert row == kept[row["index"]]
        else:
            assert differences_of_rows(row, would_be) == []
    found = certified_accuracy(load_points(tmp_path / name), expected["radii"])["certified"].tolist()
    assert found == expected["certified"]["continued"]


def test_a_stored_run_of_auto_is_called_what_it_was() -> None:
    assert "auto SRS 1A / 30A" in comparison_table([load_points(STORED / "runs" / "auto-looks")], [0.0])


def test_a_stored_run_of_auto_is_refused_by_the_version_that_samples_otherwise(tmp_path: Path) -> None:
    shutil.copytree(STORED / "runs" / "auto-looks", tmp_path / "run")
    before = RunDirectory.open(tmp_path / "run").job
    job = Job.model_validate({**before, "output": str(tmp_path / "run")})
    with pytest.raises(
        RunDirectoryError, match=r"sampling.version: 6 there, 8 now; .*\); this srs-ray draws other samples"
    ):
        certify(job, lambda: InProcess(job.execution), Console(file=io.StringIO()))


def differences_of_rows(row: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The columns of two rows that differ by more than ties: bits depend on the kind of CPU, and with them such counts.

    Where no count differs, no bound does.
    """
    differing = [name for name in FIXED if row[name] != expected[name]]
    counts = [*COUNTS, *(name for name in SINCE_3 if name in expected)]
    differing += [name for name in counts if not close(listed(row[name]), listed(expected[name]))]
    for classes, numbers in TALLIES:
        found, stored = tally(row, classes, numbers), tally(expected, classes, numbers)
        every = sorted({*found, *stored})
        if not close([found.get(c, 0) for c in every], [stored.get(c, 0) for c in every]):
            differing.append(numbers)
    differing += [name for name in EVALUATIONS if not near(row[name], expected[name], 0.01)]
    if all(row[name] == expected[name] for name in (*counts, *itertools.chain(*TALLIES))):
        differing += [name for name in BOUNDS if not near(row[name], expected[name], 1e-12)]
    return [f"{name} of point {row['index']}: {row[name]}, expected {expected[name]}" for name in differing]


def close(found: list[int], expected: list[int]) -> bool:
    return len(found) == len(expected) and all(abs(a - b) <= TIES for a, b in zip(found, expected, strict=True))


def near(found: float | None, expected: float | None, relative: float) -> bool:
    return found == (expected if expected is None else pytest.approx(expected, rel=relative, abs=1e-12))


def listed(value: Any) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]


def tally(row: dict[str, Any], classes: str, counts: str) -> dict[int, int]:
    return dict(zip(listed(row[classes]), listed(row[counts]), strict=True))
