"""Parts: rows as the bytes of a Parquet file, and back with every doubt about them checked."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from srs_ray.runs.printable import printable
from srs_ray.runs.schema import ROW_SCHEMA, SCHEMA_VERSION

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

    Damage inside columns that are not asked for goes unseen.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            _check_origin(file.schema_arrow, fingerprint_digest)
            table = file.read(columns=list(columns), use_threads=False)  # parts are small: threads cost more
            table.validate(full=True)  # text that is no UTF-8 would fail wherever it is first used
            return table.select(columns).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UnreadablePartError(f"not a whole Parquet file ({_first_line(error)})") from error


def _check_origin(schema: pa.Schema, fingerprint_digest: str) -> None:
    metadata = schema.metadata or {}
    version = metadata.get(_VERSION_KEY, b"none").decode(errors="replace")
    if version != str(SCHEMA_VERSION):
        raise UnreadablePartError(f"its schema version is {printable(version)}, expected {SCHEMA_VERSION}")
    if metadata.get(_FINGERPRINT_KEY) != fingerprint_digest.encode():
        raise UnreadablePartError("its fingerprint is another run's")
    if not schema.equals(ROW_SCHEMA):
        raise UnreadablePartError("its columns are not those of the row schema")


def _first_line(error: Exception) -> str:
    return printable(str(error).partition("\n")[0])
