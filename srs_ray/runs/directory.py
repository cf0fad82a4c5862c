"""The run directory: run.json and the rows of a run, opened to read or to continue."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from srs_ray.errors import RunDirectoryError
from srs_ray.runs.claims_by_kind import claims_of
from srs_ray.runs.compaction import in_parts, merged, parts_to_merge
from srs_ray.runs.effective import ORDER_COLUMNS, effective_rows
from srs_ray.runs.fingerprint import ABSENT, differences, digest, not_compared
from srs_ray.runs.lease import LEASE_JSON
from srs_ray.runs.parts import LARGEST_FILE, UnreadablePartError, decode_part, encode_part
from srs_ray.runs.printable import printable, printable_table
from srs_ray.runs.record import Json, RunRecord, UnreadableRecordError, session_changes
from srs_ray.runs.row_format import Row, RowFormat
from srs_ray.runs.schema import CERTIFICATES
from srs_ray.runs.storage import FileTooLargeError, Storage, naming_errors, open_storage

log = logging.getLogger(__name__)

_RUN_JSON = "run.json"
_POINTS = "points"
_QUARANTINE = "quarantine"
_PART_PATTERN = "part-*.parquet"
_LARGEST_RECORD = 8 * 2**20  # bytes of run.json, which has one entry for each start of a run
_ROWS_AT_ONCE = 10_000
_STALE_SECONDS = 3600.0  # no write takes an hour: an older temporary has no writer any more
_LISTINGS = 20  # two, and each one more only where parts came meanwhile, as they do when a run writes or is compacted


class RunDirectory:
    """A run's job and its rows, at a local path or a URI. Reading never writes; what `append` returns from is kept."""

    def __init__(self, storage: Storage, record: RunRecord) -> None:
        """Use `open` or `create_or_continue`."""
        self._storage = storage
        self._record = record
        self._digest = digest(record.fingerprint)
        self._reported: set[str] = set()
        self._checked: set[str] = set()
        try:
            self._claims = claims_of(record.fingerprint)
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
            where = storage.where(_RUN_JSON)
            raise RunDirectoryError(
                f"{where}: its fingerprint holds no settings of a run: {printable(str(error))}"
            ) from error
        self._not_compared: list[str] = []

    @staticmethod
    def open(path: str | os.PathLike[str], forms: Sequence[RowFormat] = (CERTIFICATES,)) -> RunDirectory:
        """Open an existing run to read it. Raises RunDirectoryError where there is none that this version reads, or its
        rows are of none of these formats."""
        run = RunDirectory.find(path, forms)
        if run is None:
            raise RunDirectoryError(
                f"{open_storage(path).location}: no run here ({_RUN_JSON} not found); "
                "give the `output` of a run that was started"
            )
        return run

    @staticmethod
    def find(path: str | os.PathLike[str], forms: Sequence[RowFormat] = (CERTIFICATES,)) -> RunDirectory | None:
        """`open`, but None where there is no run."""
        storage = open_storage(path)
        record = _read_record(storage, forms)
        return None if record is None else RunDirectory(storage, record)

    @staticmethod
    def create_or_continue(
        path: str | os.PathLike[str],
        job: Json,
        fingerprint: Json,
        points: Json,
        session: Json,
        verified: Collection[str] = (),
        form: RowFormat = CERTIFICATES,
    ) -> RunDirectory:
        """Start a run of rows of that format, or continue the one that is there, and open it for writing.

        `points` holds start, stop and every; `session` is any JSON on this start (started_at, versions, device, ...).
        `verified` names settings of the fingerprint that may differ: the caller has compared what they stand for.
        Parts that cannot be read, or have a row that claims other than its counts give, are moved to quarantine/ with
        a logged warning: their points are done again.
        Raises RunDirectoryError, with nothing changed, where the fingerprint differs from the one that is there, the
        folder belongs to something else, or it cannot be written. It keeps no other process out: a Lease does.
        """
        storage = open_storage(path)
        before = _read_record(storage, (form,))
        _refuse_links(storage)
        if before is None:
            _check_unused(storage)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            record = RunRecord(job, fingerprint, now, points, [session], form)
        else:
            _check_fingerprint(storage, before.fingerprint, fingerprint, verified)
            record = before.continued(job, points, session)
        text = record.to_json().encode()
        with naming_errors(storage, f"cannot write {_RUN_JSON}"):
            storage.make_folder("")
            storage.put(_RUN_JSON, text)  # before points/: a folder of ours is never without it
            storage.make_folder(_POINTS)
        run = RunDirectory(storage, RunRecord.from_json(text, (form,)))
        run._not_compared = not_compared(run.fingerprint, fingerprint)
        run._clean()
        return run

    @property
    def path(self) -> str:
        """Where the run is, as it was given."""
        return self._storage.location

    @property
    def form(self) -> RowFormat:
        """What its rows are."""
        return self._record.form

    @property
    def job(self) -> Json:
        """The job that was last asked for, with every default filled in."""
        return self._record.job

    @property
    def fingerprint(self) -> Json:
        """The settings that decide what a row means, by dotted name."""
        return self._record.fingerprint

    def refuse_other(self, fingerprint: Json, verified: Collection[str] = ()) -> None:
        """Raises RunDirectoryError, which names what differs, unless a job with this fingerprint continues the run.

        `verified` is as `create_or_continue` has it.
        """
        _check_fingerprint(self._storage, self.fingerprint, fingerprint, verified)

    @property
    def points(self) -> Json:
        """Which points were last asked for: start, stop, every."""
        return self._record.points

    @property
    def sessions(self) -> list[Json]:
        """One entry per start of the run, oldest first."""
        return self._record.sessions

    def add_to_session(self, name: str, value: Any) -> None:
        """Records something of the last start that shows only later. RunDirectoryError where it cannot be written."""
        *before, last = self._record.sessions
        self._record = replace(self._record, sessions=[*before, {**last, name: value}])
        with naming_errors(self._storage, f"cannot write {_RUN_JSON}"):
            self._storage.put(_RUN_JSON, self._record.to_json().encode())

    @property
    def created_at(self) -> str:
        """When the run was first started: ISO 8601, UTC."""
        return self._record.created_at

    @property
    def notes(self) -> list[str]:
        """One line per version, device or batch, or whatever else sessions record, that changed between two of them."""
        unknown = [
            f"{name} is not compared: the fingerprint of this run, by an older srs-ray, does not know it"
            for name in self._not_compared
        ]
        return [*session_changes(self.sessions), *unknown]

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The effective rows, sorted by index: per index its newest `ok` row, else its newest `error` row.

        All of the format's, or only the named columns in that order; in text, characters that do not show are escaped.
        Raises ValueError for an unknown column, RunDirectoryError where the files cannot be reached; unreadable parts,
        and those with a row that claims other than its counts give, are skipped with a logged warning.
        """
        wanted = self.form.schema.names if columns is None else list(columns)
        unknown = [name for name in wanted if name not in self.form.schema.names]
        if unknown:
            raise ValueError(f"rows have no column {', '.join(unknown)}; they have {', '.join(self.form.schema.names)}")
        table = self._all_rows(list(dict.fromkeys([*wanted, *ORDER_COLUMNS])))
        if "pixels" in wanted:
            self._warn_of_other_pixels(table)
        return effective_rows(table).select(wanted)

    def _warn_of_other_pixels(self, table: pa.Table) -> None:
        """An index means one image: rows that say otherwise come from somewhere else."""
        pairs = table.filter(pc.is_valid(table["pixels"])).group_by("index").aggregate([("pixels", "count_distinct")])
        several = pairs.filter(pc.greater(pairs["pixels_count_distinct"], 1))["index"].to_pylist()
        if several:
            log.warning(
                "%s: %d points have rows of different images (pixels differ), the first of them point %d: the newest "
                "counts; their rows should not be in one run",
                printable(self.path),
                len(several),
                min(several),
            )

    def finished(self) -> set[int]:
        """The indices that have an `ok` row; nothing else of the rows is decoded."""
        table = self._all_rows(["index", "status"])
        return set(table.filter(pc.equal(table["status"], "ok"))["index"].to_pylist())

    def faults(self) -> list[str]:
        """One line for each part that cannot be read, or has a row that claims other than its counts give.

        Raises RunDirectoryError where the files cannot be reached.
        """
        _, unreadable = self._read_parts(self.form.schema.names)
        self._reported.update(unreadable)
        return [f"{self._storage.where(name)}: {reason}" for name, reason in sorted(unreadable.items())]

    def attempts(self) -> pa.Table:
        """Every row that can be read, also those that another of the same index outdoes; all columns."""
        return self._all_rows(self.form.schema.names)

    def append(self, rows: Sequence[Row]) -> None:
        """Keep rows: on return they are durable, as one new part.

        Raises ValueError for a row that breaks the schema, RunDirectoryError where the part cannot be written; the same
        rows may then be appended again, because readers count no row twice.
        """
        if not rows:
            return
        advice = "make room or repair access, then run the same command again"
        with naming_errors(self._storage, f"cannot write {len(rows)} rows to {_POINTS}/", advice):
            self._put_part(self.form.table(rows))

    def compact(self, at_least: int = 2) -> tuple[int, int]:
        """Merge small parts, if there are `at_least` so many; returns the numbers of parts before and after.

        No row is lost or out of a reader's sight at any moment: the merged part is durable before those that it
        replaces are deleted. Every attempt stays, exact duplicates aside; parts that cannot be read stay as they are;
        what another process merges at the same time is left to it. Raises RunDirectoryError where files cannot be
        read, written or deleted.
        """
        _refuse_links(self._storage)
        with naming_errors(self._storage, f"cannot merge the parts of {_POINTS}/"):
            before = self._part_sizes()
            batches = parts_to_merge(before)
            if sum(map(len, batches)) < at_least:
                return len(before), len(before)
            for batch in batches:
                self._merge(batch)
            return len(before), len(self._part_sizes())

    def _merge(self, names: Sequence[str]) -> None:
        tables: dict[str, pa.Table] = {}
        for name in names:
            # Gone: merged by another process. Unreadable, or with a row that claims other than its counts give: the
            # next start moves it aside, and it must take no good rows along.
            with suppress(FileNotFoundError, UnreadablePartError, FileTooLargeError):
                tables[name] = self._checked_part(
                    name, self._storage.read(name, LARGEST_FILE + 1), self.form.schema.names
                )
        for together in in_parts({name: len(table) for name, table in tables.items()}):
            self._put_part(merged([tables[name] for name in together]))
            for name in together:
                self._storage.delete(name)

    def _put_part(self, table: pa.Table) -> None:
        self._storage.put(f"{_POINTS}/part-{uuid.uuid4().hex}.parquet", encode_part(table, self._digest, self.form))

    def _all_rows(self, columns: list[str]) -> pa.Table:
        readable, unreadable = self._read_parts(columns)
        for name, reason in unreadable.items():
            if name not in self._reported:
                self._reported.add(name)
                log.warning("%s skipped: %s; its points count as not done", self._storage.where(name), reason)
        schema = pa.schema([self.form.schema.field(name) for name in columns])
        return printable_table(pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in readable)]))

    def _read_parts(self, columns: list[str]) -> tuple[list[pa.Table], dict[str, str]]:
        """Every part's columns, and for each part that cannot be read the reason."""
        readable: dict[str, pa.Table] = {}
        unreadable: dict[str, str] = {}
        with naming_errors(self._storage, f"cannot read {_POINTS}/"):
            # A listing is no snapshot: while parts are merged, it may have passed the new part's place before that was
            # there, and come to the old one's when that was gone. So we list until a second listing brings nothing new.
            for listing in range(_LISTINGS):
                new = [name for name in sorted(self._part_sizes()) if name not in readable and name not in unreadable]
                if listing > 0 and not new:
                    return [readable[name] for name in sorted(readable)], unreadable
                for name in new:
                    # Read apart from decoding: only bytes that did arrive can prove a part to be damaged.
                    try:
                        data = self._storage.read(name, LARGEST_FILE + 1)
                    except FileNotFoundError:
                        continue  # merged into another part, or moved aside, since we listed it
                    except FileTooLargeError as error:
                        unreadable[name] = str(error)
                        continue
                    try:
                        readable[name] = self._checked_part(name, data, columns)
                    except UnreadablePartError as error:
                        unreadable[name] = str(error)
        raise RunDirectoryError(
            f"{self._storage.where(_POINTS)}: parts kept coming and vanishing while being read; "
            "see that nothing else changes this folder, then try again"
        )

    def _checked_part(self, name: str, data: pa.Buffer, columns: list[str]) -> pa.Table:
        """The columns of a part whose rows are what their counts say; UnreadablePartError where one is not."""
        known = self._claims is None or name in self._checked
        try:
            table = decode_part(data, self._digest, columns if known else self.form.schema.names, self.form)
        except MemoryError as error:  # which says nothing of the part
            raise RunDirectoryError(f"{self._storage.where(name)}: {error}; nothing was changed") from error
        if self._claims is None or known:
            return table
        if len(table) > self._claims.most_rows:
            raise UnreadablePartError(f"it holds {len(table):,} rows, far more than the run has points")
        for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            try:
                fault = self._claims.fault(batch.to_pylist())
            except (OverflowError, ValueError) as error:
                raise UnreadablePartError(f"it holds a value that there is not ({printable(str(error))})") from error
            if fault is not None:
                raise UnreadablePartError(printable(fault))
        self._checked.add(name)
        return table.select(columns)

    def _part_sizes(self) -> dict[str, int]:
        sizes = self._storage.file_sizes(_POINTS)
        return {f"{_POINTS}/{name}": size for name, size in sizes.items() if fnmatchcase(name, _PART_PATTERN)}

    def _clean(self) -> None:
        """Sweep what dead writers left, and move parts that cannot be read out of the way."""
        _, unreadable = self._read_parts(self.form.schema.names)
        with naming_errors(self._storage, "cannot be cleaned up"):
            for folder in ("", _POINTS):
                self._storage.sweep_temporaries(folder, _STALE_SECONDS)
            for name, reason in unreadable.items():
                try:
                    moved = self._storage.set_aside(name, _QUARANTINE)
                except FileNotFoundError:
                    continue  # another process moved it first
                where = self._storage.where
                log.warning("%s moved to %s: %s; its points are done again", where(name), where(moved), reason)


