"""Mutated run directories, weights and job files: a message or a result that recomputation confirms, never a traceback.

Nothing may take a gigabyte more than there was, nor ten seconds.
"""

from __future__ import annotations

import copy
import io
import json
import math
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srs_ray.analysis import cohen_export, comparison_table, load_points, points_export, recertify
from srs_ray.analysis.run_info import report_radii
from srs_ray.analysis.status import run_status, status_text
from srs_ray.analysis.verification import verify_run
from srs_ray.errors import SrsRayError
from srs_ray.job_file import load_job, load_train_job
from srs_ray.models.mdeq.checkpoints import describe, read_weights
from srs_ray.models.weights import shipped_weights
from srs_ray.runs import RunDirectory
from srs_ray.runs.schema import ROW_SCHEMA

STORED = Path(__file__).resolve().parent / "stored" / "runs"
JOBS = Path(__file__).resolve().parent.parent / "jobs"
PRETRAINED = Path(__file__).resolve().parent.parent / "srs_ray" / "models" / "pretrained"
GIGABYTE, SECONDS = 2**30, 10

DELETED = object()
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([10**30, -(2**63), 2**63 - 1, 1e308, 5e-324, "\x1b]0;x\x07", "\ud800", "a.b", "1/3", "s3://k:s@b"]),
)  # fmt: skip
JUNK = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=3), SCALARS, max_size=2),
    st.just([[]]),
    st.just(DELETED),
)


def profile(examples: int) -> Any:
    """The same examples on every machine; `-m slow` draws hundreds, and others each time (6 minutes)."""
    return settings(
        max_examples=examples,
        derandomize=examples < 100,
        database=None,
        deadline=1000 * SECONDS,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def memory(name: str) -> int:
    """Bytes of this process by a line of Linux' status file: VmRSS now, VmHWM at its highest, VmSize of addresses."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@contextmanager
def within_a_gigabyte() -> Iterator[None]:
    """A failure for whoever takes more, and MemoryError for whoever takes far more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew
    resident = memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + 8 * GIGABYTE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert memory("VmHWM") - resident < GIGABYTE


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists and mappings."""
    if place:
        yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def changed(document: Any, place: tuple[Any, ...], junk: Any) -> Any:
    document = copy.deepcopy(document)
    *above, last = place
    held = document
    for key in above:
        held = held[key]
    if junk is DELETED:
        del held[last]
    else:
        held[last] = junk
    return document


def read(run: Path) -> None:
    """All that reads a run; what is certified is what the counts give."""
    df = load_points(run)
    radii = report_radii(RunDirectory.open(run).job)
    for form in ("table", "markdown", "latex", "csv", "json"):
        comparison_table([df], radii, form)
    cohen_export(df)
    points_export(df)
    status_text(run_status(run))
    again = recertify(df)
    assert np.allclose(again["radius"], df["radius"], equal_nan=True)
    assert (again["predicted"].fillna(-9) == df["predicted"].fillna(-9)).all()
    assert (again["correct"].fillna(False) == df["correct"].fillna(False)).all()
    verify_run(run)


def survives(do: Any) -> None:
    """That it works, or says what is wrong."""
    with within_a_gigabyte(), suppress(SrsRayError):
        do()


RUNS = ("srs-exact", "anchored-two-sided-looks", "standard-mixture")


def fuzz_run_json(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(RUNS))
    document = json.loads((STORED / name / "run.json").read_text())
    place = data.draw(st.sampled_from(list(places(document))))
    mutated = json.dumps(changed(document, place, data.draw(JUNK)))
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(mutated)))
        mutated = mutated[:cut] + data.draw(st.text(max_size=3)) + mutated[cut:]
    run = tmp_path / name
    if not run.exists():
        shutil.copytree(STORED / name, run)
    (run / "run.json").write_bytes(mutated.encode(errors="surrogatepass"))
    survives(lambda: read(run))


def fuzz_rows(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(RUNS))
    run = tmp_path / name
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(STORED / name, run)
    part = data.draw(st.sampled_from(sorted((run / "points").glob("*.parquet"))))
    table = pq.read_table(part)
    rows = table.to_pylist()
    for _ in range(data.draw(st.integers(1, 3))):
        column = data.draw(st.sampled_from(table.schema.names))
        row = data.draw(st.sampled_from(rows))
        others = [each[column] for each in rows]
        row[column] = data.draw(st.one_of(values_of(ROW_SCHEMA.field(column).type), st.sampled_from(others)))
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), part)
    if data.draw(st.integers(0, 3)) == 0:
        part.write_bytes(damaged(part.read_bytes(), data))
    survives(lambda: read(run))


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values of a column's type, or null."""
    if pa.types.is_list(kind):
        return st.one_of(st.none(), st.lists(values_of(kind.value_type), max_size=4))
    if pa.types.is_integer(kind):
        most = 2 ** (kind.bit_width - 1) - 1
        return st.one_of(st.none(), st.integers(-2, 20), st.integers(-most, most))
    if pa.types.is_floating(kind):
        return st.one_of(st.none(), st.floats(0, 1), st.floats(), st.sampled_from([math.inf, math.nan, 5.0]))
    if pa.types.is_boolean(kind):
        return st.one_of(st.none(), st.booleans())
    if pa.types.is_timestamp(kind):
        return st.one_of(st.none(), st.integers(-(2**62), 2**62))
    return st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=8), st.just("ok"))


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """With a few bytes changed, or an end cut off."""
    changed = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    return bytes(changed[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else changed)


def fuzz_job_files(tmp_path: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(JOBS.glob("*.yaml"))))
    document = yaml.safe_load(path.read_text())
    place = data.draw(st.sampled_from(list(places(document))))
    junk = data.draw(JUNK)
    file = tmp_path / "job.yaml"
    if data.draw(st.booleans()):
        text = yaml.dump(changed(document, place, junk))
        file.write_text(text, errors="surrogatepass")
    else:
        file.write_bytes(damaged(path.read_bytes(), data))
    survives(lambda: (load_train_job if "train" in path.name else load_job)(file))


