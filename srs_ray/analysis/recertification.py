"""Certificates computed again from the stored counts: another alpha or another kind, without sampling again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from srs_ray.analysis.run_info import RunInfo
from srs_ray.errors import SrsRayError
from srs_ray.smoothing.certificates import CERTIFICATES, certified_radius, p_lower
from srs_ray.smoothing.looks import LOOK_CERTIFICATES, UNAUDITED, LookCounts, plan_of_looks


def recertify(df: pd.DataFrame, certificate: str | None = None, alpha: float | None = None) -> pd.DataFrame:
    """A copy of `df` with predicted, radius, p_lower and correct for another certificate or alpha (None: the run's).

    Which certificate applies is to be fixed before the run, never the better of two afterwards: the frame remembers
    that it was recomputed, and every table and plot of it says so. `released` is unsound, and they say that too.
    Raises SrsRayError for a certificate that does not fit the sampling method (`cohen` needs independent samples, the
    others an audit) and for an alpha outside (0, 1).
    """
    info = RunInfo.of(df)
    certificate = info.certificate if certificate is None else certificate
    alpha = info.alpha if alpha is None else alpha
    kinds = CERTIFICATES if info.looks is None else LOOK_CERTIFICATES
    allowed = [kind for kind in kinds if (kind in UNAUDITED) == (info.method == "standard")]
    if certificate not in allowed:
        raise SrsRayError(
            f"certificate {certificate!r} does not fit {info.name}, whose samples are of method {info.method}; "
            f"choose {' | '.join(allowed)}"
        )
    if not 0 < alpha < 1:
        raise SrsRayError(f"alpha is {alpha}; expected a probability of error between 0 and 1, such as 0.001")

    ok = (df["status"] == "ok").to_numpy()
    p = np.array([_p_lower(row, info, certificate, alpha) for row in df[ok].itertuples()])
    radius = np.array([certified_radius(bound, info.sigma) for bound in p])
    predicted = df["selected"][ok].where(radius > 0, -1)
    recertified = df.copy()
    recertified.loc[ok, "p_lower"] = p
    recertified.loc[ok, "radius"] = radius
    recertified.loc[ok, "predicted"] = predicted.array
    recertified.loc[ok, "correct"] = (predicted == df["label"][ok]).array

    own = info.recomputed_from or _named(info.certificate, info.alpha)
    changed = own != _named(certificate, alpha)
    replace(info, certificate=certificate, alpha=alpha, recomputed_from=own if changed else None).attach(recertified)
    return recertified


def _p_lower(row: Any, info: RunInfo, certificate: str, alpha: float) -> float:
    if row.selected == -1:  # selection's winner was 'no class': abstain, whatever the counts
        return 0.0
    if info.looks is not None:
        kind = "mixture" if info.method == "auto" and row.method == "standard" else certificate
        plan = plan_of_looks(kind, alpha, info.n, info.looks, float(row.audit_share))
        return plan.p_lower(
            [
                LookCounts(*map(int, counts))
                for counts in zip(row.look_n, row.look_hits, row.look_audited, row.look_disagreed, strict=True)
            ]
        )
    hits = sum(int(count) for c, count in zip(row.classes, row.counts, strict=True) if c == row.selected)
    return p_lower(certificate, hits, int(row.n), int(row.audited), int(row.disagreed), alpha)


def _named(certificate: str, alpha: float) -> str:
    return f"{certificate}, alpha = {alpha}"
