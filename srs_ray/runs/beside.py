"""Runs beside a run that drew the same noise: what they showed may have led to the settings of this one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from srs_ray.errors import RunDirectoryError
from srs_ray.lipschitz.settings import LIPSCHITZ
from srs_ray.runs.directory import RunDirectory
from srs_ray.runs.fingerprint import ABSENT, differences
from srs_ray.runs.record import Json
from srs_ray.runs.storage import open_storage

_SAME_NOISE = ("execution.seed", "noise.generator")
_BASE_CLASSIFIER = ("model.", "data.", "sampling.reference.")
_BASE_CLASSIFIER_MAY_LACK = ("sampling.reference.start",)  # which is absent where solves start from zero
_CERTIFICATE = "certificate.kind"
_ANOTHER_WAY = "sampling.method"  # a comparison, which is planned before either run


@dataclass(frozen=True)
class SameNoise:
    """A run with results on the noise that another is to draw; `differing` has setting, its value there, the other's.

    Settings that were chosen by such results are not covered by alpha: docs/statistics.md.
    """

    path: str
    differing: list[tuple[str, Any, Any]]


def runs_on_the_same_noise(path: str, fingerprint: Json) -> list[SameNoise]:
    """Runs in the folder that holds `path`, with the model, data and seed of `fingerprint`, of another n, K or
    certificate, that have rows; a run at `path` that is older than one of these was not chosen by it.

    What cannot be read is left out.
    """
    started = None
    with suppress(RunDirectoryError):
        own = RunDirectory.find(path)
        started = None if own is None else own.created_at
    found = []
    for other in open_storage(path).beside():
        with suppress(Exception):  # whatever lies there
            run = RunDirectory.find(other)
            if run is None or (started is not None and run.created_at >= started):
                continue
            differing = _chosen_otherwise(run.fingerprint, fingerprint)
            if differing and run.finished():
                found.append(SameNoise(run.path, differing))
    return found


def _chosen_otherwise(there: Json, here: Json) -> list[tuple[str, Any, Any]]:
    """The settings of sampling and certificate that differ; none where noise, base classifier or method do."""
    if LIPSCHITZ in (there.get(_CERTIFICATE), here.get(_CERTIFICATE)):  # which draws no noise
        return []
    changes = differences(there, here)
    if any(
        name in _BASE_CLASSIFIER_MAY_LACK
        or ((name in (*_SAME_NOISE, _ANOTHER_WAY) or name.startswith(_BASE_CLASSIFIER)) and ABSENT not in (was, now))
        for name, was, now in changes
    ):
        return []
    return [
        (name, was, now)
        for name, was, now in changes
        if name.startswith(("sampling.", "certificate.")) and name != "sampling.version"
    ]
