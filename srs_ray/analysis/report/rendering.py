"""From what a report holds to its HTML: one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from srs_ray.analysis.comparison import UNDEFINED, AccuracyAt
from srs_ray.analysis.export import write_text
from srs_ray.analysis.report import pictures
from srs_ray.analysis.report.contents import Options, Report, RunReport, collect
from srs_ray.analysis.report.pdf import find_browser, print_pdf
from srs_ray.errors import SrsRayError
from srs_ray.runs.printable import printable
from srs_ray.settings import home_expanded

SUFFIXES = (".html", ".htm", ".pdf")
SECTIONS = (
    ("summary", "Summary"),
    ("error", "Run-wide error"),
    ("results", "Results"),
    ("curve", "Certified accuracy against the radius"),
    ("classes", "Classes"),
    ("distributions", "Distributions"),
    ("points", "Points to look at"),
    ("cost", "Cost"),
    ("checked", "Verification"),
    ("provenance", "Provenance"),
    ("limits", "What is not guaranteed"),
    ("again", "How to reproduce it"),
)
LONGEST = 1200  # characters of any text of a run


def write_report(runs: Sequence[str | os.PathLike[str]], output: str | Path, options: Options) -> Report:
    """Writes the report of runs as HTML, or as PDF where the output ends in .pdf; returns what it holds.

    Raises SrsRayError for another suffix, an unwritable file, and a PDF without a browser; see `collect`.
    """
    output = home_expanded(output, SrsRayError)
    if output.suffix.lower() not in SUFFIXES:
        raise SrsRayError(f"cannot write a report as {output.name!r}: its suffix must be .html or .pdf")
    browser = find_browser() if output.suffix.lower() == ".pdf" else None
    report = collect(runs, options, output.name)
    text = render(report)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SrsRayError(f"cannot write {output} ({error.strerror or error}); choose another output") from error
    if browser is None:
        write_text(text, output)
        return report
    with tempfile.TemporaryDirectory(prefix="srs-ray-") as folder:
        page = Path(folder) / "report.html"
        page.write_text(text, encoding="utf-8")
        print_pdf(page, output, browser)
    return report


def render(report: Report) -> str:
    """The report as an HTML document: style, script and drawings are in it, and its policy forbids to load any."""
    folder = files("srs_ray.analysis.report") / "templates"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "tables.js"))
    environment = Environment(
        loader=PackageLoader("srs_ray.analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_as_text,
    )
    environment.filters |= {"percent": percent, "span": span, "number": number, "lines": _lines, "shown": _shown}
    frames, labels = [run.frame for run in report.runs], [run.label for run in report.runs]
    drawn = {
        run.number: {
            "curve": pictures.curves([run.frame], [run.label], f"curve-{run.number}", _attacks([run])),
            "radii": pictures.radii(run.frame, run.info, f"radii-{run.number}"),
            "bounds": pictures.bounds(run.frame, f"bounds-{run.number}"),
        }
        for run in report.runs
    }
    return environment.get_template("report.html").render(
        report=report,
        drawn=drawn,
        together=pictures.curves(frames, labels, "curves", _attacks(report.runs)) if len(frames) > 1 else None,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        parts_of=SECTIONS,
        headline=_headline,
        points_text=_points_text,
        span=span,
    )


def _attacks(runs: Sequence[RunReport]) -> list[pd.DataFrame]:
    """The attacks on runs that have a point: others have no curve."""
    return [run.attacked.frame for run in runs if run.attacked is not None and len(run.frame)]


def percent(share: float | None) -> str:
    """A share in percent with one decimal."""
    return UNDEFINED if share is None else f"{100 * share:.1f} %"


def span(low: float, high: float) -> str:
    """An interval of shares in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def number(value: float | None, spec: str = ".3f") -> str:
    """A number by its format, `n/a` for none."""
    return UNDEFINED if value is None else format(value, spec)


def _headline(run: RunReport) -> AccuracyAt | None:
    """The certified accuracy of the first sentence: in the middle of the radii that some point reaches."""
    reached = [at for at in run.result.accuracies if at.radius > 0 and at.certified]
    return reached[len(reached) // 2] if reached else None


def _points_text(run: RunReport) -> str:
    """What became of the points, in a sentence's part."""
    summary = run.result.summary
    right = summary.certificates - run.wrong.total
    counted = [(right, "certified with the right class"), (run.wrong.total, "certified with a wrong one")]
    counted += [(summary.abstained, "abstained on"), (summary.errors, "in error")]
    return ", ".join(f"{count:,} {words}" for count, words in counted if count) or "none has ended"


def _policy(style: str, script: str) -> str:
    """Which style and script a browser may apply: those of the template alone; pictures are those in the file."""
    of_style, of_script = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (style, script)
    )
    # Drawings have style attributes, which have no digests: those fall back to style-src.
    return (
        f"default-src 'none'; img-src data:; script-src {of_script}; style-src 'unsafe-inline'; "
        f"style-src-elem {of_style}; base-uri 'none'; form-action 'none'"
    )


def _as_text(value: Any) -> Any:
    """What a template prints: text of runs without characters that do not show, and cut where it is very long."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _shown(value, LONGEST)


def _shown(text: str, most: int = 120) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[:most]}\N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)"


def _lines(text: str) -> Markup:
    """A text of several lines, each of them printable, escaped."""
    return Markup("\n").join(printable(line) for line in text.splitlines())
