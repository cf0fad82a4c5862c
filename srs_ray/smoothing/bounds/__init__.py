"""Bounds: from counts of noisy predictions to a lower bound on p_A. To add one: a file here, and its line in BOUNDS."""

from __future__ import annotations

from srs_ray.smoothing.bounds.bound import Bound, Evidence
from srs_ray.smoothing.bounds.cohen import COHEN, cohen_p_lower
from srs_ray.smoothing.bounds.exact import EXACT, exact_p_lower
from srs_ray.smoothing.bounds.mixture import MIXTURE, mixture_p_lower
from srs_ray.smoothing.bounds.paper import PAPER, paper_p_lower
from srs_ray.smoothing.bounds.released import RELEASED, released_p_lower
from srs_ray.smoothing.bounds.tails import clopper_pearson_lower
from srs_ray.smoothing.bounds.two_sided import TWO_SIDED, two_sided_p_lower
from srs_ray.smoothing.bounds.union import UNION, union_p_lower
from srs_ray.smoothing.bounds.weighted import WEIGHTED, weighted_bound, weighted_p_lower

BOUNDS: dict[str, Bound] = {
    bound.name: bound
    for bound in (
        COHEN,
        MIXTURE,
        EXACT,
        WEIGHTED,
        TWO_SIDED,
        UNION,
        PAPER,
        RELEASED,
    )
}

__all__ = [
    "BOUNDS",
    "EXACT",
    "MIXTURE",
    "Bound",
    "Evidence",
    "bound_named",
    "clopper_pearson_lower",
    "cohen_p_lower",
    "exact_p_lower",
    "fitting_bounds",
    "mixture_p_lower",
    "p_lower",
    "paper_p_lower",
    "released_p_lower",
    "two_sided_p_lower",
    "union_p_lower",
    "weighted_bound",
    "weighted_p_lower",
]


def bound_named(name: str) -> Bound:
    """The bound of that name; ValueError that lists them for another."""
    if name not in BOUNDS:
        raise ValueError(f"unknown certificate {name!r}; expected one of {', '.join(BOUNDS)}")
    return BOUNDS[name]


def fitting_bounds(*, audited: bool, by_looks: bool) -> list[Bound]:
    """The bounds for samples that are audited or not, of a fixed n or by looks; the usual one first.

    Looks need a sound bound, and without looks one that holds at all sizes would give radius away for nothing.
    """
    fitting = [bound for bound in BOUNDS.values() if bound.audited == audited]
    if by_looks:
        return sorted((bound for bound in fitting if bound.sound), key=lambda bound: not bound.anytime)
    return [bound for bound in fitting if not bound.anytime]


def p_lower(
    kind: str, hits: int, n: int, audited: int, disagreed: int, alpha: float, audited_misses: int = 0, found: int = 0
) -> float:
    """The bound named `kind` of these counts; its promise is that function's."""
    return bound_named(kind).p_lower(Evidence(n, hits, audited, disagreed, audited_misses, found), alpha)