def fuzz_weights(tmp_path: Path, data: st.DataObject) -> None:
    source = PRETRAINED / "mdeq-tiny-digits-sigma25.safetensors"
    content = source.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if data.draw(st.booleans()):
        place = data.draw(st.sampled_from(list(places(header))))
        text = json.dumps(changed(header, place, data.draw(JUNK))).encode(errors="surrogatepass")
        mutated = len(text).to_bytes(8, "little") + text + content[8 + length :]
    else:
        mutated = damaged(content, data)
    file = tmp_path / f"w.{data.draw(st.sampled_from(['safetensors', 'pth']))}"
    file.write_bytes(mutated)
    survives(lambda: describe(read_weights(file)))


def fuzz_checkpoints(tmp_path: Path, data: st.DataObject) -> None:
    import torch

    kept = io.BytesIO()
    junk = data.draw(JUNK)
    torch.save({"state_dict": {"w": torch.arange(6.0).view(2, 3)}, "epoch": None if junk is DELETED else junk}, kept)
    (tmp_path / "w.pth").write_bytes(damaged(kept.getvalue(), data))
    survives(lambda: describe(read_weights(tmp_path / "w.pth")))


KINDS = [fuzz_run_json, fuzz_rows, fuzz_job_files, fuzz_weights, fuzz_checkpoints]


@pytest.mark.parametrize("fuzz", KINDS, ids=lambda fuzz: fuzz.__name__)
@given(data=st.data())
@profile(25)
def test_what_is_mutated_gives_a_message_or_what_its_counts_say(tmp_path_factory, fuzz, data):
    fuzz(tmp_path_factory.mktemp("fuzz"), data)


@pytest.mark.slow
@pytest.mark.parametrize("fuzz", KINDS, ids=lambda fuzz: fuzz.__name__)
@given(data=st.data())
@profile(400)
def test_hundreds_of_mutations_of_each_kind(tmp_path_factory, fuzz, data):
    fuzz(tmp_path_factory.mktemp("fuzz"), data)


def test_the_weights_that_are_mutated_are_whole():
    assert "mdeq-tiny-digits-sigma25" in shipped_weights()
    describe(read_weights(PRETRAINED / "mdeq-tiny-digits-sigma25.safetensors"))
    for name in RUNS:
        read(STORED / name)
