"""Parts: rows as the bytes of a Parquet file, and back with every doubt about them checked."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from srs_ray.runs.printable import printable
from srs_ray.runs.row_format import RowFormat
from srs_ray.runs.schema import CERTIFICATES

_VERSION_KEY = b"srs_ray.schema_version"
_FINGERPRINT_KEY = b"srs_ray.fingerprint"


LARGEST_FILE = 256 * 2**20  # bytes of a part; compaction makes none of a third of that
MOST_ROWS = 10**6
ROWS_OF_A_PART = 200_000  # that compaction makes
LARGEST_EXPANDED = 512 * 2**20  # bytes of a part's columns as they lie in memory
LONGEST_TEXT = 64 * 2**10  # bytes of a text, on average over a part
LONGEST_LIST = 2**15  # values, on average over a part: a model may tell 21,841 classes apart


class UnreadablePartError(Exception):
    """The bytes are no part of this run; the message says why."""


def encode_part(table: pa.Table, fingerprint_digest: str, form: RowFormat = CERTIFICATES) -> pa.Buffer:
    """Rows of that format as a Parquet file that names its schema version and its run's fingerprint, with checksums."""
    metadata = {_VERSION_KEY: str(form.version), _FINGERPRINT_KEY: fingerprint_digest}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, write_page_checksum=True)
    return sink.getvalue()


def decode_part(
    data: pa.Buffer, fingerprint_digest: str, columns: Sequence[str], form: RowFormat = CERTIFICATES
) -> pa.Table:
    """The columns of a part, in that order. Raises UnreadablePartError where it is damaged or of another run.

    Columns that an older part does not have yet are null. Damage inside columns that are not asked for goes unseen.
    A part that would be far larger in memory than any that runs write counts as damaged; MemoryError where there is
    too little memory for one that is not.
    """
    if data.size > LARGEST_FILE:
        raise UnreadablePartError(f"it has {data.size:,} bytes, no part of a run has more than {LARGEST_FILE:,}")
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            stored = _check_origin(file.schema_arrow, fingerprint_digest, form)
            _check_size(file.metadata, form)
        there = [name for name in columns if name in stored.names]
        # Texts stay in their dictionaries until it is known how long they are written out.
        texts = [name for name in there if name in _texts_of(form)]
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, read_dictionary=texts) as file:
            table = file.read(columns=there, use_threads=False)  # parts are small: threads cost more
            table = _texts_written_out(table)
            table.validate(full=True)  # text that is no UTF-8 would fail wherever it is first used
            for name in set(columns) - set(there):
                table = table.append_column(form.schema.field(name), pa.nulls(len(table), form.schema.field(name).type))
            return table.select(columns).replace_schema_metadata(None)
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise MemoryError(f"too little memory for a part of {data.size:,} bytes") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UnreadablePartError(f"not a whole Parquet file ({_first_line(error)})") from error


def _texts_of(form: RowFormat) -> list[str]:
    return [field.name for field in form.schema if pa.types.is_string(field.type)]


def _check_origin(schema: pa.Schema, fingerprint_digest: str, form: RowFormat) -> pa.Schema:
    """The schema of the part's version, which it has."""
    metadata = schema.metadata or {}
    version = metadata.get(_VERSION_KEY, b"none").decode(errors="replace")
    versions = {str(readable): readable for readable in form.readable}
    if version not in versions:
        raise UnreadablePartError(f"its schema version is {printable(version)}, expected {form.version} or less")
    if metadata.get(_FINGERPRINT_KEY) != fingerprint_digest.encode():
        raise UnreadablePartError("its fingerprint is another run's")
    expected = form.schema_of(versions[version])
    if not schema.equals(expected):
        raise UnreadablePartError("its columns are not those of the row schema")
    return expected


def _check_size(metadata: pq.FileMetaData, form: RowFormat) -> None:
    """UnreadablePartError for rows or bytes that no run writes, as the file itself declares them."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    expanded = sum(group.total_byte_size for group in groups)
    if metadata.num_rows > MOST_ROWS or expanded > LARGEST_EXPANDED:
        raise UnreadablePartError(
            f"it holds {metadata.num_rows:,} rows of {expanded:,} bytes, more than a part of a run"
        )
    texts = _texts_of(form)
    for group in groups:
        for column in map(group.column, range(group.num_columns)):
            if column.num_values > LONGEST_LIST * (group.num_rows + 1):
                raise UnreadablePartError(f"its column {column.path_in_schema} holds lists longer than a run writes")
            if column.path_in_schema in texts and column.total_uncompressed_size > LONGEST_TEXT * (group.num_rows + 1):
                raise UnreadablePartError(f"its column {column.path_in_schema} holds texts longer than a run writes")


def _texts_written_out(table: pa.Table) -> pa.Table:
    """The table with its texts out of their dictionaries; UnreadablePartError where that takes too much memory."""
    for place, name in enumerate(table.column_names):
        column = table[name]
        if not pa.types.is_dictionary(column.type):
            continue
        lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
        if sum(pc.sum(each.cast(pa.int64())).as_py() or 0 for each in lengths) > LONGEST_TEXT * (len(table) + 1):
            raise UnreadablePartError(f"its column {name} holds texts longer than a run writes")
        table = table.set_column(place, name, column.cast(pa.string()))
    return table


def _first_line(error: Exception) -> str:
    return printable(str(error).partition("\n")[0])
