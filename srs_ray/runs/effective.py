"""Effective rows: of all attempts at a point, the one that counts."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

ORDER_COLUMNS = ("index", "status", "finished_at", "attempt")


def effective_rows(table: pa.Table) -> pa.Table:
    """One row per index, sorted by index: its newest `ok` row, else its newest `error` row.

    Newest is the latest `finished_at`, then the highest `attempt`; of rows equal in both, the first in the table.
    `table` has ORDER_COLUMNS and any others.
    """
    table = table.combine_chunks()  # taking from thousands of chunks is slow
    keys = table.select(ORDER_COLUMNS).append_column("failed", pc.not_equal(table["status"], "ok").cast(pa.int8()))
    order = pc.sort_indices(  # stable
        keys,
        sort_keys=[
            ("index", "ascending"),
            ("failed", "ascending"),
            ("finished_at", "descending"),
            ("attempt", "descending"),
        ],
    )
    index = table["index"].combine_chunks().take(order)
    if len(index) == 0:
        return table
    first_of_index = pa.concat_arrays(
        [pa.array([True]), pc.not_equal(index.slice(1), index.slice(0, len(index) - 1))],
    )
    return table.take(order.filter(first_of_index))
