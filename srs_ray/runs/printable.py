"""Text from files that others may have written, made safe to print: no control character reaches a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def printable(text: str) -> str:
    """The text with all that does not show (controls, line ends, direction marks) as escapes such as \\x1b."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def printable_json(value: Any) -> Any:
    """A JSON value with every string in it, names included, printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [printable_json(item) for item in value]
    if isinstance(value, dict):
        return {printable(name): printable_json(item) for name, item in value.items()}
    return value


def printable_table(table: pa.Table) -> pa.Table:
    """A table with every column of strings printable."""
    for position, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            encoded = table[field.name].combine_chunks().dictionary_encode()
            values = [printable(value) for value in encoded.dictionary.to_pylist()]
            table = table.set_column(position, field, pa.array(values, pa.string()).take(encoded.indices))
    return table


def fitted(parts: Sequence[str], width: int, separator: str = ", ") -> str:
    """As many of the parts, from the last one back, as fit in so many columns with a separator between them."""
    lines = (separator.join(parts[first:]) for first in range(len(parts)))
    return next((line for line in lines if len(line) <= width), "")
