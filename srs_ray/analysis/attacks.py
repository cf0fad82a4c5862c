"""Attacked accuracy: the share of points that attacks did not break, a ceiling beside the floor of certificates."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from srs_ray.analysis.accuracy import certified_accuracy, clopper_pearson_interval
from srs_ray.analysis.points import frame_of
from srs_ray.analysis.radii import Radius, parse_radii
from srs_ray.analysis.run_info import RunInfo
from srs_ray.attacks.settings import AttackSettings
from srs_ray.errors import RunDirectoryError, SrsRayError
from srs_ray.runs.attack_schema import ATTACKS
from srs_ray.runs.directory import RunDirectory
from srs_ray.runs.fingerprint import digest
from srs_ray.runs.printable import printable

ATTRIBUTE = "attack"  # the key in `df.attrs`
OF = ("smoothed", "base")
_CERTIFIED, _SETTINGS = "certified.", "attack."  # before the settings of the run, and of the attack, in a fingerprint


@dataclass(frozen=True)
class AttackInfo:
    """An attack's place, the digest of the attacked run's fingerprint, its radii and its settings."""

    path: str
    run_digest: str
    radii: list[float]
    settings: dict[str, Any]

    @classmethod
    def of(cls, df: pd.DataFrame) -> AttackInfo:
        """The attack that a frame came from; SrsRayError for another frame."""
        if ATTRIBUTE not in df.attrs:
            raise SrsRayError("the frame holds no attacks (df.attrs has no 'attack'): pass a frame of load_attacks")
        return cls(**df.attrs[ATTRIBUTE])

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the attacks that were tried."""
        return tuple(self.settings.get("kinds", ()))

    def describe(self) -> str:
        """The settings in words."""
        of = self.settings
        starts = "1 start" if of.get("restarts") == 1 else f"{of.get('restarts')} starts"
        return (
            f"{' and '.join(self.kinds)}, l2, {of.get('steps')} steps, {starts}, "
            f"{of.get('draws')} noise draws a step, {of.get('states')} states; found images checked by "
            f"{of.get('n_check')} fresh samples, at most {of.get('alpha')} false for each point"
        )


@dataclass(frozen=True)
class AttackedAt:
    """Attacked accuracy at one radius, of the smoothed classifier: a ceiling, with its 95 % interval over points."""

    radius: float
    radius_label: str
    attacked_accuracy: float | None
    low: float
    high: float
    unbroken: int
    points: int

    def text(self) -> str:
        """In percent."""
        share = "n/a" if self.attacked_accuracy is None else f"{100 * self.attacked_accuracy:.1f}"
        return f"{share} [{100 * self.low:.0f}, {100 * self.high:.0f}]"


def load_attacks(path: str | os.PathLike[str]) -> pd.DataFrame:
    """One row for each attacked point, with the columns of `srs_ray.runs.attack_schema`, sorted by index.

    `df.attrs["attack"]` holds the attack's settings; `AttackInfo.of(df)` gives them typed. Raises RunDirectoryError
    where there is no readable directory of attacks.
    """
    directory = RunDirectory.open(path, (ATTACKS,))
    df = frame_of(directory)
    fingerprint: Mapping[str, Any] = directory.fingerprint
    settings = _settings_of(directory)
    of_run = {
        name.removeprefix(_CERTIFIED): value for name, value in fingerprint.items() if name.startswith(_CERTIFIED)
    }
    radii = [float(radius) for radius in settings.radii or ()]
    df.attrs[ATTRIBUTE] = asdict(AttackInfo(directory.path, digest(of_run), radii, settings.model_dump(mode="json")))
    return df


