"""The commands that read results: `srs-ray aggregate`, `plot` and `export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from srs_ray.cli_options import certificate_names, completing, one_of, open_console
from srs_ray.cli_output import refuse_lost_output
from srs_ray.errors import SrsRayError

if TYPE_CHECKING:
    from srs_ray.analysis.table import LatexStyle

AGGREGATE_EXAMPLE = "Example: srs-ray aggregate runs/a runs/b --radii 0,0.25,36/255 --format markdown"
PLOT_EXAMPLE = "Example: srs-ray plot runs/a runs/b --output curves.png"
EXPORT_EXAMPLE = "Example: srs-ray export runs/a --format cohen > a.tsv"

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run directory: a local path or a URI such as s3://...")]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories: local paths or URIs.")]
CertificateOption = Annotated[
    str | None,
    typer.Option(
        help="Compute the radii again from the stored counts by this certificate: exact, weighted, union, paper or, "
        "without target radii, released (unsound) for srs and auto; cohen or mixture for standard with target radii. "
        "two-sided is for runs that audited misses.",
        autocompletion=completing(certificate_names),
    ),
]
AlphaOption = Annotated[float | None, typer.Option(help="Compute the radii again at this error probability.")]
RadiiOption = Annotated[
    str | None,
    typer.Option(help="Radii in pixel units of [0, 1], such as 0,0.25,36/255. Default: those of the first run's job."),
]


AttackOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIRECTORY", help="The directory of an attack on one of the runs: its ceiling too. May be repeated."
    ),
]


def _frames(runs: list[str], certificate: str | None, alpha: float | None) -> list[Any]:
    from srs_ray.analysis import load_points, recertify

    frames = [load_points(run) for run in runs]
    if certificate is None and alpha is None:
        return frames
    return [recertify(frame, certificate, alpha) for frame in frames]


def _default_radii(run: str) -> list[float]:
    from srs_ray.analysis.run_info import report_radii
    from srs_ray.runs import RunDirectory

    return report_radii(RunDirectory.open(run).job)


def print_table(
    runs: list[str],
    radii: str | None,
    form: str,
    certificate: str | None = None,
    alpha: float | None = None,
    of: str = "ended",
    project_n: int | None = None,
    attacks: Sequence[str] = (),
    latex: LatexStyle | None = None,
    output: Path | None = None,
) -> None:
    """Print the table of runs, recomputed if asked, in a form of `aggregate`; or write it to a file."""
    from srs_ray.analysis import comparison_table, load_attacks, point_warnings, write_text

    frames = _frames(runs, certificate, alpha)
    shown = radii if radii is not None else _default_radii(runs[0])
    text = comparison_table(frames, shown, form, of, project_n, list(map(load_attacks, attacks)), latex)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(text, output)
    for warning in point_warnings(frames) if form in ("csv", "json") else ():  # other forms have it below the table
        open_console(stderr=True).print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)


def aggregate(
    runs: Runs,
    radii: RadiiOption = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="table, markdown, latex, csv or json.",
            autocompletion=one_of("table", "markdown", "latex", "csv", "json"),
        ),
    ] = "table",
    certificate: CertificateOption = None,
    alpha: AlphaOption = None,
    of: Annotated[
        str,
        typer.Option(
            help="What shares are of: the points that ended, or all asked for, where those without a row count as not "
            "certified: a lower bound.",
            autocompletion=one_of("ended", "asked"),
        ),
    ] = "ended",
    project_n: Annotated[
        int | None,
        typer.Option(
            help="Also show what points would be certified at this n if their rates of hits stayed: no certificate."
        ),
    ] = None,
    attack: AttackOption = None,
    intervals: Annotated[bool, typer.Option("--intervals", help="latex: with 95 % intervals.")] = False,
    caption: Annotated[str | None, typer.Option(help="latex: the caption, as text.")] = None,
    tag: Annotated[str | None, typer.Option(help="latex: the label to refer to it by, such as tab:cifar10.")] = None,
    output: Annotated[Path | None, typer.Option(help="A file; default: standard output.")] = None,
) -> None:
    """Certified accuracy, abstentions, cost and bounds of runs, side by side, and point by point beside the first."""
    latex = None
    if intervals or caption is not None or tag is not None:
        if form != "latex":
            raise SrsRayError(f"--intervals, --caption and --tag are for --format latex, found {form!r}")
        from srs_ray.analysis.table import LatexStyle

        latex = LatexStyle(intervals, caption, tag)
    print_table(runs, radii, form, certificate, alpha, of, project_n, attack or (), latex, output)
    refuse_lost_output()


def plot(
    runs: Runs,
    output: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
    certificate: CertificateOption = None,
    alpha: AlphaOption = None,
    attack: AttackOption = None,
    title: Annotated[str | None, typer.Option(help="Default: the models' names.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="What the legend says of a run; once for each run, in their order.")
    ] = None,
    no_bands: Annotated[bool, typer.Option("--no-bands", help="Leave the 95 % bands out.")] = False,
    start: Annotated[str | None, typer.Option("--from", help="First radius of the axis. Default: 0.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Last radius. Default: a little beyond the largest.")] = None,
) -> None:
    """Certified accuracy against radius, one curve for each run, with 95 % bands."""
    from srs_ray.analysis import load_attacks, plot_curves

    look: dict[str, Any] = {"title": title, "labels": label or None, "bands": not no_bands}
    look |= {name: _radius(text) for name, text in (("min_radius", start), ("max_radius", end)) if text is not None}
    attacks = list(map(load_attacks, attack or ()))
    typer.echo(f"wrote {plot_curves(_frames(runs, certificate, alpha), output, attacks=attacks, **look)}")


def _radius(text: str) -> float:
    from srs_ray.analysis import parse_radii

    radii = parse_radii(text)
    if len(radii) != 1:
        raise SrsRayError(f"{text!r}: expected one radius, such as 0.5 or 36/255")
    return float(radii[0])


def export(
    run: Run,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="cohen: idx label predict radius correct time; points: all rows, with source, class name and error.",
            autocompletion=one_of("cohen", "points"),
        ),
    ] = "cohen",
    output: Annotated[Path | None, typer.Option(help="A file; default: standard output.")] = None,
    certificate: CertificateOption = None,
    alpha: AlphaOption = None,
) -> None:
    """A run as tab-separated text: as the field's analysis scripts read it, or with all that a row says in one cell."""
    from srs_ray.analysis import cohen_export, points_export, write_cohen_export, write_text

    if form not in ("cohen", "points"):
        raise SrsRayError(f"no export format {form!r}; there are cohen and points")
    from srs_ray.runs.printable import printable

    [frame] = _frames([run], certificate, alpha)
    notes: list[str]
    if form == "points":
        text, notes = points_export(frame), []
        if output is not None:
            write_text(text, output)
    else:
        exported = cohen_export(frame) if output is None else write_cohen_export(frame, output)
        text, notes = exported.text, list(exported.notes)
    if output is None:
        typer.echo(text, nl=False)
    for note in notes:
        open_console(stderr=True).print(f"[dim]{escape(printable(note))}[/]", highlight=False)
    refuse_lost_output()
