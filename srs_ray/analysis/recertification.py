"""Certificates computed again from the stored counts: another alpha or another kind, without sampling again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from srs_ray.analysis.run_info import RunInfo
from srs_ray.errors import SrsRayError
from srs_ray.runs.claims import p_lower_of
from srs_ray.smoothing.bounds import fitting_bounds


def recertify(df: pd.DataFrame, certificate: str | None = None, alpha: float | None = None) -> pd.DataFrame:
    """A copy of `df` with predicted, radius, p_lower and correct for another certificate or alpha (None: the run's).

    Choose the certificate before the run; picking the better of two afterwards voids the guarantee: the frame remembers
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
    p = np.array([p_lower_of(row, smoothing) for row in records(df[ok])])
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


def records(df: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, by their columns."""
    return [{str(name): value for name, value in row.items()} for row in df.to_dict("records")]


def _named(info: RunInfo) -> str:
    """The certificate, its own settings where it has any, and alpha."""
    detail = info.smoothing.certificate.bound.detail
    return f"{info.certificate}{f' ({detail})' if detail else ''}, alpha = {info.alpha}"
