"""What a run cost: samples, function evaluations and hours, per point and in all."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class CostLine:
    """One quantity; `per_point` is its mean over points with a result, both as text."""

    name: str
    total: str
    per_point: str


def cost_lines(df: pd.DataFrame) -> list[CostLine]:
    """The quantities whose columns hold values, of the rows with a result; hours by the device of the worker."""
    ok = df[df["status"] == "ok"]
    if not len(ok):
        return []
    lines = []
    counted = {
        "selection samples": ("n0",),
        "estimation samples": ("n",),
        "function evaluations by the sampler": ("function_evaluations",),
        "function evaluations by the audit": ("reference_evaluations",),
        "function evaluations in all": ("function_evaluations", "reference_evaluations"),
        "audited samples": ("audited", "audited_misses"),
    }
    for name, columns in counted.items():
        there = [column for column in columns if column in ok and ok[column].notna().any()]
        total = sum(int(ok[column].sum()) for column in there)
        if total and not (name.endswith("in all") and len([column for column in there if ok[column].any()]) < 2):
            lines.append(CostLine(name, f"{total:,}", f"{total / len(ok):,.1f}"))
    seconds = ok[["device", "seconds"]].dropna(subset=["seconds"])
    for device, group in seconds.groupby(seconds["device"].fillna("unknown device")):
        spent, points = float(group["seconds"].sum()), len(group)
        lines.append(CostLine(f"worker time on {device}", hours(spent), f"{spent / points:,.3g} s"))
    if seconds["device"].nunique() > 1:
        spent = float(seconds["seconds"].sum())
        lines.append(CostLine("worker time in all", hours(spent), f"{spent / len(seconds):,.3g} s"))
    return lines


def hours(seconds: float) -> str:
    """Seconds as hours, minutes or seconds with three digits."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.3g} hours"
    return f"{seconds / 60:.3g} minutes" if seconds >= 60 else f"{seconds:.3g} seconds"
