"""Parts: rows as the bytes of a Parquet file, and back with every doubt about them checked."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from srs_ray.runs.printable import printable
from srs_ray.runs.schema import READABLE_VERSIONS, ROW_SCHEMA, SCHEMA_VERSION, schema_of

_VERSION_KEY = b"srs_ray.schema_version"
_FINGERPRINT_KEY = b"srs_ray.fingerprint"


class UnreadablePartError(Exception):
    """The bytes are no part of this run; the message says why."""


def encode_part(table: pa.Table, fingerprint_digest: str) -> pa.Buffer:
    """Rows of ROW_SCHEMA as a Parquet file that names its schema version and its run's fingerprint, with checksums."""
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION), _FINGERPRINT_KEY: fingerprint_digest}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, write_page_checksum=True)
    return sink.getvalue()


def decode_part(data: pa.Buffer, fingerprint_digest: str, columns: Sequence[str]) -> pa.Table:
    """The columns of a part, in that order. Raises UnreadablePartError where it is damaged or of another run.

    Columns that an older part does not have yet are null. Damage inside columns that are not asked for goes unseen.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            stored = _check_origin(file.schema_arrow, fingerprint_digest)
            there = [name for name in columns if name in stored.names]
            table = file.read(columns=there, use_threads=False)  # parts are small: threads cost more
            table.validate(full=True)  # text that is no UTF-8 would fail wherever it is first used
            for name in set(columns) - set(there):
                table = table.append_column(ROW_SCHEMA.field(name), pa.nulls(len(table), ROW_SCHEMA.field(name).type))
            return table.select(columns).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UnreadablePartError(f"not a whole Parquet file ({_first_line(error)})") from error


def _check_origin(schema: pa.Schema, fingerprint_digest: str) -> pa.Schema:
    """The schema of the part's version, which it has."""
    metadata = schema.metadata or {}
    version = metadata.get(_VERSION_KEY, b"none").decode(errors="replace")
    if version not in map(str, READABLE_VERSIONS):
        raise UnreadablePartError(f"its schema version is {printable(version)}, expected {SCHEMA_VERSION} or less")
    if metadata.get(_FINGERPRINT_KEY) != fingerprint_digest.encode():
        raise UnreadablePartError("its fingerprint is another run's")
    expected = schema_of(int(version))
    if not schema.equals(expected):
        raise UnreadablePartError("its columns are not those of the row schema")
    return expected


def _first_line(error: Exception) -> str:
    return printable(str(error).partition("\n")[0])
