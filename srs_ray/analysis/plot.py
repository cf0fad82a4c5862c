"""Certified accuracy against radius as curves, with what each certificate can and cannot say on the figure itself."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srs_ray.analysis.accuracy import certified_accuracy, certified_radii
from srs_ray.analysis.attacks import AttackInfo, attack_radii, attacked_accuracy, matched
from srs_ray.analysis.comparison import run_labels
from srs_ray.analysis.pairing import different_points
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import (
    certificate_line,
    false_certificates_line,
    floor_line,
    guarantee_line,
    per_run,
    subset_line,
)
from srs_ray.errors import SrsRayError
from srs_ray.runs.printable import printable
from srs_ray.settings import home_expanded

log = logging.getLogger(__name__)

# Okabe and Ito's palette, without its yellow, which white paper swallows; each with a line style of its own, so that
# the curves stay apart in grey print too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("solid", (0, (9, 2)), (0, (4, 1.5)), (0, (9, 2, 2, 2)), (0, (15, 3)), (0, (1.5, 1)))
GREY = "#444444"

WIDTH, AXES_HEIGHT = 6.4, 3.2  # inches

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.parse_math": False,  # a run's name may hold dollar signs
    "pdf.fonttype": 42,  # text stays text in the PDF
    "svg.hashsalt": "srs-ray",  # the same figure is the same file
}
LEGEND: dict[str, Any] = {
    "frameon": False,
    "borderpad": 0,
    "borderaxespad": 0,
    "fontsize": 8,
    "handlelength": 3.4,
    "labelspacing": 0.45,
}
# The kinds of file, each without its date: a figure of the same runs is the same file, whenever it was drawn.
UNDATED: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}


def plot_curves(
    frames: Sequence[pd.DataFrame],
    output: str | Path,
    max_radius: float | None = None,
    *,
    attacks: Sequence[pd.DataFrame] = (),
    min_radius: float = 0.0,
    title: str | None = None,
    labels: Sequence[str] | None = None,
    bands: bool = True,
) -> Path:
    """Draw one step curve with its 95 % band for each frame of `load_points` or `recertify`; returns the file written.

    The suffix chooses the file's kind: .png (200 dpi), .svg or .pdf. The radius axis, in pixel units of [0, 1], begins
    at `min_radius` and ends at `max_radius`, by default a little beyond the largest certified radius. Dotted vertical
    lines mark caps in view. `labels` stand in the legend in place of setting, certificate and name, one for each run;
    of an unsound certificate it is said all the same.
    A curve by looks has dots at its target radii, and is thin, dotted and without a band beyond them: a floor.
    `attacks` are frames of `load_attacks`, each on one of the runs: a thin dashed line of its colour is its ceiling.
    Raises SrsRayError for another suffix, no frames, a frame that does not know its run, an unwritable file.
    """
    output = drawable(output)
    if not frames:
        raise SrsRayError("no run to plot; name at least one run directory")
    if max_radius is not None and not 0 < max_radius < float("inf"):
        raise SrsRayError(f"cannot draw radii up to {max_radius}: expected a number above 0")
    if labels is not None and len(labels) != len(frames):
        raise SrsRayError(f"{len(labels)} labels for {len(frames)} runs: give one for each, in their order, or none")
    # matplotlib is slow to import, and only this function needs it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    infos = [RunInfo.of(df) for df in frames]
    names = run_labels(infos) if labels is None else [printable(label) for label in labels]
    for warning in filter(None, different_points(names, frames)):
        log.warning("%s", warning)
    ceilings = matched(frames, attacks)
    end = _end_of_axis(frames, infos, attacks) if max_radius is None else max_radius
    if not 0 <= min_radius < end:
        raise SrsRayError(f"cannot draw radii from {min_radius:g} to {end:g}: expected the first below the second")
    subtitle, notes = _subtitle(frames, infos, names), _footnotes(frames, infos, names, ceilings, bands)
    # The text above and below takes the room its lines need, in inches; the axes keep their size.
    above = 0.42 + 0.155 * len(subtitle) + 0.19 * (len(frames) + len(attacks))
    below = 0.58 + 0.125 * len(notes)
    height = above + AXES_HEIGHT + below
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0.75 / WIDTH, below / height, 1 - 0.9 / WIDTH, AXES_HEIGHT / height))
        _draw_axes(axes, min_radius, end)
        legend = [
            _legend(info, name) if labels is None else _own_legend(info, name)
            for info, name in zip(infos, names, strict=True)
        ]
        _draw_curves(axes, frames, infos, legend, end, bands=bands)
        _draw_ceilings(axes, ceilings, names, end)
        _mark_caps(axes, infos, min_radius, end)
        left, top = 0.12 / WIDTH, 1 - 0.1 / height
        heading = _title(infos) if title is None else printable(title)
        figure.text(left, top, heading, va="top", fontsize=10.5, fontweight="bold")
        figure.text(left, top - 0.22 / height, "\n".join(subtitle), va="top", fontsize=8, color=GREY, linespacing=1.25)
        figure.legend(loc="upper left", bbox_to_anchor=(left, top - (0.25 + 0.155 * len(subtitle)) / height), **LEGEND)
        figure.text(left, 0.08 / height, "\n".join(notes), va="bottom", fontsize=6.8, color=GREY, linespacing=1.25)
        return save_figure(figure, output)


def curves_figure(
    frames: Sequence[pd.DataFrame],
    labels: Sequence[str],
    most: int | None = None,
    attacks: Sequence[pd.DataFrame] = (),
) -> Any:
    """The axes of `plot_curves` with a legend, as a matplotlib figure without a background: for a page that has the
    words beside it. Each curve steps at `most` radii at most; left-out steps are taken early, so it is never too high.
    """
    from matplotlib.figure import Figure

    infos = [RunInfo.of(df) for df in frames]
    above = 0.12 + 0.19 * (len(frames) + len(attacks))
    height = above + AXES_HEIGHT + 0.5
    figure = Figure(figsize=(WIDTH, height))
    figure.patch.set_visible(False)
    axes = figure.add_axes((0.8 / WIDTH, 0.5 / height, 1 - 0.95 / WIDTH, AXES_HEIGHT / height))
    axes.patch.set_visible(False)
    end = _end_of_axis(frames, infos, attacks)
    _draw_axes(axes, 0.0, end)
    legend = [_legend(info, label) for info, label in zip(infos, labels, strict=True)]
    _draw_curves(axes, frames, infos, legend, end, most)
    _draw_ceilings(axes, matched(frames, attacks), labels, end)
    _mark_caps(axes, infos, 0.0, end)
    figure.legend(loc="upper left", bbox_to_anchor=(0.05 / WIDTH, 1 - 0.03 / height), labelcolor=GREY, **LEGEND)
    return figure


def drawable(output: str | Path) -> Path:
    """The path of a picture to be drawn; SrsRayError if its suffix is of no kind that is known here."""
    output = home_expanded(output, SrsRayError)
    if output.suffix.lower() not in UNDATED:
        raise SrsRayError(f"cannot draw {output.name!r}: its suffix must be one of {', '.join(UNDATED)}")
    return output


def save_figure(figure: Any, output: Path) -> Path:
    """Writes a matplotlib figure to a `drawable` path; SrsRayError if it cannot be written."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=200, metadata=UNDATED[output.suffix.lower()])
    except OSError as error:
        raise SrsRayError(f"cannot write {output} ({error.strerror or error}); choose another output") from error
    return output


