"""A training as curves: noisy accuracy by solver steps, and how far chains are from the base classifier, by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from srs_ray.analysis.plot import COLOURS, DASHES, GREY, LEGEND, STYLE, drawable, save_figure
from srs_ray.errors import SrsRayError

_SIZE = (6.4, 4.6)  # inches


def plot_training(card: Mapping[str, Any], output: str | Path) -> Path:
    """Draws the epochs that the card of trained weights tells of; returns the file written (.png, .svg or .pdf).

    Raises SrsRayError for a card without a history of epochs, another suffix, an unwritable file.
    """
    output = drawable(output)
    if not card.get("history"):
        raise SrsRayError("the card of these weights tells of no epochs: only what `srs-ray train` wrote can be drawn")
    # matplotlib is slow to import, and only this function needs it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = pd.DataFrame(card["history"])
    with rc_context(STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        figure.suptitle(
            f"{card['architecture']} in training at sigma = {card['sigma']:g}", fontsize=10.5, fontweight="bold"
        )
        above, below = figure.subplots(2, 1, sharex=True)
        _draw(above, epochs, "accuracy.", "{} steps")
        _draw(below, epochs, "false.", "SRS-{}")
        above.set(ylabel="noisy accuracy", ylim=(0, None))
        below.set(ylabel="false top class", ylim=(0, None), xlabel="epoch")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (above, below):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
            axes.grid(color="#e2e2e2", linewidth=0.6)
            axes.set_axisbelow(True)
            if axes.lines:
                axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), **LEGEND)
            later = epochs.loc[epochs["phase"] != epochs["phase"].iloc[0], "epoch"]
            if len(later):
                axes.axvline(later.iloc[0] - 0.5, color=GREY, linestyle=(0, (1, 2)), linewidth=1.1)
        below.annotate(
            "dotted: from here on at the equilibrium", (0, -0.36), xycoords="axes fraction", fontsize=7, color=GREY
        )
        return save_figure(figure, output)


def _draw(axes: Any, epochs: pd.DataFrame, prefix: str, label: str) -> None:
    """One curve for each column of that prefix."""
    names = [name for name in epochs.columns if name.startswith(prefix)]
    for i, name in enumerate(names):
        shown = {"color": COLOURS[i], "linestyle": DASHES[i], "linewidth": 1.6, "marker": ".", "markersize": 4}
        axes.plot(epochs["epoch"], epochs[name], label=label.format(name.removeprefix(prefix)), **shown)
