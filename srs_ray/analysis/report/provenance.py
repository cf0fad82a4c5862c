"""Where a run came from: weights and their card, data, the job's text, sessions, devices and versions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from srs_ray.analysis.run_info import RunInfo
from srs_ray.regular_files import read_regular
from srs_ray.runs.directory import RunDirectory
from srs_ray.runs.fingerprint import digest
from srs_ray.runs.printable import printable, printable_json

LARGEST_CARD = 16 * 2**20  # bytes
LONGEST_JOB = 20_000  # characters of the job's text
LONGEST_VALUE = 200
_OF_A_CARD = {
    "architecture": "architecture",
    "sigma": "noise of the training",
    "data": "trained on",
    "evaluation": "evaluated on",
    "epochs": "epochs",
    "hours": "hours of training",
    "device": "device",
    "noisy_accuracy": "accuracy under noise, by solver steps",
    "chain_agreement": "agreement of chains with the base classifier",
    "start": "stored start",
    "initial_weights": "initial weights",
    "seed": "seed",
    "command": "command",
    "versions": "versions",
    "note": "note",
}

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """What the file beside the weights says of them; `missing` says why there is nothing."""

    facts: Mapping[str, Any]
    lines: Pairs
    missing: str = ""


@dataclass(frozen=True)
class Provenance:
    """What a reader needs to trace a run; all text is printable."""

    weights: str  # as the job names them
    weights_digest: str
    card: Card
    data: Pairs
    sessions: list[dict[str, str]]
    notes: list[str]
    retried: int  # points that needed more than one attempt
    first: str
    last: str
    seed: str
    fingerprint: str
    settings: Pairs
    job: str
    job_is_whole: bool
    commands: list[str]


def provenance_of(directory: RunDirectory, df: pd.DataFrame, info: RunInfo, card: Card, output: str) -> Provenance:
    """From a run directory and its points; `output` is the report's own name in the last command."""
    job, fingerprint = directory.job, directory.fingerprint
    text = yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    whole = len(text) <= LONGEST_JOB
    data = {name: value for name, value in job.get("data", {}).items() if name not in ("start", "stop", "every")}
    of_data = {name.partition(".")[2]: value for name, value in fingerprint.items() if name.startswith("data.")}
    digests = {f"{name} (fingerprint)": value for name, value in of_data.items() if name not in data}
    ended = df["finished_at"].max() if len(df) else None
    return Provenance(
        weights=_short(job.get("model", {}).get("weights") or "none named: the model's code makes its own"),
        weights_digest=_short(fingerprint.get("model.weights.digest", "not recorded")),
        card=card,
        data=_pairs({name: value for name, value in data.items() if value is not None} | digests),
        sessions=[_session(number, session) for number, session in enumerate(directory.sessions, start=1)],
        notes=[_short(note) for note in directory.notes],
        retried=int((df["attempt"] > 1).sum()),
        first=directory.created_at,
        last="no row yet" if ended is None else ended.isoformat(timespec="seconds"),
        seed=_short(fingerprint.get("execution.seed", job.get("execution", {}).get("seed", "not recorded"))),
        fingerprint=digest(fingerprint),
        settings=_pairs(dict(sorted(fingerprint.items()))),
        job="\n".join(map(printable, text[:LONGEST_JOB].splitlines())) + ("" if whole else "\n..."),
        job_is_whole=whole,
        commands=commands_of(directory.path, info, output),
    )


def read_card(job: Mapping[str, Any], weights_digest: object) -> Card:
    """The card beside the weights of the job: shipped ones by their name, others by their path with the suffix .json.

    It counts only if it names the digest of the fingerprint. Weights are not read.
    """
    named = job.get("model", {}).get("weights")
    if not isinstance(named, str) or not named:
        return Card({}, [], "the job names no weights file")
    shipped = Path(__file__).resolve().parents[2] / "models" / "pretrained" / f"{named}.json"
    try:
        place = shipped if "/" not in named and shipped.is_file() else Path(named).with_suffix(".json")
        facts = json.loads(read_regular(place.expanduser(), LARGEST_CARD))
    except (OSError, ValueError, RuntimeError, RecursionError):
        return Card({}, [], f"no readable card lies beside the weights {_short(named)}")
    if not isinstance(facts, dict) or weights_digest is None or facts.get("digest") != weights_digest:
        return Card({}, [], f"the card beside {_short(named)} is of other weights")
    facts = printable_json(facts)
    lines = [(title, _short(facts[name])) for name, title in _OF_A_CARD.items() if facts.get(name) is not None]
    return Card(facts, lines)


def commands_of(path: str, info: RunInfo, output: str) -> list[str]:
    """How to certify the points again, check them, and make this report."""
    again = shlex.quote(f"{path.rstrip('/')}-again" if "://" not in path else "again")
    here = shlex.quote(printable(path))
    return [
        f"srs-ray certify job.yaml --output {again}  # job.yaml: the job's text, above",
        f"srs-ray aggregate {here} {again}",
        f"srs-ray verify {here} --points {min(5, max(1, info.asked))}",
        f"srs-ray report {here} --output {shlex.quote(printable(output))}",
    ]


def _session(number: int, session: Mapping[str, Any]) -> dict[str, str]:
    versions = session.get("versions")
    accelerators = session.get("accelerators")
    return {
        "number": str(number),
        "started": _short(session.get("started_at", "")),
        "device": _short(session.get("device", "")),
        "workers": _short(session.get("workers", "")),
        "batch": _short(session.get("batch", "")),
        "accelerators": _short(accelerators) if accelerators else "",
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items())[:400]
        if isinstance(versions, Mapping)
        else "",
    }


def _pairs(values: Mapping[str, Any]) -> Pairs:
    return [(_short(name), _short(value)) for name, value in values.items()]


def _short(value: Any) -> str:
    """A JSON value as one printable line, cut where it is long."""
    if isinstance(value, Mapping):
        text = ", ".join(f"{name}: {_short(each)}" for name, each in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(map(_short, value[:20])) + (f", ... ({len(value):,} in all)" if len(value) > 20 else "")
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    text = printable(text)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}\N{HORIZONTAL ELLIPSIS}"