def _draw_axes(axes: Any, start: float, end: float) -> None:
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    axes.set(
        xlim=(start, end), ylim=(0, 1), xlabel="\u2113\u2082 radius (pixels in [0, 1])", ylabel="certified accuracy"
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.grid(color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_curves(
    axes: Any,
    frames: Sequence[pd.DataFrame],
    infos: Sequence[RunInfo],
    legend: Sequence[str],
    end: float,
    most: int | None = None,
    bands: bool = True,
) -> None:
    for i, (df, info, label) in enumerate(zip(frames, infos, legend, strict=True)):
        colour, dashes = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        # Beyond its cap a curve would be 0 by construction: it ends there, lest the drop be taken for a finding.
        last = min(end, info.radius_cap)
        full = [radius for radius in info.target_radii or () if radius <= last and not info.is_floor_at(radius)]
        # A share holds up to and including its radius, hence steps before the points.
        style: dict[str, Any] = {"where": "pre", "color": colour, "label": label}
        until = max(full, default=0.0) if info.by_looks else last
        if until > 0:
            curve = _curve(df, 0.0, until, most)
            radius, share = curve["radius"], curve["certified_accuracy"]
            if bands:
                band = {"step": "pre", "color": colour, "alpha": 0.14, "linewidth": 0, "gid": f"band-{i}"}
                axes.fill_between(radius, curve["low"], curve["high"], **band)
            axes.step(radius, share, linestyle=dashes, linewidth=1.6, **style)
            style["label"] = None
        if full:
            at = certified_accuracy(df, full)
            dots = {"color": colour, "linestyle": "none", "marker": "o", "markersize": 3.6, "gid": f"full-{i}"}
            axes.plot(at["radius"], at["certified_accuracy"], **dots)
        if until < last:
            curve = _curve(df, until, last, most)
            shown = {"linestyle": (0, (1, 1.6)), "linewidth": 1.0, "gid": f"floor-{i}"}
            axes.step(curve["radius"], curve["certified_accuracy"], **shown, **style)


def _curve(df: pd.DataFrame, start: float, end: float, most: int | None = None) -> pd.DataFrame:
    """Certified accuracy at `start`, at `end`, and at every radius between at which it changes, at `most` of them."""
    radii = certified_radii(df)
    between = np.unique(radii[(start < radii) & (radii < end)])
    if most is not None and len(between) > most:
        between = between[np.linspace(0, len(between) - 1, most).astype(int)]
    return certified_accuracy(df, np.unique([start, *between, end]))


def _draw_ceilings(axes: Any, ceilings: Sequence[pd.DataFrame | None], labels: Sequence[str], end: float) -> None:
    """Attacked accuracy of the runs that were attacked, up to the largest radius of the attack."""
    for i, (df, label) in enumerate(zip(ceilings, labels, strict=True)):
        if df is None:
            continue
        last = min(end, max(attack_radii(df)))
        found = df["distance"].to_numpy(dtype=float, na_value=np.nan)
        curve = attacked_accuracy(df, np.unique([0.0, *found[found < last], last]))
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": (0, (3, 2)), "linewidth": 1.1}
        # A point is broken from its distance on, hence steps behind the points.
        shown = {"where": "post", "label": f"attacked, a ceiling: {label}", "gid": f"ceiling-{i}"}
        axes.step(curve["radius"], curve["attacked_accuracy"], **style, **shown)


def _end_of_axis(
    frames: Sequence[pd.DataFrame], infos: Sequence[RunInfo], attacks: Sequence[pd.DataFrame] = ()
) -> float:
    """A little beyond the largest certified and attacked radius, and beyond each cap that is not far from it."""
    largest = max(certified_radii(df).max(initial=0.0) for df in frames)
    caps = [info.radius_cap for info in infos if info.radius_cap <= 1.2 * largest]
    attacked = [max(attack_radii(df)) for df in attacks]
    return float(1.03 * max([largest, *caps, *attacked])) or 1.0


def _legend(info: RunInfo, label: str) -> str:
    unsound = "" if info.sound else " (UNSOUND)"
    recomputed = "" if info.recomputed_from is None else ", recomputed"
    # The run's name comes last: matplotlib leaves out what starts with an underscore.
    noise = "no noise" if info.margins else f"sigma = {info.sigma:g}"
    return f"{info.setting}, {info.certificate}{unsound}{recomputed}, {noise}: {label}"


def _own_legend(info: RunInfo, label: str) -> str:
    """A label that somebody chose; matplotlib would leave out one that starts with an underscore."""
    return (f" {label}" if label.startswith("_") else label) + ("" if info.sound else " (UNSOUND)")


def _mark_caps(axes: Any, infos: Sequence[RunInfo], start: float, end: float) -> None:
    """A dotted line at each cap in view, grey where several runs share it; close ones share a label too."""
    caps: dict[float, list[int]] = {}
    for i, info in enumerate(infos):
        if start <= info.radius_cap <= end:
            caps.setdefault(info.radius_cap, []).append(i)
    labelled = float("-inf")
    for cap, runs in sorted(caps.items()):
        colour = COLOURS[runs[0] % len(COLOURS)] if len(runs) == 1 else GREY
        axes.axvline(cap, color=colour, linestyle=(0, (1, 2)), linewidth=1.1)
        if cap - labelled > 0.04 * end:
            place = {"xycoords": ("data", "axes fraction"), "xytext": (-2, -3), "textcoords": "offset points"}
            axes.annotate("cap", (cap, 1.0), **place, rotation=90, ha="right", va="top", color=colour, fontsize=7.5)
            labelled = cap


def _title(infos: Sequence[RunInfo]) -> str:
    return f"Certified accuracy of {', '.join(dict.fromkeys(info.arch for info in infos))}"


def _subtitle(frames: Sequence[pd.DataFrame], infos: Sequence[RunInfo], labels: Sequence[str]) -> list[str]:
    runs = list(zip(infos, map(len, frames), strict=True))
    lines = [
        *per_run("Points", labels, [subset_line(info, points) for info, points in runs]),
        *per_run(
            "Error probability",
            labels,
            [("none" if info.margins else f"alpha = {info.alpha:g} per point") for info in infos],
        ),
        *per_run("False certificates", labels, [_false_line(df, info) for df, info in zip(frames, infos, strict=True)]),
    ]
    return _wrapped(lines, 98)


def _false_line(df: pd.DataFrame, info: RunInfo) -> str:
    return false_certificates_line(info, int((df["status"] == "ok").sum()), int((df["predicted"] >= 0).sum()))


def _footnotes(
    frames: Sequence[pd.DataFrame],
    infos: Sequence[RunInfo],
    labels: Sequence[str],
    ceilings: Sequence[pd.DataFrame | None],
    bands: bool,
) -> list[str]:
    lines = [
        *per_run("Certificate", labels, [certificate_line(info) for info in infos]),
        *per_run("Guarantee", labels, [guarantee_line(info) for info in infos]),
        ("Bands: 95 % Clopper-Pearson intervals over points, at each radius by itself. " if bands else "")
        + "Points in error count as not certified. A curve ends at its cap: beyond it no counts could have certified "
        "anything.",
    ]
    attacked = [(label, df) for label, df in zip(labels, ceilings, strict=True) if df is not None]
    lines += per_run(
        "Attacked (a ceiling)",
        [label for label, _ in attacked],
        [f"{len(df)} points, {AttackInfo.of(df).describe()}" for _, df in attacked],
    )
    floors = [floor_line(info) for info in infos]
    if any(floors):
        # Named one by one: the curves of other runs are no floors.
        shown = [(label, line) for label, line in zip(labels, floors, strict=True) if line]
        lines += per_run("Off its dots, and dotted", [label for label, _ in shown], [line for _, line in shown])
    if any(info.asked > len(df) for df, info in zip(frames, infos, strict=True)):
        lines.append("Points that end early may be the easy ones: the curve of an unfinished run may lie too high.")
    return _wrapped(lines, 124)


def _wrapped(lines: Sequence[str], width: int) -> list[str]:
    return [piece for line in lines for piece in textwrap.wrap(line, width, subsequent_indent="   ")]