def _read_record(storage: Storage, forms: Sequence[RowFormat]) -> RunRecord | None:
    with naming_errors(storage, f"cannot read {_RUN_JSON}"):
        try:
            data = storage.read(_RUN_JSON, _LARGEST_RECORD)
        except FileNotFoundError:
            return None
        text = data.to_pybytes()
    try:
        return RunRecord.from_json(text, forms)
    except UnreadableRecordError as error:
        raise RunDirectoryError(f"{storage.where(_RUN_JSON)}: {error}") from error


def _check_unused(storage: Storage) -> None:
    with naming_errors(storage, "cannot be listed"):
        unused = storage.is_unused(but_for=LEASE_JSON)
    if not unused:
        raise RunDirectoryError(
            f"{storage.location}: holds files but no {_RUN_JSON}, so it is no run; "
            "choose another output or an empty folder"
        )


def _refuse_links(storage: Storage) -> None:
    """RunDirectoryError where writing to a run would change files that lie elsewhere."""
    for name in (_POINTS, _QUARANTINE, _RUN_JSON):
        if storage.is_link(name):
            raise RunDirectoryError(
                f"{storage.where(name)} is a link to somewhere else: srs-ray writes, moves and deletes nothing through "
                "it; put the real folder in its place"
            )


def _check_fingerprint(storage: Storage, old: Json, new: Json, verified: Collection[str]) -> None:
    passed = {*verified, *not_compared(old, new)}
    changes = [
        f"{printable(name)}: {_shown(was)} there, {_shown(now)} now"
        for name, was, now in differences(old, new)
        if name not in passed
    ]
    if changes:
        remedy = "choose another output, or set them back to continue it"
        if any(change.startswith("sampling.version:") for change in changes):
            remedy = (
                "this srs-ray draws other samples by that method than the one that began the run: continue it with "
                "that one, or choose another output; status, aggregate and the others read it as ever"
            )
        raise RunDirectoryError(f"{storage.location}: holds a run with other settings ({'; '.join(changes)}); {remedy}")


def _shown(value: Any) -> str:
    return str(value) if value is ABSENT else json.dumps(value)
