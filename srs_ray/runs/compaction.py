"""Compaction: which parts of a run to merge, and their rows as those of one part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from srs_ray.runs.effective import ORDER_COLUMNS
from srs_ray.runs.parts import ROWS_OF_A_PART

# A part that has grown past SMALL_BYTES is never written again, so that rewriting costs a run of any length a bounded
# multiple of what it writes; merging AT_ONCE_BYTES of parts bounds the memory it takes.
SMALL_BYTES = 32 * 2**20
AT_ONCE_BYTES = 2 * SMALL_BYTES


def parts_to_merge(sizes: Mapping[str, int]) -> list[list[str]]:
    """The small ones among parts of these sizes (bytes), smallest first, in batches to be merged into one part each."""
    batches: list[list[str]] = []
    room = 0
    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        if sizes[name] >= SMALL_BYTES:
            break
        if sizes[name] > room:
            batches.append([])
            room = AT_ONCE_BYTES
        batches[-1].append(name)
        room -= sizes[name]
    return [batch for batch in batches if len(batch) > 1]


def in_parts(rows: Mapping[str, int]) -> list[list[str]]:
    """Parts with so many rows, in groups that become one part each of at most ROWS_OF_A_PART rows; one that would stay
    alone is in none.
    """
    groups: list[list[str]] = []
    room = 0
    for name, count in rows.items():
        if count > room:
            groups.append([])
            room = ROWS_OF_A_PART
        groups[-1].append(name)
        room -= count
    return [group for group in groups if len(group) > 1]


def merged(tables: Sequence[pa.Table]) -> pa.Table:
    """Every row of the tables, in order; exact duplicates, from a repeated append or a merge that was cut, but once."""
    table = pa.concat_tables(tables)
    keys = table.select(ORDER_COLUMNS)
    if keys.group_by(list(ORDER_COLUMNS)).aggregate([]).num_rows == table.num_rows:
        return table
    keys_of_rows = list(zip(*(column.to_pylist() for column in keys.columns), strict=True))
    repeated = {key for key, count in Counter(keys_of_rows).items() if count > 1}
    seen: set[str] = set()
    kept = []
    for position, key in enumerate(keys_of_rows):
        if key in repeated:
            row = repr(table.slice(position, 1).to_pylist())
            if row in seen:
                continue
            seen.add(row)
        kept.append(position)
    return table.take(kept)
