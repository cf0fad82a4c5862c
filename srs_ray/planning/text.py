"""A plan in words and tables, for a person."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from srs_ray.planning.fresh_seed import SEED
from srs_ray.planning.plan import Cost, Expected, JobPlan
from srs_ray.planning.target_radius import MOST_SAMPLES, TargetPlan
from srs_ray.runs.printable import printable

WHY_A_SEED = (
    "the seed is fresh: these settings were chosen by what the job's own noise gave, and on the same noise the "
    "certificates would be wrong more often than alpha"
)


def print_plan(plan: JobPlan, console: Console) -> None:
    """What the job costs and can earn, how to reach the target if there is one, and what would make it cheaper."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)  # a command to paste stays in one line

    say(f"[bold]{escape(printable(plan.run))}[/]: {plan.done} of {plan.points} points done, {plan.todo} to do")
    if plan.errors:
        say(
            f"[yellow]{plan.errors} of {_points(plan.errors + plan.pilot)} ended in error[/] and are in no figure "
            f"below; the first: {escape(printable(plan.first_error or ''))}"
        )
    if plan.costs is None:
        say("no point is done yet, so nothing is said about the cost; --pilot 20 does 20 first")
    else:
        _print_whole(console, _cost_table(plan))
        for line in _cost_notes(plan):
            say(line)
    say(_cap_line(plan))
    if plan.target is not None:
        for line in _target_lines(plan.target, plan):
            say(line)
    if plan.savings:
        _print_whole(console, _savings_table(plan))
        for line in _savings_notes(plan):
            say(line)


def _print_whole(console: Console, table: Table) -> None:
    """Prints a table as wide as it is: on a narrow terminal its lines go on below, and no number loses a digit."""
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    width = max(console.width, needed)
    wide = Console(file=console.file, width=width, force_terminal=console.is_terminal, no_color=console.no_color)
    wide.print(table)


def _cost_table(plan: JobPlan) -> Table:
    costs = plan.costs
    assert costs is not None
    table = Table(box=SIMPLE_HEAD, title=f"expected from {_points(plan.pilot)}", title_justify="left")
    table.add_column("95 % intervals below", no_wrap=True)
    for heading in ("a point", f"the {plan.todo} to do", f"all {plan.points}"):
        table.add_column(heading, justify="right")

    def add(name: str, cost: Cost) -> None:
        table.add_row(name, _number(cost.per_point), _expected(cost.todo), _expected(cost.all))

    add("GPU-hours" if plan.on_gpu else "CPU worker-hours", costs.worker_hours)
    if costs.wall_hours is not None:
        workers = f"{plan.workers} worker{'s' * (plan.workers != 1)}"
        table.add_row(f"wall hours, {workers}", "", _expected(costs.wall_hours), "")
    add("function evaluations", costs.evaluations)
    if costs.audit_evaluations.per_point:
        add("  by the sampler", costs.sampler_evaluations)
        add("  by audits", costs.audit_evaluations)
    return table


def _cost_notes(plan: JobPlan) -> Iterator[str]:
    if plan.pilot == 1:
        yield "a single point tells nothing of the spread: there are no intervals"
    elif plan.todo:
        yield (
            f"intervals are Student's over {plan.pilot} points; a costly kind of point that is not among these is in "
            "none of them"
        )
    yield f"times are those measured on {', '.join(map(escape, plan.devices))}; evaluations are the same everywhere"
    if plan.by_looks and plan.samples is not None:
        ways = ", ".join(f"{count} by {method}" for method, count in sorted(plan.methods.items()))
        yield f"samples drawn to estimate: {plan.samples:,.0f} of at most {plan.most_samples:,} on average ({ways})"


def _cap_line(plan: JobPlan) -> str:
    if not plan.radius_cap:
        return f"{plan.limits} allow no radius at all"
    return (
        f"the largest radius that {plan.limits} allow: [bold]{plan.radius_cap:.3g}[/] "
        f"({plan.radius_cap_in_sigma:.3g} sigma)"
    )


