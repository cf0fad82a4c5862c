"""run.json: what a run was asked for, when, and on what, as text and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from math import isfinite
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from srs_ray.runs.attack_schema import ATTACKS
from srs_ray.runs.fingerprint import ABSENT, differences, digest
from srs_ray.runs.printable import printable, printable_json
from srs_ray.runs.row_format import RowFormat
from srs_ray.runs.schema import CERTIFICATES

Json = dict[str, Any]

FORMATS = (CERTIFICATES, ATTACKS)
REHEARSED = "rehearsed"
"""In a session: digests of the model's logits on fixed noise, by the kind of worker that gave them."""


_OF_EACH_START = ("started_at", "command")  # in a session: what differs from start to start without meaning
_DEEPEST = 50  # levels of nesting


class _Part(BaseModel):
    """What readers rest on in a part of run.json; whatever else it holds is kept."""

    model_config = ConfigDict(extra="allow", strict=True)


def _a_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


_Time = Annotated[str, AfterValidator(_a_time)]
_Whole = Annotated[int, Field(ge=0, lt=2**62)]


class _Points(_Part):
    start: _Whole = 0
    stop: _Whole = 0
    every: Annotated[int, Field(ge=1, lt=2**62)] = 1


class _Session(_Part):
    started_at: _Time | None = None


class _Model(_Part):
    arch: str | None = None
    import_: str | None = Field(None, alias="import")


class _Data(_Model):
    kind: str | None = None
    split: str | None = None


class _Noise(_Part):
    sigma: float | None = Field(None, gt=0)


class _Method(_Part):
    method: str | None = None


class _Report(_Part):
    radii: list[Annotated[float, Field(ge=0)]] | None = Field(None, max_length=1000)


class _Job(_Part):
    model: _Model = _Model()
    data: _Data = _Data()
    noise: _Noise = _Noise()
    sampling: _Method = _Method()
    certificate: _Part = _Part()
    execution: _Part = _Part()
    report: _Report = _Report()


class _Fingerprint(_Part):
    digest: str
    settings: Json


class _Document(_Part):
    job: _Job
    fingerprint: _Fingerprint
    created_at: _Time
    points: _Points
    sessions: list[_Session]


class UnreadableRecordError(Exception):
    """The text is no run.json that this version reads; the message says why and what to do."""


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json; `fingerprint` maps dotted settings to values, `sessions` has one entry per start.

    `form` is what rows the run has.
    """

    job: Json
    fingerprint: Json
    created_at: str
    points: Json
    sessions: list[Json]
    form: RowFormat = CERTIFICATES

    def continued(self, job: Json, points: Json, session: Json) -> RunRecord:
        """The record once a further session has started: job and points are the newest, sessions are all kept."""
        return replace(self, job=job, points=points, sessions=[*self.sessions, session])

    def to_json(self) -> str:
        """The text of run.json. Raises TypeError or ValueError for what JSON does not have."""
        document = {
            "schema_version": self.form.version,
            "job": self.job,
            "fingerprint": {"digest": digest(self.fingerprint), "settings": self.fingerprint},
            "created_at": self.created_at,
            "points": self.points,
            "sessions": self.sessions,
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: bytes, forms: Sequence[RowFormat] = (CERTIFICATES,)) -> RunRecord:
        """Raises UnreadableRecordError where the text is broken, edited in its fingerprint, of another version, or of a
        run whose rows are of none of these formats."""
        try:
            document = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            why = "nested too deep" if isinstance(error, RecursionError) else error
            raise UnreadableRecordError(f"not JSON ({why}); restore it from a copy") from error
        if _depth_of(document) > _DEEPEST:
            raise UnreadableRecordError("nested too deep; restore it from a copy")
        if not isinstance(document, dict) or "schema_version" not in document:
            raise UnreadableRecordError("it names no schema_version; restore it from a copy")
        version = document["schema_version"]
        form = next((each for each in FORMATS if version in each.readable), None)
        if form is None:
            raise UnreadableRecordError(
                f"its schema version is {version!r}, this srs-ray reads up to {CERTIFICATES.version}; "
                "use the srs-ray that wrote it"
            )
        if form not in forms:
            raise UnreadableRecordError(
                f"it holds rows of `{form.made_by}`, expected those of `{forms[0].made_by}`: give a directory of these"
                + ("; `aggregate` and `plot` take this one by --attack" if form is ATTACKS else "")
            )
        try:
            _Document.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = printable(".".join(map(str, first["loc"])))
            message = first["msg"].removeprefix("Value error, ")
            found = "" if first["type"] == "missing" else f", found {first['input']!r:.80}"
            raise UnreadableRecordError(f"{place}: {message}{found}; restore it from a copy") from error
        settings = document["fingerprint"]["settings"]
        if digest(settings) != document["fingerprint"]["digest"]:
            raise UnreadableRecordError("the fingerprint's digest is not that of its settings; restore it from a copy")
        # The fingerprint stays as it is, because it is compared; whoever shows some of it makes that printable.
        shown = {key: printable_json(document[key]) for key in ("job", "created_at", "points", "sessions")}
        return RunRecord(**shown, fingerprint=settings, form=form)


def _depth_of(document: Any) -> int:
    """How many levels of lists and mappings there are."""
    depth, level = 0, [document]
    while level and depth <= _DEEPEST:
        depth += 1
        held = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [value for values in held for value in values]
    return depth


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text:.40} is beyond every number")
    return value


def session_changes(sessions: list[Json]) -> list[str]:
    """One line per thing that a session did differently from the one before it, whatever its rows promise.

    Of rehearsals only those of kinds of workers that both sessions had.
    """
    notes = []
    for number, (before, after) in enumerate(pairwise(sessions), start=2):
        for name, was, now in differences(_flat(before), _flat(after)):
            compared = not name.startswith(f"{REHEARSED}.") or ABSENT not in (was, now)
            if name not in _OF_EACH_START and compared:
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
