"""Certified accuracy against radius as curves, with what each certificate can and cannot say on the figure itself."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srs_ray.analysis.accuracy import certified_accuracy
from srs_ray.analysis.comparison import run_labels
from srs_ray.analysis.run_info import RunInfo
from srs_ray.analysis.statements import UNSOUND, certificate_line, guarantee_line, per_run, subset_line
from srs_ray.errors import SrsRayError

SUFFIXES = (".pdf", ".png", ".svg")

# Okabe and Ito's palette, without its yellow, which white paper swallows; each with a line style of its own, so that
# the curves stay apart in grey print too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("solid", (0, (6, 2)), (0, (2, 1.2)), (0, (6, 2, 1.5, 2)), (0, (9, 3)), (0, (1, 1)))

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "pdf.fonttype": 42,  # text stays text in the PDF
    "svg.hashsalt": "srs-ray",  # the same figure is the same file
}


def plot_curves(frames: Sequence[pd.DataFrame], output: str | Path, max_radius: float | None = None) -> Path:
    """Draw one step curve with its 95 % band for each frame of `load_points` or `recertify`; returns the file written.

    The file's kind goes by its suffix: .png (200 dpi), .svg or .pdf. The radius axis, in pixel units of [0, 1], ends
    at `max_radius`, by default a little beyond the largest certified radius. Dotted vertical lines mark the caps in view.
    Raises SrsRayError for another suffix, no frames, a frame that does not know its run, an unwritable file.
    """
    output = Path(output)
    if output.suffix.lower() not in SUFFIXES:
        raise SrsRayError(f"cannot draw {output.name!r}: its suffix must be one of {', '.join(SUFFIXES)}")
    if not frames:
        raise SrsRayError("no run to plot; name at least one run directory")
    # matplotlib is slow to import, and only this function needs it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    infos = [RunInfo.of(df) for df in frames]
    labels = run_labels(infos)
    end = _end_of_axis(frames, infos) if max_radius is None else max_radius
    caps: dict[float, list[int]] = {}  # runs by cap: runs of equal settings share a line
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        axes = figure.subplots()
        for i, (df, info, label) in enumerate(zip(frames, infos, labels, strict=True)):
            colour, dashes = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
            # Beyond its cap a curve would be 0 by construction: it ends there, lest the drop be taken for a finding.
            radius, share, low, high = _curve(df, min(end, info.radius_cap))
            axes.fill_between(radius, low, high, step="pre", color=colour, alpha=0.14, linewidth=0)
            axes.step(
                radius, share, where="pre", color=colour, linestyle=dashes, linewidth=1.7, label=_legend(info, label)
            )
            if info.radius_cap <= end:
                caps.setdefault(info.radius_cap, []).append(i)
        for cap, runs in caps.items():
            colour = COLOURS[runs[0] % len(COLOURS)] if len(runs) == 1 else "#444444"
            axes.axvline(cap, color=colour, linestyle=(0, (1, 2)), linewidth=1.1)
            axes.annotate(
                "cap",
                (cap, 0.0),
                xycoords=("data", "axes fraction"),
                xytext=(-3, 4),
                textcoords="offset points",
                ha="right",
                color=colour,
                fontsize=7.5,
            )
        axes.set(xlim=(0, end), ylim=(0, 1), xlabel="$\\ell_2$ radius (pixels in [0, 1])", ylabel="certified accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_locator(MultipleLocator(0.2))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=8, handlelength=2.8)
        figure.suptitle(_title(infos), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        axes.set_title(_subtitle(frames, infos, labels), loc="left", fontsize=8, color="#444444")
        figure.supxlabel(_footnotes(infos, labels), x=0.01, ha="left", fontsize=6.8, color="#444444")
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(output, dpi=200, metadata=_UNDATED[output.suffix.lower()])
        except OSError as error:
            raise SrsRayError(f"cannot write {output} ({error.strerror or error}); choose another output") from error
    return output


# A figure of the same runs is the same file, whenever it was drawn.
_UNDATED: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}


def _curve(df: pd.DataFrame, end: float) -> tuple[np.ndarray, ...]:
    """Radii from 0 to `end` at which the share changes, and share, low and high up to and including each of them."""
    certified = df["radius"][df["correct"].astype("boolean").fillna(False)].to_numpy(dtype=float)
    radii = np.unique(np.concatenate([[0.0], certified[certified < end], [end]]))
    curve = certified_accuracy(df, radii)
    return tuple(curve[column].to_numpy() for column in ("radius", "certified_accuracy", "low", "high"))


def _end_of_axis(frames: Sequence[pd.DataFrame], infos: Sequence[RunInfo]) -> float:
    """A little beyond the largest certified radius, and beyond each cap that is not far from it."""
    largest = max((float(df["radius"].max()) for df in frames if df["radius"].gt(0).any()), default=0.0)
    caps = [info.radius_cap for info in infos if info.radius_cap <= 1.2 * largest]
    return 1.03 * max([largest, *caps]) or 1.0


def _legend(info: RunInfo, label: str) -> str:
    unsound = " (UNSOUND)" if info.certificate == UNSOUND else ""
    recomputed = "" if info.recomputed_from is None else ", recomputed"
    return f"{label}: {info.setting}, {info.certificate}{unsound}{recomputed}, $\\sigma$ = {info.sigma:g}"


def _title(infos: Sequence[RunInfo]) -> str:
    return f"Certified accuracy of {', '.join(dict.fromkeys(info.arch for info in infos))}"


def _subtitle(frames: Sequence[pd.DataFrame], infos: Sequence[RunInfo], labels: Sequence[str]) -> str:
    runs = list(zip(labels, infos, map(len, frames), strict=True))
    lines = per_run(runs, lambda run: run[0], lambda run: f"{subset_line(run[1], run[2])}; alpha = {run[1].alpha:g}")
    return _wrapped(lines, 95)


def _footnotes(infos: Sequence[RunInfo], labels: Sequence[str]) -> str:
    runs = list(zip(labels, infos, strict=True))
    lines = [
        *per_run(runs, lambda run: run[0], lambda run: certificate_line(run[1])),
        *per_run(runs, lambda run: run[0], lambda run: guarantee_line(run[1])),
        "Bands: 95 % Clopper-Pearson intervals over points, at each radius by itself. Points in error count as not "
        "certified. A curve ends at its cap.",
    ]
    return _wrapped(lines, 125)


def _wrapped(lines: Sequence[str], width: int) -> str:
    return "\n".join("\n".join(textwrap.wrap(line, width)) for line in lines)