def _target_lines(target: TargetPlan, plan: JobPlan) -> Iterator[str]:
    found = target.disagreement
    yield ""
    yield (
        f"[bold]radius {target.radius:g}[/] needs a bound above {_probability(target.p_needed)}. "
        f"For a point whose true radius is {target.true_radius:.3g} (p_A = {_probability(target.p_true)}), "
        "on the counts it has on average:"
    )
    if target.audited:
        yield (
            f"  disagreement of chains {found.rate:.3%}: {found.disagreed} of {found.audited:,} audited hits, on "
            f"the {found.points} points with rates of hits nearest to this p_A"
            if found.audited
            else "  disagreement of chains: no audit has told yet, so none is assumed; a pilot will tell"
        )
        if found.audited_misses:
            yield f"  F hits on {found.missed:.3%} of the misses: {found.found} of {found.audited_misses:,} audited"
    yield f"  the job as it is {'certifies' if target.enough_now else 'does not certify'} it"
    if target.proposal is None:
        yield f"  nothing up to {MOST_SAMPLES:,} samples certifies it{_why_none(target)}"
    else:
        most = "at most " if plan.by_looks else ""
        mean = (
            ""
            if plan.costs is None
            else f", {target.proposal.evaluations / plan.costs.evaluations.per_point:.2g} times the mean"
        )
        yield f"  the cheapest that does, at {most}{target.proposal.evaluations:,.0f} evaluations a point{mean}:"
        yield f"    [bold]{escape(target.proposal.options)}[/]"
        yield "  about every second such point has counts below these; another n or audit is another run (--output)"
        yield f"  {WHY_A_SEED}"
    if target.standard is not None:
        yield (
            f"  standard sampling, which needs no audit, takes {target.standard.settings['sampling.n']:,} samples of "
            f"F, {target.standard.evaluations:,.0f} evaluations (sampling.method: standard, "
            f"{SEED}: {target.standard.settings[SEED]})"
        )


def _why_none(target: TargetPlan) -> str:
    found = target.disagreement
    confirmed = target.p_true * (1 - found.rate) + (1 - target.p_true) * found.missed
    if confirmed <= target.p_needed:
        what = "hits" if found.audited_misses else "confirms the chains' hits"
        return f": F {what} on {_probability(confirmed)} of the samples, which is not above the bound"
    return ""


def _savings_table(plan: JobPlan) -> Table:
    table = Table(
        box=SIMPLE_HEAD, title="to halve the cost, --set one of these, with its execution.seed", title_justify="left"
    )
    table.add_column("change", no_wrap=True)
    table.add_column("seed", no_wrap=True, justify="right")
    for heading in ("evaluations", "largest radius", "median radius"):
        table.add_column(heading, justify="right")
    for saving in plan.savings:
        table.add_row(
            saving.assignment,
            "as it is" if saving.seed is None else str(saving.seed),
            f"{saving.evaluations:.0%}",
            f"{plan.radius_cap:.3g} -> {saving.radius_cap:.3g}",
            "not known"
            if saving.median_radius is None or saving.median_radius_now is None
            else f"{saving.median_radius_now:.3g} -> {saving.median_radius:.3g}",
        )
    return table


def _savings_notes(plan: JobPlan) -> Iterator[str]:
    settings = {saving.setting for saving in plan.savings}
    yield "evaluations: what is left of them; median radius: what the median of the certified points would earn"
    yield "data.every takes fewer points of the same run; any other change is another run (--output)"
    if plan.target is None or plan.target.proposal is None:
        yield WHY_A_SEED
    if "sampling.steps" in settings:
        yield "fewer steps: chains will agree less often with F, by how much only a pilot with them tells"
    if plan.by_looks:
        yield "reckoned as if points stopped where they did, or at the new n"
    else:
        yield (
            "sampling.target_radii=[...] (for srs with certificate.audit=0) draws only the samples that these radii "
            "need: docs/sequential.md has what it saves and what it loses"
        )


def _points(count: int) -> str:
    return f"{count} point{'s' * (count != 1)}"


def _expected(value: Expected) -> str:
    if value.low is None or value.high is None or value.low == value.high:
        return _number(value.mean)
    return f"{_number(value.mean)}\n{_number(value.low)} to {_number(value.high)}"


def _number(value: float) -> str:
    """Three digits, or all of a whole number's before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _probability(p: float) -> str:
    return f"{p:.6g}" if p < 0.9999 else f"1 - {1 - p:.3g}"
