"""The bounds behind radii: how they are distributed over points, and what rates like these would earn at other n."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from srs_ray.analysis.recertification import records
from srs_ray.analysis.run_info import RunInfo
from srs_ray.errors import SrsRayError
from srs_ray.runs.claims import hits_of, plan_of
from srs_ray.smoothing.bounds import Evidence
from srs_ray.smoothing.smoothing import Smoothing

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def label_bounds(df: pd.DataFrame) -> np.ndarray:
    """For each row the lower bound on the probability of its label, ascending.

    That is `p_lower` where the candidate class is the label, else 0: a wrong candidate or an error bounds nothing.
    """
    right = (df["selected"] >= 0) & (df["selected"] == df["label"])
    bounds = df["p_lower"].where(right.fillna(False).astype(bool), 0.0)
    return np.sort(bounds.fillna(0.0).to_numpy(dtype=float))


def p_lower_quantiles(df: pd.DataFrame, quantiles: Iterable[float] = QUANTILES) -> pd.Series:
    """Quantiles over all rows of the lower bound on the probability of the label, 0 where there is none.

    A quantile is the bound of a point (the lower one of two), not a mean of two. NaN for a frame without rows. A table
    of them shows the hard points that ACR passes over (arXiv 2410.06895). Raises SrsRayError outside [0, 1].
    """
    asked = [float(quantile) for quantile in quantiles]
    wrong = [quantile for quantile in asked if not 0 <= quantile <= 1]
    if wrong:
        raise SrsRayError(f"quantile {wrong[0]:g} is not usable: expected shares from 0 to 1, such as 0.5")
    bounds = label_bounds(df)
    found = np.quantile(bounds, asked, method="lower") if len(bounds) else np.full(len(asked), np.nan)
    return pd.Series(found, index=pd.Index(asked, name="quantile"), name="p_lower")


def projected_radii(df: pd.DataFrame, n: int | None = None, alpha: float | None = None) -> pd.DataFrame:
    """What each point would earn at another n or alpha if its rates of hits and disagreement stayed. NO certificate.

    Columns: index, label, selected, projected_p_lower, projected_radius (pixel units of [0, 1]), and projected_correct:
    whether the radius is above 0 and the candidate class is the label. None takes the run's own n or alpha. At
    another n the counts are guesses, rounded against the point, and nothing is proved of them; by looks they are those
    of the last look, and early stops make rates look better than they are. At the run's own n and another alpha
    `recertify` gives certificates. Rows in error have missing values.
    Raises SrsRayError for an n or alpha out of range.
    """
    info = RunInfo.of(df)
    if n is not None and (isinstance(n, bool) or n != int(n) or n < 1):
        raise SrsRayError(f"cannot project to n = {n}: expected a whole number of samples, at least 1")
    alpha = info.smoothing.certificate.alpha if alpha is None else alpha
    if not 0 < alpha < 1:
        raise SrsRayError(f"alpha is {alpha}; expected a probability of error between 0 and 1, such as 0.001")
    smoothing = replace(info, n=info.n if n is None else int(n), alpha=alpha).smoothing
    ok = (df["status"] == "ok").to_numpy()
    projected = df[["index", "label", "selected"]].copy()
    projected.attrs = {}  # no table may take this for a run's
    bounds = np.array([smoothing.drawn.p_lower(_projected_p_lower(row, smoothing)) for row in records(df[ok])])
    projected.loc[ok, "projected_p_lower"] = bounds
    projected.loc[ok, "projected_radius"] = [smoothing.radius(bound) for bound in bounds]
    right = (df["selected"] >= 0) & (df["selected"] == df["label"]) & (projected["projected_radius"] > 0)
    projected["projected_correct"] = right.astype("boolean").where(ok)
    return projected


def projected_shares(df: pd.DataFrame, n: int, radii: Sequence[float]) -> list[float | None]:
    """At each radius the share of rows whose projection to n earns it with the right class; None without rows."""
    if not len(df):
        return [None] * len(radii)
    projected = projected_radii(df, n)
    right = projected["projected_correct"].fillna(False).to_numpy(dtype=bool)
    radius = projected["projected_radius"].to_numpy(dtype=float, na_value=np.nan)
    return [float((right & (radius >= r)).mean()) for r in radii]


def _projected_p_lower(row: Mapping[str, Any], smoothing: Smoothing) -> float:
    drawn = int(row["n"])
    if row["selected"] == -1 or drawn == 0:
        return 0.0
    plan = plan_of(row, smoothing)
    hits = hits_of(row) * plan.n // drawn
    if not plan.bound.audited:
        return plan.p_lower([Evidence(plan.n, hits)])
    audited, disagreed = int(row["audited"]), int(row["disagreed"])
    expected, of_misses = plan.audit.expected(hits, plan.n - hits)
    false = -(-expected * disagreed // audited) if audited else expected  # what no audit confirmed proves nothing
    misses = int(row["audited_misses"]) if plan.bound.misses else 0
    found = of_misses * int(row["found"]) // misses if misses else 0
    return plan.p_lower([Evidence(plan.n, hits, expected, false, of_misses, found)])
