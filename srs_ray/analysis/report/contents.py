"""What a report holds, read from run directories alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pandas as pd

import srs_ray
from srs_ray.analysis.accuracy import clopper_pearson_interval
from srs_ray.analysis.attacks import AttackInfo, attacked_accuracy, load_attacks, matched
from srs_ray.analysis.comparison import AccuracyAt, RunResults, accuracies, compare, notes
from srs_ray.analysis.points import points_of
from srs_ray.analysis.radii import Radius, parse_radii
from srs_ray.analysis.report.cases import Cases, abstained_cases, error_cases, wrong_cases
from srs_ray.analysis.report.classes import ClassTable, class_names, class_table
from srs_ray.analysis.report.costs import CostLine, cost_lines
from srs_ray.analysis.report.provenance import Provenance, provenance_of, read_card
from srs_ray.analysis.report.thumbnails import MOST_BYTES, Images, open_images
from srs_ray.analysis.report.words import (
    ErrorBudget,
    base_classifier,
    error_budget,
    not_guaranteed,
    points_sentence,
    sampling_sentence,
)
from srs_ray.analysis.run_info import RunInfo, report_radii
from srs_ray.analysis.statements import certificate_line, floor_line, guarantee_line, pending_line
from srs_ray.analysis.verification import Verification, stored_job, verify_run
from srs_ray.errors import SrsRayError
from srs_ray.runs.directory import RunDirectory


@dataclass(frozen=True)
class Options:
    """What a report shows. `data` is where the data of all its runs lie, None: where each run had them."""

    radii: str | None = None  # None: 0 and those of the first run's job
    images: bool = True
    data: str | None = None
    run_code: bool = False
    attacks: tuple[str, ...] = ()  # directories of attacks, each on one of the runs


@dataclass(frozen=True)
class Attacked:
    """What an attack on a run found, in words: attacked accuracy by radius label, and the clean accuracy of F."""

    frame: pd.DataFrame = field(repr=False)
    described: str
    at: Mapping[str, str]
    clean: tuple[float, float, float, int] | None  # share with its 95 % interval, and points; None: not measured
    contradicted: tuple[int, ...]


@dataclass(frozen=True)
class RunReport:
    """One run's section."""

    number: int  # from 1, of which anchors are made
    label: str
    info: RunInfo
    result: RunResults
    frame: pd.DataFrame = field(repr=False)
    verification: Verification
    base_classifier: str
    sampling: str
    points: str
    certificate: str
    guarantee: str
    floors: str
    pending: str
    budget: ErrorBudget
    smoothed: AccuracyAt  # at radius 0
    abstained: tuple[float, float, float] | None  # share with its 95 % interval, of points with a result
    classes: ClassTable
    names: Mapping[int, str]
    wrong: Cases
    abstentions: Cases
    errors: Cases
    images: Images
    costs: list[CostLine]
    provenance: Provenance
    not_guaranteed: list[str]
    attacked: Attacked | None = None


@dataclass(frozen=True)
class Report:
    """A whole report; `notes` are to be read with the comparison of several runs."""

    title: str
    runs: tuple[RunReport, ...]
    notes: list[str]
    made_at: str
    version: str

    @property
    def unsound(self) -> bool:
        """Whether some run's certificate promises nothing."""
        return not all(run.info.sound for run in self.runs)


def collect(runs: Sequence[str | os.PathLike[str]], options: Options, output: str = "report.html") -> Report:
    """Reads the runs and checks every row against its counts; `output` is what the report will be called.

    Nothing is written, and no code that a run names is run unless the options allow it. Raises RunDirectoryError where
    there is no readable run, SrsRayError for no run or radii that are none.
    """
    if not runs:
        raise SrsRayError("no run to report; name at least one run directory")
    directories = [RunDirectory.open(run) for run in runs]
    checked = [verify_run(directory) for directory in directories]
    frames = [points_of(directory) for directory in directories]
    for info in map(RunInfo.of, frames):
        if info.margins is not None:
            raise SrsRayError(
                f"{info.name} is certified without noise, and a report tells of smoothed classifiers: see `srs-ray "
                "aggregate`, `plot` and `status`"
            )
    asked = options.radii if options.radii is not None else [0, *report_radii(directories[0].job)]
    radii = list(dict.fromkeys(parse_radii(asked)))
    attacks = [load_attacks(attack) for attack in options.attacks]
    results = compare(frames, radii, attacks=attacks)
    parts = zip(directories, checked, frames, results, matched(frames, attacks), strict=True)
    made = tuple(
        _run_report(number, *part, radii, options, MOST_BYTES // len(frames), output)
        for number, part in enumerate(parts, start=1)
    )
    models = ", ".join(dict.fromkeys(run.info.arch for run in made))
    return Report(
        title=f"Certified robustness of {models}",
        runs=made,
        notes=notes(results, intervals=True),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=srs_ray.__version__,
    )


def _run_report(
    number: int,
    directory: RunDirectory,
    verification: Verification,
    df: pd.DataFrame,
    result: RunResults,
    attacks: pd.DataFrame | None,
    radii: Sequence[Radius],
    options: Options,
    budget: int,
    output: str,
) -> RunReport:
    info, job = result.info, directory.job
    card = read_card(job, directory.fingerprint.get("model.weights.digest"))
    images = Images(missing="they were left out by --no-images")
    if options.images and len(df):
        by_identity = bool(df["pixels"].isna().all())
        images = open_images(
            stored_job(directory), directory.fingerprint, options.data, options.run_code, budget, by_identity
        )
    names = class_names(df, job, card.facts, images.class_names)
    done = df["status"] == "ok"
    (smoothed,) = accuracies(df, parse_radii([0]))
    abstained, judged = result.summary.abstained, result.judged
    interval = clopper_pearson_interval(pd.Series([abstained]).to_numpy(), judged) if judged else None
    return RunReport(
        number=number,
        label=result.label,
        info=info,
        result=result,
        frame=df,
        verification=verification,
        base_classifier=base_classifier(info, job),
        sampling=sampling_sentence(info),
        points=points_sentence(info),
        certificate=certificate_line(info),
        guarantee=guarantee_line(info),
        floors=floor_line(info),
        pending=pending_line(info, len(df)),
        budget=error_budget(info, int(done.sum()), result.summary.certificates),
        smoothed=smoothed,
        abstained=None if interval is None else (abstained / judged, float(interval[0][0]), float(interval[1][0])),
        classes=class_table(df, names, radii),
        names=names,
        wrong=wrong_cases(df, names, images),
        abstentions=abstained_cases(df, names, images),
        errors=error_cases(df, names, images),
        images=images,
        costs=cost_lines(df),
        provenance=provenance_of(directory, df, info, card, output),
        not_guaranteed=not_guaranteed(info, job, info.asked - len(df), result.summary.errors),
        attacked=None if attacks is None else _attacked(attacks, result),
    )


def _attacked(attacks: pd.DataFrame, result: RunResults) -> Attacked:
    info = AttackInfo.of(attacks)
    clean = None
    if "pgd" in info.kinds and len(attacks):
        [row] = attacked_accuracy(attacks, [0], "base").to_dict("records")
        clean = (row["attacked_accuracy"], row["low"], row["high"], int(row["unbroken"]))
    return Attacked(
        frame=attacks,
        described=info.describe(),
        at={at.radius_label: at.text() for at in result.attacked or ()},
        clean=clean,
        contradicted=result.contradicted,
    )
