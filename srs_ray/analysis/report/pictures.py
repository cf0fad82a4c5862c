"""The drawings of a report, as SVG that takes its text colour and font from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from srs_ray.analysis.plot import COLOURS, GREY, LEGEND, STYLE, curves_figure
from srs_ray.analysis.run_info import RunInfo

STEPS = 500  # of a curve: more than a page shows
WIDTH, HEIGHT = 6.4, 2.1  # inches of a histogram
BINS = 24
_GRID = "#e2e2e2"
_RIGHT, _WRONG, _NONE = COLOURS[0], COLOURS[1], "#999999"
_PAGE_STYLE: dict[Any, Any] = {
    **STYLE,
    "svg.fonttype": "none",  # text stays text
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
}


def curves(
    frames: Sequence[pd.DataFrame], labels: Sequence[str], key: str, attacks: Sequence[pd.DataFrame] = ()
) -> Markup | None:
    """Certified accuracy against radius with 95 % bands, and attacked accuracy; None where no run has a point.

    `key` makes its ids unique.
    """
    shown = [(df, label) for df, label in zip(frames, labels, strict=True) if len(df)]
    if not shown:
        return None
    from matplotlib import rc_context

    with rc_context(_PAGE_STYLE):
        # matplotlib leaves out of a legend what starts with an underscore, and a long name leaves the page
        names = [label if len(label) <= 60 else f"{label[:59]}\N{HORIZONTAL ELLIPSIS}" for _, label in shown]
        figure = curves_figure([df for df, _ in shown], names, STEPS, attacks)
        words = f"Curve of certified accuracy against the l2 radius, of {', '.join(names)}. The table has its values."
        return _svg(figure, words, key)


def radii(df: pd.DataFrame, info: RunInfo, key: str) -> Markup | None:
    """How many points are certified to which radius, right and wrong; None where none is certified."""
    certified = (df["predicted"] >= 0).fillna(False).to_numpy(dtype=bool)
    if not certified.any():
        return None
    radius = df["radius"].to_numpy(dtype=float, na_value=np.nan)[certified]
    right = df["correct"].astype("boolean").fillna(False).to_numpy(dtype=bool)[certified]
    end = max(float(np.nanmax(radius)), 1e-6) * 1.02
    groups = [("certified, right", radius[right], _RIGHT), ("certified, wrong", radius[~right], _WRONG)]
    return _histogram(groups, (0.0, end), "\u2113\u2082 radius (pixels in [0, 1])", "Histogram of certified radii", key)


def bounds(df: pd.DataFrame, key: str) -> Markup | None:
    """The lower bounds on the candidate's probability; None where no point has one."""
    ok = df[df["status"] == "ok"]
    if not len(ok):
        return None
    value = ok["p_lower"].to_numpy(dtype=float, na_value=np.nan)
    right = ok["correct"].astype("boolean").fillna(False).to_numpy(dtype=bool)
    abstained = (ok["predicted"] == -1).fillna(False).to_numpy(dtype=bool)
    groups = [
        ("certified, right", value[right & ~abstained], _RIGHT),
        ("certified, wrong", value[~right & ~abstained], _WRONG),
        ("abstained", value[abstained], _NONE),
    ]
    title = "Histogram of p_lower"
    return _histogram(groups, (0.0, 1.0), "p_lower, lower bound on the probability of the candidate class", title, key)


def _histogram(
    groups: Sequence[tuple[str, np.ndarray, str]], limits: tuple[float, float], xlabel: str, title: str, key: str
) -> Markup:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    there = [group for group in groups if len(group[1])]
    with rc_context(_PAGE_STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        figure.patch.set_visible(False)
        axes = figure.add_axes((0.8 / WIDTH, 0.45 / HEIGHT, 1 - 0.95 / WIDTH, 1 - 0.75 / HEIGHT))
        axes.patch.set_visible(False)
        axes.hist(
            [values for _, values, _ in there],
            bins=BINS,
            range=limits,
            stacked=True,
            color=[colour for *_, colour in there],
            label=[f"{name} ({len(values):,})" for name, values, _ in there],
            rwidth=0.92,
        )
        axes.set(xlim=limits, xlabel=xlabel, ylabel="points")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(
            loc="upper right", bbox_to_anchor=(1 - 0.1 / WIDTH, 1 - 0.03 / HEIGHT), ncols=3, labelcolor=GREY, **LEGEND
        )
        counted = ", ".join(f"{len(values):,} {name}" for name, values, _ in there)
        return _svg(figure, f"{title}: {counted}.", key)


def _svg(figure: Any, words: str, key: str) -> Markup:
    """The figure as an SVG element with ids of its own, colours of the page, and `words` for who does not see it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # of the whole page, were it in it
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{key}-\1"', svg)
    svg = svg.replace(GREY, "currentColor").replace(_GRID, "var(--rule)")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)  # the family is the page's
    opening, _, rest = svg.partition(">")
    box = re.search(r'viewBox="[^"]+"', opening)
    assert box is not None
    named = f'<svg {box[0]} role="img" aria-labelledby="{key}-title">'
    return Markup(f'{named}<title id="{key}-title">{escape(words)}</title>{rest}')
