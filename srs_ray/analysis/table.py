"""The comparison of runs as a table: for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from srs_ray.analysis.comparison import UNDEFINED, RunResults, compare, notes
from srs_ray.analysis.projection import QUANTILES
from srs_ray.analysis.records import comparison_csv, comparison_json
from srs_ray.analysis.statements import ABOVE_CAP, FLOOR
from srs_ray.errors import SrsRayError

COST_HEADINGS = ("abstained", "errors", "NFE", "NFE audit", "s/point")


def comparison_table(
    frames: Sequence[pd.DataFrame],
    radii: str | Iterable[str | float],
    form: str = "table",
    of: str = "ended",
    project_n: int | None = None,
    attacks: Sequence[pd.DataFrame] = (),
    latex: LatexStyle | None = None,
) -> str:
    """The runs of `frames` at `radii` as text of the form table | markdown | latex | csv | json.

    Certified accuracy is in percent, to be read with the notes underneath (in CSV and JSON: a share, with the notes'
    facts as columns); `of`, `project_n` and `attacks` as in `compare`. `latex` needs the package booktabs, and takes a
    style. Raises SrsRayError for an unknown form, for a style beside another form, and as `compare` does.
    """
    if form not in FORMS:
        raise SrsRayError(f"no table form {form!r}; choose {' | '.join(FORMS)}")
    if latex is not None and form != "latex":
        raise SrsRayError(f"intervals, caption and label are those of the form latex, found {form!r}")
    results = compare(frames, radii, of, project_n, attacks)
    return FORMS[form](results) if latex is None else latex_table(results, latex)


def terminal_table(results: Sequence[RunResults]) -> str:
    """Three stacked tables, accuracy, cost and bounds, so that seven radii fit a terminal; no colour codes."""
    names = ("run", "setting", "certificate", "sigma")
    accuracy = Table(*names, box=SIMPLE_HEAD, title="certified accuracy (%) at radius")
    cost = Table("run", "setting", box=SIMPLE_HEAD, title="points and cost")
    bounds = Table("run", "setting", box=SIMPLE_HEAD, title="p_lower at quantiles of the points, and their mean radius")
    for heading in (*_radius_labels(results), "ended"):
        accuracy.add_column(heading, justify="right")
    for heading in COST_HEADINGS:
        cost.add_column(heading, justify="right")
    for heading in (*(f"{share:.0%}" for share in QUANTILES), "ACR"):
        bounds.add_column(heading, justify="right")
    for result in results:
        cells = [at.percent("\n{:.0f}-{:.0f}") for at in result.accuracies]
        accuracy.add_row(*_names(result), *cells, _ended(result))
        cost.add_row(result.label, result.info.setting, *_costs(result))
        bounds.add_row(result.label, result.info.setting, *_bounds(result), _acr(result))
    text = io.StringIO()
    # Wider than any table: a pipe or a log must not squeeze the columns. Markup off: run names may hold brackets.
    console = Console(file=text, width=1000, markup=False, emoji=False, highlight=False)
    console.print(accuracy)
    console.print(cost)
    console.print(bounds)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    for note in notes(results, intervals=True):
        lines += textwrap.wrap(note, width=100, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines).strip("\n") + "\n"


def markdown_table(results: Sequence[RunResults]) -> str:
    """A pipe table aligned in plain text as well, and the notes as a list."""
    headings = ["run", "setting", "certificate", "sigma", *(f"r = {label}" for label in _radius_labels(results))]
    headings += _FURTHER_HEADINGS
    rows = [list(map(markdown_escape, _row(result, " [{:.1f}, {:.1f}]"))) for result in results]
    widths = [max(3, *map(cell_len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        room = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        words = [cell + spaces for cell, spaces in zip(cells[:3], room[:3], strict=True)]
        numbers = [spaces + cell for cell, spaces in zip(cells[3:], room[3:], strict=True)]
        return f"| {' | '.join(words + numbers)} |"

    rule = "|".join("-" * (width + 2) if i < 3 else "-" * (width + 1) + ":" for i, width in enumerate(widths))
    listed = [f"- {markdown_escape(note)}" for note in notes(results, intervals=True)]
    return "\n".join([line(headings), f"|{rule}|", *map(line, rows), "", *listed]) + "\n"


def markdown_escape(text: str) -> str:
    """`text` as Markdown shows it: no cell ends in it, and it holds no HTML, link, picture, code or emphasis."""
    text = text.replace("\\", "\\\\").replace("](", "]\\(").translate(_MARKDOWN)
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", text)


@dataclass(frozen=True)
class LatexStyle:
    """What a LaTeX table has beside its numbers: 95 % intervals, a caption (as text), a label to refer to it by."""

    intervals: bool = False
    caption: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.label is not None and not re.fullmatch(r"[\w.:+/-]+", self.label, re.ASCII):
            raise SrsRayError(
                f"{self.label!r} is no label of LaTeX: expected letters, digits and . : + / - _, such as tab:cifar10"
            )


def latex_table(results: Sequence[RunResults], style: LatexStyle | None = None) -> str:
    """A table float in the style of booktabs, in percent, with the notes in small print underneath."""
    style = style or LatexStyle()
    interval = " [{:.1f}, {:.1f}]" if style.intervals else ""
    head = [] if style.caption is None else [rf"\caption{{{latex_escape(style.caption)}}}"]
    head += [] if style.label is None else [rf"\label{{{style.label}}}"]
    labels = _radius_labels(results)
    first, last = 5, 4 + len(labels)
    headings = ["run", "setting", "certificate", r"$\sigma$", *map(latex_escape, [*labels, *_FURTHER_HEADINGS])]
    lines = [
        r"\begin{table}",
        r"\centering",
        *head,
        r"\begin{tabular}{lll" + "r" * (len(headings) - 3) + "}",
        r"\toprule",
        rf"& & & & \multicolumn{{{len(labels)}}}{{c}}{{certified accuracy (\%) at radius}} \\",
        rf"\cmidrule(lr){{{first}-{last}}}",
        " & ".join(headings) + r" \\",
        r"\midrule",
        *(" & ".join(map(latex_escape, _row(result, interval))) + r" \\" for result in results),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize\raggedright",
        *(latex_escape(note) + r".\par" for note in notes(results, intervals=style.intervals)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_escape(text: str) -> str:
    """`text` as LaTeX prints it, in any font encoding; `[` in braces, lest a line break takes it for an option."""
    return text.translate(_LATEX).replace(r"\textgreater{}=", r"$\geq$").replace(r"\textless{}=", r"$\leq$")


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        ABOVE_CAP: "--",
        **{c: "\\" + c for c in "&%$#_{}"},
    }
)

_MARKDOWN = str.maketrans({"|": "\\|", "`": "\\`", "*": "\\*"})

_FURTHER_HEADINGS = ["ended", *COST_HEADINGS, *(f"p_lower {share:.0%}" for share in QUANTILES), "ACR"]

FORMS: dict[str, Callable[[Sequence[RunResults]], str]] = {
    "table": terminal_table,
    "markdown": markdown_table,
    "latex": latex_table,
    "csv": comparison_csv,
    "json": comparison_json,
}


def _radius_labels(results: Sequence[RunResults]) -> list[str]:
    return [at.radius_label for at in results[0].accuracies]


def _row(result: RunResults, interval: str) -> list[str]:
    accuracies = [at.percent(interval) for at in result.accuracies]
    return [*_names(result), *accuracies, _ended(result), *_costs(result), *_bounds(result), _acr(result)]


def _names(result: RunResults) -> list[str]:
    info = result.info
    certificate = info.certificate if info.sound else f"{info.certificate} (unsound)"
    recomputed = "" if info.recomputed_from is None else ", recomputed"
    return [result.label, info.setting, certificate + recomputed, "none" if info.margins else f"{info.sigma:g}"]


def _costs(result: RunResults) -> list[str]:
    costs = result.summary
    return [
        str(costs.abstained),
        str(costs.errors),
        _number(costs.evaluations_per_sample, ".2f"),
        _number(costs.audit_evaluations_per_sample, ".2f"),
        _number(costs.seconds_per_point, ".3g"),
    ]


def _ended(result: RunResults) -> str:
    return f"{result.summary.points}/{result.info.asked}"


def _bounds(result: RunResults) -> list[str]:
    return [_number(bound, ".3f") for bound in result.p_lower]


def _acr(result: RunResults) -> str:
    acr = _number(result.summary.average_certified_radius, ".3f")
    return FLOOR + acr if result.acr_is_floor and acr != UNDEFINED else acr


def _number(value: float | None, spec: str) -> str:
    return UNDEFINED if value is None else format(value, spec)
