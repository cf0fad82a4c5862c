"""The row writer: rows kept in parts that are neither too small nor too late."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from types import TracebackType

from srs_ray.errors import RunDirectoryError
from srs_ray.runs.directory import RunDirectory
from srs_ray.runs.row_format import Row

log = logging.getLogger(__name__)

# Looked for at the start and after as many parts more: small parts stay fewer than twice this.
_PARTS_TO_COMPACT = 32


class RowWriter:
    """Collects rows and appends them to a run as one part, when there are enough or the last part is old enough.

    So no row waits longer than `max_seconds`, and one that comes after a pause is kept at once.
    Small parts are merged as they become many, so that a reader faces fewer than 100; a warning says where that fails.
    A context manager: leaving it flushes, after an exception too. Where a flush fails, RunDirectoryError says why and
    the rows stay here, so that a later flush can still keep them.
    """

    def __init__(
        self,
        run: RunDirectory,
        max_rows: int = 1024,
        max_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` returns seconds that never go back."""
        self._run = run
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._clock = clock
        self._rows: list[Row] = []
        self._last_part = -math.inf
        self._compact()

    def add(self, row: Row) -> None:
        """Take a row, and flush if it is time. Raises ValueError, the row not taken, where it breaks the schema."""
        self._run.form.check_row(row)  # now, because one bad row would make every later flush of its neighbours fail
        self._rows.append(dict(row))
        self.tick()

    def tick(self) -> None:
        """Flush if it is time: to be called often, also while no rows come."""
        if len(self._rows) >= self._max_rows or self._clock() - self._last_part >= self._max_seconds:
            self.flush()

    def flush(self) -> None:
        """Make every row taken so far durable. Raises RunDirectoryError, and keeps them here, where that fails."""
        if not self._rows:
            return
        self._run.append(self._rows)
        self._rows = []
        self._last_part = self._clock()
        self._appended += 1
        if self._appended >= _PARTS_TO_COMPACT:
            self._compact()

    def _compact(self) -> None:
        self._appended = 0
        try:
            self._run.compact(at_least=_PARTS_TO_COMPACT)
        except RunDirectoryError as error:
            log.warning("%s; no row is lost, and the run goes on", error)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.flush()
