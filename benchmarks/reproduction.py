"""The paper's CIFAR-10 small rows beside ours: certifies jobs/paper/cifar10-small-*, writes docs/reproduction.md.

    python benchmarks/reproduction.py [--points 500] [any option of `srs-ray certify`, such as --n 1000]

From the repository's root. The same command goes on where it stopped; more --points only add to what is there.
"""

from __future__ import annotations

import argparse
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import srs_ray.cli
from srs_ray import clopper_pearson_lower
from srs_ray.analysis import comparison_table, load_points, plot_curves, plot_training, recertify
from srs_ray.analysis.comparison import AccuracyAt, RunResults, compare
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import subset_line
from srs_ray.models.mdeq.checkpoints import read_weights
from srs_ray.runs import RunDirectory
from srs_ray.smoothing.radius import certified_radius

JOBS = Path("jobs/paper")
TEST_POINTS, PUBLISHED_POINTS = 10_000, 500
RADII = (0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
CERTIFICATES = {"standard": ("cohen",), "srs": ("released", "exact", "paper")}  # the first two are drawn
ABOVE_CAP, NOT_PUBLISHED = "\N{EN DASH}", ""


@dataclass(frozen=True)
class PublishedRow:
    """A row of Gao et al. 2024 at sigma 0.5: certified accuracy in % at RADII, and ACR, where they are published."""

    name: str
    certificate: str
    percent: tuple[int, ...] | None
    average_certified_radius: float | None


STANDARD = "cifar10-small-standard-30a"
PUBLISHED = {
    STANDARD: PublishedRow("MDEQ 30A", "cohen", (62, 50, 38, 30, 22, 13, 9), 0.59),
    "cifar10-small-srs-1a": PublishedRow("SRS 1A", "released (unsound)", None, 0.56),
    "cifar10-small-srs-3a": PublishedRow("SRS 3A", "released (unsound)", (60, 50, 38, 29, 21, 12, 8), 0.59),
}
SMOOTHADV = PublishedRow("MDEQ 30A, trained with SmoothAdv", "cohen", (62, 54, 43, 37, 30, 23, 14), None)


@dataclass(frozen=True)
class Overclaims:
    """What one certificate says of points, beside what F, the base classifier, said of the same noisy samples."""

    points: int  # with counts of F and of the sampler
    certified: int
    above_estimate: int  # bound on p_A above the share of the samples on which F says the class
    above_bound: int  # and above that share's upper confidence bound
    worst: tuple[float, float] | None  # of the last: the radius furthest beyond, and the most there can be


def overclaims(df: pd.DataFrame, standard: pd.DataFrame) -> Overclaims:
    """Compares the certificates of `df` with the counts of a run by F itself, `standard`, on the same points.

    The upper bound is Clopper-Pearson's, one-sided at the run's alpha.
    """
    info = RunInfo.of(df)
    own = {row.index: row for row in _ended(standard)}
    rows = [row for row in _ended(df) if row.index in own]
    certified = [row for row in rows if row.predicted != -1]
    above_estimate, beyond = 0, []
    for row in certified:
        f = own[row.index]
        hits = sum(int(count) for c, count in zip(f.classes, f.counts, strict=True) if c == row.predicted)
        bound = 1 - clopper_pearson_lower(f.n - hits, f.n, info.alpha)
        above_estimate += row.p_lower > hits / f.n
        if row.p_lower > bound:
            beyond.append((row.radius, certified_radius(bound, info.sigma)))
    worst = max(beyond, key=lambda pair: pair[0] - pair[1], default=None)
    return Overclaims(len(rows), len(certified), above_estimate, len(beyond), worst)


def _ended(df: pd.DataFrame) -> Iterator[Any]:
    """The points with estimation samples: neither in error nor without a class to estimate."""
    return df[(df["status"] == "ok") & (df["n"] > 0)].itertuples(index=False)


def certify_command(name: str, output: Path, points: int, options: Sequence[str]) -> list[str]:
    """`certify ...` for one of the jobs, on so many points, evenly spread over every 20th, the published ones."""
    every = str(TEST_POINTS // points)
    return ["certify", str(JOBS / f"{name}.yaml"), *options, "--every", every, "--output", str(output / name)]


def run_srs_ray(words: Sequence[str]) -> None:
    """The command as it would be typed; one that does not end well ends this program with its exit code."""
    sys.argv = ["srs-ray", *words]
    try:
        srs_ray.cli.main()
    except SystemExit as ended:
        if ended.code:
            raise


def load_frames(runs: Sequence[Path], images: str | None) -> list[list[pd.DataFrame]]:
    """For each run a frame by each certificate that goes with it; tables and curves call the images as is said here."""
    frames = []
    for run in runs:
        df = load_points(run)
        info = RunInfo.of(df)
        if images is not None:
            replace(info, data=f"{images} ({info.data})").attach(df)
        frames.append([recertify(df, kind) for kind in CERTIFICATES[info.method]])
    return frames


def beside_published(frames: Sequence[Sequence[pd.DataFrame]]) -> str:
    """Certified accuracy in %, each published row with ours under it, by each certificate."""
    [standard] = frames[0]
    caption = (
        f"Certified accuracy in %. Ours: {subset_line(RunInfo.of(standard), len(standard))}; "
        "intervals, alpha, n, K and what they cap the radius at stand below.\n\n"
    )
    lines = []
    for published, run in zip(PUBLISHED.values(), frames, strict=True):
        lines += [_published_cells(published), *map(_our_cells, compare(run, RADII))]
    lines.append(_published_cells(SMOOTHADV))
    return caption + _table(["", "certificate", *(f"r = {r:g}" for r in RADII), "ACR"], lines)


def _published_cells(row: PublishedRow) -> list[str]:
    percent = [NOT_PUBLISHED] * len(RADII) if row.percent is None else [str(value) for value in row.percent]
    acr = row.average_certified_radius
    return [f"{row.name}, published", row.certificate, *percent, NOT_PUBLISHED if acr is None else f"{acr:.2f}"]


def _our_cells(result: RunResults) -> list[str]:
    info = result.info
    sound = "" if info.sound else " (unsound)"
    acr = result.summary.average_certified_radius
    cells = [f"**{_percent(at)}**" for at in result.accuracies]
    return [f"**{info.setting}, ours**", info.certificate + sound, *cells, f"**{acr:.2f}**"]


def _percent(at: AccuracyAt) -> str:
    assert at.certified_accuracy is not None  # a run that ended well has points
    return ABOVE_CAP if at.above_cap else f"{100 * at.certified_accuracy:.0f}"


def against_f(frames: Sequence[Sequence[pd.DataFrame]]) -> str:
    """For each serialized run and certificate, how often it claims more of F than F's own counts allow."""
    [[standard], *serialized] = frames
    rows = []
    for df in (df for run in serialized for df in run):
        info, found = RunInfo.of(df), overclaims(df, standard)
        worst = "" if found.worst is None else "{:.2f} where {:.2f} is the most".format(*found.worst)
        counts = (found.points, found.certified, found.above_estimate, found.above_bound)
        rows.append([info.setting, info.certificate, *map(str, counts), worst])
    headings = ["", "certificate", "points", "certified", "above F's share", "above F's bound", "worst radius"]
    return _table(headings, rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; two columns of words, the others of numbers."""
    rule = ["---", "---", *["---:"] * (len(headings) - 2)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (headings, rule, *rows))


def weights_table(card: Mapping[str, Any]) -> str:
    """What the card of the certified weights says of them."""
    accuracy, chains = card["noisy_accuracy"], card["chain_agreement"]
    images = f"{card['data']['kind']}, {card['data'].get('points', '?')} points"
    false = [
        f"{chains['false_mean'][steps]:.2%} in the mean of {chains['points']} points, {worst:.2%} on the worst"
        for steps, worst in chains["false_worst"].items()
    ]
    first, before = card["initial_weights"], []
    if isinstance(first, dict) and "command" in first:  # weights of another training, else random ones
        before = [["before that", f"{first['epochs']} epochs in {first['hours']:.1f} h by `{first['command']}`"]]
    rows = [
        ["trained", f"{card['epochs']} epochs at sigma {card['sigma']} in {card['hours']:.1f} h on {card['device']}"],
        *before,
        ["images", f"{images}{'; ' + card['note'] if card['note'] else ''}"],
        ["command", f"`{card['command']}`"],
        *([f"noisy accuracy, {steps} steps from zero", f"{share:.1%}"] for steps, share in accuracy.items()),
        *([f"false top class, SRS-{steps}", text] for steps, text in zip(chains["false_worst"], false, strict=True)),
        ["evaluations of the base classifier", f"{chains['reference_evaluations']:.1f} a sample"],
        ["relative residual after all steps", f"{card['residual']:.1e}"],
        ["spectral radius of the layer at the equilibrium", f"{card['spectral_radius']:.2f}"],
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (["", ""], ["---", "---"], *rows))


def circumstances(runs: Sequence[Path], frames: Sequence[Sequence[pd.DataFrame]]) -> str:
    """Where the points were certified, with what, and how long that took."""
    sessions = [RunDirectory.open(run).sessions[-1] for run in runs]
    devices = {device for [df, *_] in frames for device in df["device"].dropna()}
    machine = ", ".join(processor() if device == "cpu" else device for device in sorted(devices))
    versions = {f"torch {session['versions']['torch']}" for session in sessions}
    hours = [
        f"{RunInfo.of(df).setting} {df['seconds'].sum() / 3600:.1f} h ({session['workers']} at a time)"
        for [df, *_], session in zip(frames, sessions, strict=True)
    ]
    return f"On {machine}, with {', '.join(sorted(versions))}. Time of all points in their workers: {', '.join(hours)}."


def processor() -> str:
    """This machine's processor by the name that Linux has for it, else its kind."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def fill(page: str, name: str, content: str) -> str:
    """The page with what stands between the markers of that name replaced; what is around them stays."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        sys.exit(f"the page has no place for the tables: expected one line {begin.strip()}, and one {end} after it")
    before, rest = page.split(begin)
    return before + begin + content + end + rest.split(end)[1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    allowed = [points for points in range(1, PUBLISHED_POINTS + 1) if PUBLISHED_POINTS % points == 0]
    parser.add_argument("--points", type=int, default=PUBLISHED_POINTS, choices=allowed, help="the same for each run")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduction"), help="folder of the run directories")
    parser.add_argument("--page", type=Path, default=Path("docs/reproduction.md"), help="the picture goes beside it")
    parser.add_argument("--images", help="what the images are, in words, where they are not CIFAR-10's own")
    given, options = parser.parse_known_args(arguments)

    commands = [certify_command(name, given.output, given.points, options) for name in PUBLISHED]
    for place in ("reproduction", "weights"):  # before hours go by
        fill(given.page.read_text(), place, "")
    for command in commands:
        run_srs_ray(command)

    runs = [given.output / name for name in PUBLISHED]
    frames = load_frames(runs, given.images)
    picture = plot_curves([df for run in frames for df in run[:2]], given.page.with_suffix(".png"))
    typed = "\n".join(shlex.join(["srs-ray", *command]) for command in commands)
    content = "\n".join(
        [
            f"```sh\n{typed}\n```\n\n{circumstances(runs, frames)}\n\n### Beside the published rows\n",
            beside_published(frames),
            f"### In full\n\n{comparison_table([df for run in frames for df in run], RADII, 'markdown')}",
            f"![Certified accuracy of the three runs against the radius]({picture.name})\n",
            f"### What the certificates claim of F, and what F says\n\n{against_f(frames)}",
        ]
    )
    page = fill(given.page.read_text(), "reproduction", content)
    card = read_weights(RunDirectory.open(runs[0]).job["model"]["weights"]).card
    if "history" in card:
        training = plot_training(card, given.page.with_name(f"{given.page.stem}-weights.png"))
        drawn = f"![The training by epoch: noisy accuracy, and false top classes of chains]({training.name})\n"
        page = fill(page, "weights", f"{weights_table(card)}\n{drawn}")
    given.page.write_text(page)
    print(f"wrote {given.page} and {picture}")


if __name__ == "__main__":
    main()
