"""Run directories with known counts, written as the runner writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from srs_ray.job import Job
from srs_ray.runs.directory import RunDirectory
from srs_ray.smoothing.bounds import Evidence
from srs_ray.smoothing.radius import certified_radius

STARTED = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)


def job_of(
    method: str,
    kind: str,
    alpha: float,
    n: int,
    audit: int,
    sigma: float,
    own: dict[str, Any] | None = None,
    target_radii: Sequence[float] | None = None,
) -> dict[str, Any]:
    """A job as run.json keeps it, every default filled in."""
    serialized = {"chains": 400, "solver": "anderson", "steps": 3, "warmup_steps": 10} if method == "srs" else {}
    job = Job.model_validate(
        {
            "model": {"arch": "mdeq-small-cifar10", "weights": "weights/small.safetensors"},
            "data": {"kind": "cifar10", "path": "data", "split": "test", "every": 20},
            "noise": {"sigma": sigma},
            "sampling": {"method": method, "n0": 100, "n": n, "target_radii": target_radii, **serialized},
            "certificate": {
                "kind": kind,
                "alpha": alpha,
                **({"audit": audit} if method == "srs" and target_radii is None else {}),
                **(own or {}),
            },
            "report": {"radii": [0.0, 0.25, 0.5]},
            "output": "runs/small",
        }
    )
    return job.model_dump(mode="json")


def result(point: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """The result columns of a point with `selected`, `hits` and `disagreed`; the other samples say one class more."""
    srs = job["sampling"]["method"] == "srs"
    selected, label = point["selected"], point["label"]
    # Where selection's winner is 'no class' the sampler abstains and draws no estimation samples.
    n, hits = (0, 0) if selected == -1 else (job["sampling"]["n"], point["hits"])
    own = Job.model_validate(job).certificate
    audited, of_misses = own.audits.expected(hits, n - hits) if srs else (0, 0)
    disagreed, found = min(point.get("disagreed", 0), audited), min(point.get("found", 0), of_misses)
    seen = Evidence(n, hits, audited, disagreed, of_misses, found)
    bound = Job.model_validate(job).smoothing.plan.p_lower([seen]) if n else 0.0
    said = {c: count for c, count in ((-1, 1), (selected, hits), (selected + 1, n - hits - 1)) if count > 0}
    if hits == n:
        said = {selected: n}
    predicted = selected if bound > 0.5 else -1
    return {
        "predicted": predicted,
        "radius": certified_radius(bound, job["noise"]["sigma"]),
        "correct": predicted == label,
        "selected": selected,
        "p_lower": bound,
        "n0": job["sampling"]["n0"],
        "n": n,
        "selection_classes": [selected],
        "selection_counts": [job["sampling"]["n0"]],
        "classes": list(said) if n else [],
        "counts": list(said.values()) if n else [],
        "audited": audited,
        "disagreed": disagreed,
        **({"audited_misses": of_misses, "found": found} if own.bound.misses else {}),
        "function_evaluations": 3 * (job["sampling"]["n0"] + n),
        "reference_evaluations": 12 * (audited + of_misses),
        "fallbacks": 2,
        "unconverged": 1,
        **looks_of(seen, job),
    }


def looks_of(seen: Evidence, job: dict[str, Any]) -> dict[str, Any]:
    """Of a run by looks: the one at which its points ended, after all n samples."""
    if job["sampling"]["target_radii"] is None or not seen.n:
        return {}
    own = Job.model_validate(job).certificate
    counts = {"look_n": [seen.n], "look_hits": [seen.hits], "look_audited": [seen.audited]}
    counts["look_disagreed"] = [seen.disagreed]
    if own.bound.misses:
        counts |= {"look_audited_misses": [seen.audited_misses], "look_found": [seen.found]}
    return {"method": job["sampling"]["method"], "stopped": "spent", "audit_share": own.audits.share, **counts}


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a run of the given points, 0, every, 2 every, ...; a point with `error` has no result.

    With `target_radii` it is one by looks; `data` is the content that its fingerprint names.
    """

    def write(
        name: str,
        points: Sequence[dict[str, Any]],
        method: str = "srs",
        kind: str = "exact",
        alpha: float = 0.001,
        n: int = 1000,
        audit: int = 100,
        sigma: float = 0.5,
        start: int = 0,
        stop: int | None = None,
        every: int = 20,
        own: dict[str, Any] | None = None,
        target_radii: Sequence[float] | None = None,
        data: str | None = None,
    ) -> Path:
        job = job_of(method, kind, alpha, n, audit, sigma, own, target_radii)
        rows = [
            {
                "index": every * i,
                "label": point["label"],
                "status": "error" if "error" in point else "ok",
                "error": point.get("error"),
                **{name: point[name] for name in ("source", "class_name", "pixels") if name in point},
                **({} if "error" in point else result(point, job)),
                "sigma": sigma,
                "seconds": 2.0,
                "worker": "worker-0",
                "device": "cpu",
                "dtype": "float32",
                "batch": 400,
                "attempt": 1,
                "finished_at": STARTED + timedelta(minutes=i + 1),
            }
            for i, point in enumerate(points)
        ]
        run = RunDirectory.create_or_continue(
            tmp_path / name,
            job=job,
            fingerprint={
                **Job.model_validate(job).smoothing.fingerprint(),
                "model.arch": job["model"]["arch"],
                "data.kind": job["data"]["kind"],
                "data.split": job["data"]["split"],
                **({} if data is None else {"data.content": data, "data.preprocessing": name}),
            },
            points={"start": start, "stop": every * len(points) if stop is None else stop, "every": every},
            session={"started_at": STARTED.isoformat(), "versions": {"torch": "2.15.0"}, "device": "cpu", "batch": 400},
        )
        run.append(rows)
        return tmp_path / name

    return write


@pytest.fixture
def points() -> list[dict[str, Any]]:
    """Five outcomes: two certified and right, one certified and wrong, one abstained, one in error."""
    return [
        {"label": 3, "selected": 3, "hits": 990, "disagreed": 0},
        {"label": 5, "selected": 5, "hits": 800, "disagreed": 1},
        {"label": 1, "selected": 7, "hits": 950, "disagreed": 0},
        {"label": 2, "selected": 2, "hits": 510, "disagreed": 3},
        {"label": None, "error": "PointError: row 80 of cifar10-test.parquet: truncated image"},
    ]
