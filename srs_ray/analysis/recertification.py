"""Certificates computed again from the stored counts: another alpha or another kind, without sampling again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from srs_ray.analysis.run_info import RunInfo
from srs_ray.errors import SrsRayError
from srs_ray.smoothing.audit import Fixed, Share, ShareOfAll
from srs_ray.smoothing.bounds import EXACT, MIXTURE, Evidence, fitting_bounds
from srs_ray.smoothing.plan import Plan
from srs_ray.smoothing.smoothing import Smoothing


def recertify(df: pd.DataFrame, certificate: str | None = None, alpha: float | None = None) -> pd.DataFrame:
    """A copy of `df` with predicted, radius, p_lower and correct for another certificate or alpha (None: the run's).

    Which certificate applies is to be fixed before the run, never the better of two afterwards: the frame remembers
    that it was recomputed, and every table and plot of it says so. `released` is unsound, and they say that too.
    Raises SrsRayError for a certificate that does not fit the sampling method (`cohen` needs independent samples, the
    others an audit, `two-sided` one of misses) and for an alpha outside (0, 1).
    """
    info = RunInfo.of(df)
    certificate = info.certificate if certificate is None else certificate
    alpha = info.alpha if alpha is None else alpha
    own_sampling = info.smoothing.sampling
    fitting = fitting_bounds(audited=own_sampling.audited, by_looks=own_sampling.by_looks)
    audited_misses = "audited_misses" in df and bool(df["audited_misses"].notna().any())
    misses = audited_misses or info.smoothing.certificate.bound.misses
    allowed = [bound.name for bound in fitting if misses or not bound.misses]
    if certificate not in allowed:
        raise SrsRayError(
            f"certificate {certificate!r} does not fit {info.name}, whose samples are of method {info.method}; "
            f"choose {' | '.join(allowed)}"
        )
    if not 0 < alpha < 1:
        raise SrsRayError(f"alpha is {alpha}; expected a probability of error between 0 and 1, such as 0.001")

    ok = (df["status"] == "ok").to_numpy()
    changed_info = replace(info, certificate=certificate, alpha=alpha)
    smoothing = changed_info.smoothing
    p = np.array([smoothing.drawn.p_lower(_p_lower(row, smoothing)) for row in df[ok].itertuples()])
    radius = np.array([smoothing.radius(bound) for bound in p])
    predicted = df["selected"][ok].where(radius > 0, -1)
    recertified = df.copy()
    recertified.loc[ok, "p_lower"] = p
    recertified.loc[ok, "radius"] = radius
    recertified.loc[ok, "predicted"] = predicted.array
    recertified.loc[ok, "correct"] = ((predicted >= 0) & (predicted == df["label"][ok])).array

    own = info.recomputed_from or _named(info)
    changed = own != _named(changed_info)
    replace(changed_info, recomputed_from=own if changed else None).attach(recertified)
    return recertified


def _p_lower(row: Any, smoothing: Smoothing) -> float:
    if row.selected == -1:  # selection's winner was 'no class': abstain, whatever the counts
        return 0.0
    sampling, certificate = smoothing.sampling, smoothing.certificate
    if not sampling.by_looks:
        of_misses = (int(row.audited_misses), int(row.found)) if certificate.bound.misses else ()
        counts = Evidence(int(row.n), hits_of(row), int(row.audited), int(row.disagreed), *of_misses)
        return certificate.bound.p_lower(counts, certificate.alpha)  # of the row's own n
    plan = plan_of(row, smoothing)
    columns = [row.look_n, row.look_hits, row.look_audited, row.look_disagreed]
    columns += [row.look_audited_misses, row.look_found] if plan.bound.misses else []
    return plan.p_lower([Evidence(*map(int, counts)) for counts in zip(*columns, strict=True)])


def hits_of(row: Any) -> int:
    """How often estimation said the selected class of a row, one of `df.itertuples()`."""
    return sum(int(count) for c, count in zip(row.classes, row.counts, strict=True) if c == row.selected)


def plan_of(row: Any, smoothing: Smoothing) -> Plan:
    """The plan by which the row's point is estimated; by looks its audit share, if any, is the row's own.

    Where the sampling chose among bounds, the row shows which: standard sampling has no audits, and a point that was
    certified by hits alone has none of misses.
    """
    sampling, certificate = smoothing.sampling, smoothing.certificate
    if not sampling.by_looks:
        return smoothing.plan
    share, bound = float(row.audit_share), certificate.bound
    if bound.audited != (share > 0):
        return sampling.plan_by(MIXTURE, certificate, Fixed(0))
    if not bound.misses:
        return sampling.plan_by(bound, certificate, Share(share) if share else Fixed(0))
    if row.look_audited_misses is None:
        return sampling.plan_by(EXACT, certificate, Share(share))
    return sampling.plan_by(bound, certificate, ShareOfAll(share))


def _named(info: RunInfo) -> str:
    """The certificate, its own settings where it has any, and alpha."""
    detail = info.smoothing.certificate.bound.detail
    return f"{info.certificate}{f' ({detail})' if detail else ''}, alpha = {info.alpha}"
