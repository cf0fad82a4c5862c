"""The most that a bound can give, and the n or K that it takes to give more."""

from __future__ import annotations

from collections.abc import Callable

from srs_ray.smoothing.bounds import Bound, Evidence, bound_named

_LARGEST_N = 10**9


def p_cap(kind: str | Bound, n: int, audit: int, alpha: float) -> float:
    """The largest p_lower that n samples with an audit of at most `audit` can give: all hits, all audited ones agree.

    `certified_radius(p_cap, sigma)` is what the radius is capped at. A bound without an audit ignores that argument.
    """
    bound = bound_named(kind) if isinstance(kind, str) else kind
    return bound.p_lower(Evidence(n, n, min(audit, n) if bound.audited else 0), alpha)


def smallest_audit(kind: str | Bound, n: int, alpha: float, p: float) -> int | None:
    """The least audit with p_cap(kind, n, audit, alpha) > p; None if not even auditing all n is enough.

    0 for `cohen`, where n alone decides. Raises ValueError unless 0 <= p <= 1.
    """
    _check_target(p)
    return _first_above(p, lambda audit: p_cap(kind, n, audit, alpha), -1, n)


def smallest_n(kind: str | Bound, alpha: float, audit: int, p: float) -> int | None:
    """An n with p_cap(kind, n, audit, alpha) > p where n - 1 is not enough; None if none up to 10^9 was found.

    For `cohen` always, for `exact`, `weighted` and `union` if it is at most `audit`, that is the least such n: so far
    the cap rises with n. Elsewhere more samples can lower it (beyond, `exact` peaks near n = 2 audit and falls to
    t^(1/audit); `union` and `paper` are saw-toothed), so n grows by a twentieth at a time until it is enough, then
    bisection takes over, and a smaller n may hide between two steps. Raises ValueError unless 0 <= p <= 1.
    """
    _check_target(p)
    too_few, n = 0, max(audit, 1)
    while n <= _LARGEST_N:
        enough = _first_above(p, lambda m: p_cap(kind, m, audit, alpha), too_few, n)
        if enough is not None:
            return enough
        too_few, n = n, n + max(1, n // 20)
    return None


def _first_above(p: float, cap: Callable[[int], float], low: int, high: int) -> int | None:
    """An argument in (low, high] where `cap` rises above p (the first, if it is monotone); None if cap(high) <= p."""
    if cap(high) <= p:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if cap(middle) > p:
            high = middle
        else:
            low = middle
    return high


def _check_target(p: float) -> None:
    if not 0.0 <= p <= 1.0:  # 1.0 is what a large radius rounds to; nothing exceeds it
        raise ValueError(f"the bound to exceed must lie in [0, 1], found {p}")
