"""Loops over arrays on a CPU, compiled by Numba."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]


def compiled(function: Callable[..., Any], fastmath: Collection[str] = ()) -> Callable[..., Any]:
    """The function, compiled at its first call.

    Compilers make vectors of loops over arrays, or slices, from their beginning; from an offset they often do not.
    Rounding is as written, or else it could depend on where in memory arrays lie: of a loop that writes, compilers make
    a version with vectors and one without, for arrays that may overlap.
    """
    function = numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath))(function)
    with contextlib.suppress(RuntimeError):  # there is nowhere to keep what has been compiled
        function.enable_caching()
    return function