def _settings_of(directory: RunDirectory) -> AttackSettings:
    """The attack's settings from its fingerprint; RunDirectoryError where they are none."""
    named = {name.removeprefix(_SETTINGS): value for name, value in directory.fingerprint.items()}
    try:
        return AttackSettings.model_validate({name: named.get(name) for name in AttackSettings.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        place = printable(".".join(map(str, first["loc"])))
        raise RunDirectoryError(
            f"{directory.path}: its fingerprint holds no settings of an attack (attack.{place}: {first['msg']})"
        ) from error


def attack_radii(df: pd.DataFrame) -> list[float]:
    """The radii at which all points were attacked, and 0, at which the images themselves were."""
    return [0.0, *AttackInfo.of(df).radii]


def attacked_accuracy(df: pd.DataFrame, radii: Iterable[str | float], of: str = "smoothed") -> pd.DataFrame:
    """Share of points that are right and that no attack broke within each radius: a ceiling of robust accuracy.

    Columns: radius, attacked_accuracy, low, high (its 95 % Clopper-Pearson interval over points), unbroken (points),
    points. `of` is the `smoothed` classifier, as certificates are, or the `base` classifier without noise. Points in
    error were not attacked, and count as unbroken, which can only raise the share. Needs the columns status, correct
    and distance alone (of the base classifier: status, label, base_class and base_distance); no point gives NaN.
    """
    if of not in OF:
        raise SrsRayError(f"attacked accuracy is of the classifier {' or '.join(OF)}, found {of!r}")
    asked = np.array(parse_radii(radii), dtype=float)
    broken_at = np.sort(_broken_at(df, of))
    points = len(df)
    unbroken = points - np.searchsorted(broken_at, asked, side="right")
    low, high = clopper_pearson_interval(unbroken, points)
    return pd.DataFrame(
        {
            "radius": asked,
            "attacked_accuracy": unbroken / points if points else np.full(len(asked), np.nan),
            "low": low,
            "high": high,
            "unbroken": unbroken,
            "points": points,
        }
    )


def _broken_at(df: pd.DataFrame, of: str) -> np.ndarray:
    """For each row the distance at which it is broken: 0 where its class is wrong, infinity where nothing was found."""
    ok = df["status"].eq("ok").to_numpy(dtype=bool)
    if of == "smoothed":
        right = df["correct"].astype("boolean").fillna(False).to_numpy(dtype=bool)
        distance = df["distance"]
    else:
        right = df["base_class"].eq(df["label"]).fillna(False).to_numpy(dtype=bool)
        distance = df["base_distance"]
    found = distance.to_numpy(dtype=float, na_value=np.nan)
    return np.where(ok, np.where(right, np.where(np.isnan(found), np.inf, found), 0.0), np.inf)


def attacked_at(df: pd.DataFrame, radii: Sequence[Radius]) -> tuple[AttackedAt, ...]:
    """`attacked_accuracy` of the smoothed classifier as plain values."""
    table = attacked_accuracy(df, radii)
    return tuple(
        AttackedAt(
            radius=float(radius),
            radius_label=radius.label,
            attacked_accuracy=None if row["points"] == 0 else float(row["attacked_accuracy"]),
            low=float(row["low"]),
            high=float(row["high"]),
            unbroken=int(row["unbroken"]),
            points=int(row["points"]),
        )
        for radius, row in zip(radii, table.to_dict("records"), strict=True)
    )


def contradicted(df: pd.DataFrame) -> list[int]:
    """The points whose certificates the attack contradicts."""
    return [int(index) for index in df["index"][df["contradicts"].astype("boolean").fillna(False)]]


def matched(runs: Sequence[pd.DataFrame], attacks: Sequence[pd.DataFrame]) -> list[pd.DataFrame | None]:
    """For each frame of a run the attack on it, if there is one among these.

    Raises SrsRayError for an attack on none of the runs, and for two on one.
    """
    found: list[pd.DataFrame | None] = [None] * len(runs)
    digests = [RunInfo.of(df).fingerprint_digest for df in runs]
    for attack in attacks:
        info = AttackInfo.of(attack)
        places = [place for place, each in enumerate(digests) if each == info.run_digest]
        if not places:
            raise SrsRayError(
                f"{info.path}: is an attack on none of the runs that were given: give the run it attacked"
            )
        if any(found[place] is not None for place in places):
            raise SrsRayError(f"{info.path}: a second attack on the same run: give one attack for each run")
        for place in places:
            found[place] = attack
    return found


def floor_and_ceiling(certified: pd.DataFrame, attacks: pd.DataFrame, radii: Iterable[str | float]) -> str:
    """Certified accuracy, the floor, and attacked accuracy, the ceiling, by radius, on the points of both, as text."""
    parsed, info = parse_radii(radii), AttackInfo.of(attacks)
    both = set(certified["index"]) & set(attacks["index"])
    certified, attacks = (df[df["index"].isin(both)] for df in (certified, attacks))
    floor = certified_accuracy(certified, parsed)
    columns = {"certified (floor)": (floor["certified_accuracy"], floor["low"], floor["high"])}
    for kind, of, heading in (
        ("smooth-pgd", "smoothed", "attacked (ceiling)"),
        ("pgd", "base", "base classifier, attacked"),
    ):
        if kind in info.kinds:
            table = attacked_accuracy(attacks, parsed, of)
            columns[heading] = (table["attacked_accuracy"], table["low"], table["high"])
    shown = Table("radius", box=SIMPLE_HEAD, title="accuracy (%) at radius, and its 95 % interval over points")
    for heading in columns:
        shown.add_column(heading, justify="right")
    for row, radius in enumerate(parsed):
        cells = [
            f"{100 * share.iloc[row]:.1f} [{100 * low.iloc[row]:.0f}, {100 * high.iloc[row]:.0f}]"
            for share, low, high in columns.values()
        ]
        shown.add_row(radius.label, *cells)
    text = io.StringIO()
    console = Console(file=text, width=1000, markup=False, emoji=False, highlight=False)
    console.print(shown)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*lines, *(f"  {note}" for note in _notes(attacks, info))]).strip("\n") + "\n"


def _notes(attacks: pd.DataFrame, info: AttackInfo) -> list[str]:
    ok = attacks[attacks["status"] == "ok"]
    lines = [f"Points: {len(attacks)} of both, {len(attacks) - len(ok)} in error", f"Attack: {info.describe()}"]
    if len(ok):
        lines.append(
            f"Cost: {ok['evaluations'].mean():,.0f} calls of the layer, {ok['gradients'].mean():,.0f} gradients and "
            f"{ok['seconds'].mean():.3g} s a point"
        )
    contradictions = contradicted(attacks)
    if contradictions:
        lines.append(f"CERTIFICATES CONTRADICTED at {len(contradictions)} points: {contradictions[:10]}")
    return lines
