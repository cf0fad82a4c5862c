"""run.json: what a run was asked for, when, and on what, as text and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from srs_ray.runs.fingerprint import ABSENT, differences, digest
from srs_ray.runs.printable import printable_json
from srs_ray.runs.schema import READABLE_VERSIONS, SCHEMA_VERSION

Json = dict[str, Any]

REHEARSED = "rehearsed"
"""In a session: digests of the model's logits on fixed noise, by the kind of worker that gave them."""

_TYPES = {"job": dict, "fingerprint": dict, "created_at": str, "points": dict, "sessions": list}
_SECTIONS = ("model", "data", "noise", "sampling", "certificate", "execution", "report")


class UnreadableRecordError(Exception):
    """The text is no run.json that this version reads; the message says why and what to do."""


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json; `fingerprint` maps dotted settings to values, `sessions` has one entry per start."""

    job: Json
    fingerprint: Json
    created_at: str
    points: Json
    sessions: list[Json]

    def continued(self, job: Json, points: Json, session: Json) -> RunRecord:
        """The record once a further session has started: job and points are the newest, sessions are all kept."""
        return replace(self, job=job, points=points, sessions=[*self.sessions, session])

    def to_json(self) -> str:
        """The text of run.json. Raises TypeError or ValueError for what JSON does not have."""
        document = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        document["fingerprint"] = {"digest": digest(self.fingerprint), "settings": self.fingerprint}
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: bytes) -> RunRecord:
        """Raises UnreadableRecordError where the text is broken, edited in its fingerprint, or of another version."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            why = "nested too deep" if isinstance(error, RecursionError) else error
            raise UnreadableRecordError(f"not JSON ({why}); restore it from a copy") from error
        if not isinstance(document, dict) or "schema_version" not in document:
            raise UnreadableRecordError("it names no schema_version; restore it from a copy")
        version = document["schema_version"]
        if version not in READABLE_VERSIONS:
            raise UnreadableRecordError(
                f"its schema version is {version!r}, this srs-ray reads up to {SCHEMA_VERSION}; "
                "use the srs-ray that wrote it"
            )
        for key, kind in _TYPES.items():
            if not isinstance(document.get(key), kind):
                raise UnreadableRecordError(f"{key} is absent or no {kind.__name__}; restore it from a copy")
        _check_values(document)
        settings = document["fingerprint"].get("settings")
        if not isinstance(settings, dict) or digest(settings) != document["fingerprint"].get("digest"):
            raise UnreadableRecordError("the fingerprint's digest is not that of its settings; restore it from a copy")
        # The fingerprint stays as it is, because it is compared; whoever shows some of it makes that printable.
        return RunRecord(**{**{key: printable_json(document[key]) for key in _TYPES}, "fingerprint": settings})


def _check_values(document: Json) -> None:
    """Raises UnreadableRecordError where points or a section of the job are not what their readers rest on."""
    points = document["points"]
    for name in ("start", "stop", "every"):
        if name in points and (type(points[name]) is not int or not (name == "every") <= points[name] < 2**62):
            raise UnreadableRecordError(f"points.{name} is {points[name]!r}; restore it from a copy")
    for name in _SECTIONS:
        section = document["job"].get(name, {})
        if not isinstance(section, dict):
            raise UnreadableRecordError(f"job.{name} is {section!r}, no section; restore it from a copy")


def session_changes(sessions: list[Json]) -> list[str]:
    """One line per thing that a session did differently from the one before it, whatever its rows promise.

    Of rehearsals only those of kinds of workers that both sessions had.
    """
    notes = []
    for number, (before, after) in enumerate(pairwise(sessions), start=2):
        for name, was, now in differences(_flat(before), _flat(after)):
            compared = not name.startswith(f"{REHEARSED}.") or ABSENT not in (was, now)
            if name != "started_at" and compared:
                notes.append(f"session {number} ({after.get('started_at')}): {name} changed from {was} to {now}")
    return notes


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Json:
    flat: Json = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
