"""The spool's file: SQLite in WAL mode with full fsync, bounded, used by one thread only.

Nothing in here knows what an entry means. SQLite's errors are translated at this seam.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from eventsync.domain.errors import Misconfigured
from eventsync.domain.events import EventId
from eventsync.spool.entries import SealedEntry
from eventsync.spool.errors import SpoolDamaged, SpoolFull, SpoolUnavailable

_FORMAT = 1
BUSY_TIMEOUT_S = 5.0  # only a backup reads beside us
_READ_BYTES = 4 * 1024 * 1024  # one read's share of memory and of the writer's time
_WORTH_GIVING_BACK_PAGES = 256
_SLACK_PAGES = 1024  # beyond the bound, for what draining and restarting need to write

_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # macOS: a plain fsync stops at the disk's cache there
    "PRAGMA journal_size_limit = 4194304",
    "PRAGMA secure_delete = ON",  # what was forgotten leaves the disk
    "PRAGMA temp_store = MEMORY",  # the door may run where nothing but its own folder can be written
)
_SCHEMA = (
    "CREATE TABLE entries (id BLOB NOT NULL PRIMARY KEY, verified INTEGER NOT NULL, sealed BLOB NOT NULL)",
    "CREATE INDEX entries_by_lane ON entries (verified, id)",
    # Names the entries that do not open; they stay where they are, so that setting aside needs next to no room.
    "CREATE TABLE damaged (id BLOB NOT NULL PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE verifiers (one INTEGER PRIMARY KEY CHECK (one = 1), sealed BLOB NOT NULL)",
    "PRAGMA user_version = 1",
)
_INSERT = "INSERT INTO entries (id, verified, sealed) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING"
_OLDEST = """
SELECT id, sealed FROM entries
WHERE verified = ? AND id NOT IN (SELECT id FROM damaged) ORDER BY id LIMIT ?"""
_FIRST_ID = "SELECT id FROM entries WHERE id NOT IN (SELECT id FROM damaged) ORDER BY id LIMIT 1"
_DELETE = "DELETE FROM entries WHERE id = ? RETURNING verified, length(sealed)"
_TOTALS = "SELECT verified, count(*), sum(length(sealed)) FROM entries GROUP BY verified"
_SET_ASIDE = "INSERT INTO damaged (id, reason) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"
_WRITE_VERIFIERS = "INSERT INTO verifiers (one, sealed) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET sealed = ?"


@dataclass(slots=True)
class LaneTotals:
    """What one lane holds: entries, and bytes of their sealed content."""

    count: int = 0
    sealed_bytes: int = 0

    def add(self, count: int, sealed_bytes: int) -> None:
        """Count entries in, or out when negative."""
        self.count += count
        self.sealed_bytes += sealed_bytes


class SpoolFile:
    """One open file. Raises SpoolFull, SpoolUnavailable or SpoolDamaged from every method; `close` raises nothing."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open or create it. Raises Misconfigured for a file of a later version too."""
        with _translated():
            _create_privately(path)
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        self.verified = LaneTotals()
        self.unverified = LaneTotals()
        self.damaged_count = 0
        try:
            with _translated():
                self._begin(max_bytes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it, folding the journal into the file where that works."""
        with suppress(sqlite3.Error):  # a damaged file or full disk: the journal stays and is read at the next start
            self._connection.close()

    def insert(self, entries: Sequence[SealedEntry]) -> None:
        """Add entries in one fsynced transaction, all or none; an id that is already here is left as it is."""
        added = {True: LaneTotals(), False: LaneTotals()}
        with _translated(), self._transaction():
            for entry in entries:
                cursor = self._connection.execute(_INSERT, (entry.id.bytes, entry.verified, entry.sealed))
                if cursor.rowcount:
                    added[entry.verified].add(1, len(entry.sealed))
        for verified, totals in added.items():
            self._lane(verified=verified).add(totals.count, totals.sealed_bytes)

    def oldest(self, *, verified: bool, limit: int) -> list[SealedEntry]:
        """Read up to `limit` entries of a lane by time, fewer when they are large; empty only when none waits."""
        entries: list[SealedEntry] = []
        size = 0
        with _translated(), closing(self._connection.execute(_OLDEST, (verified, limit))) as cursor:
            for raw_id, sealed in cursor:
                entries.append(SealedEntry(EventId(UUID(bytes=raw_id)), verified, sealed))
                size += len(sealed)
                if size >= _READ_BYTES:
                    break
        return entries

    def delete(self, ids: Sequence[EventId]) -> None:
        """Remove entries in one transaction; when the last is gone, the disk gets its space back."""
        removed: list[tuple[int, int]] = []
        with _translated(), self._roomier(), self._transaction():
            for event_id in ids:
                removed += self._connection.execute(_DELETE, (event_id.bytes,)).fetchall()
        for verified, size in removed:
            self._lane(verified=bool(verified)).add(-1, -size)
        if removed and self.verified.count + self.unverified.count == 0:
            self._give_space_back()

    def set_aside(self, reasons: Sequence[tuple[EventId, str]]) -> None:
        """Leave out entries from now on, each with its reason, until the file is opened again."""
        with _translated(), self._roomier(), self._transaction():
            for event_id, reason in reasons:
                self._connection.execute(_SET_ASIDE, (event_id.bytes, reason))
        self.damaged_count += len(reasons)

    def write_verifiers(self, sealed: bytes) -> None:
        """Replace the set of verifiers."""
        with _translated(), self._roomier(), self._transaction():
            self._connection.execute(_WRITE_VERIFIERS, (sealed, sealed))

    def read_verifiers(self) -> bytes | None:
        """Read the set of verifiers, None where there never was one."""
        with _translated():
            row = self._connection.execute("SELECT sealed FROM verifiers").fetchone()
        return None if row is None else bytes(row[0])

    def first_id(self) -> EventId | None:
        """Tell the id of the oldest entry of both lanes."""
        with _translated():
            row = self._connection.execute(_FIRST_ID).fetchone()
        return None if row is None else EventId(UUID(bytes=row[0]))

    def used_bytes(self) -> int:
        """Tell how many bytes of the file are in use; what was freed inside it does not count."""
        with _translated():
            return (self._integer("PRAGMA page_count") - self._integer("PRAGMA freelist_count")) * self._page_bytes

    def _begin(self, max_bytes: int) -> None:
        for setting in _SETTINGS:
            self._connection.execute(setting)
        version = self._integer("PRAGMA user_version")
        if version > _FORMAT:
            raise Misconfigured("the spool was written by a later eventsync: start that one, and let it drain first")
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA:
                    self._connection.execute(statement)
        if self._connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise SpoolDamaged("quick_check found damage")
        self._page_bytes = self._integer("PRAGMA page_size")
        self._max_pages = max_bytes // self._page_bytes
        # The cure for an entry that does not open is an earlier key and a restart: so each start tries all again.
        self._allow_pages(self._max_pages + _SLACK_PAGES)
        self._connection.execute("DELETE FROM damaged")
        self._allow_pages(self._max_pages)
        for verified, count, size in self._connection.execute(_TOTALS).fetchall():
            self._lane(verified=bool(verified)).add(count, size)

    def _lane(self, *, verified: bool) -> LaneTotals:
        return self.verified if verified else self.unverified

    def _integer(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])

    def _allow_pages(self, pages: int) -> None:
        """Bound the file: a full spool must fail early, since on a full disk not even deleting works."""
        self._connection.execute(f"PRAGMA max_page_count = {pages:d}")  # a pragma takes no parameters

    @contextmanager
    def _roomier(self) -> Iterator[None]:
        self._allow_pages(self._max_pages + _SLACK_PAGES)
        try:
            yield
        finally:
            self._allow_pages(self._max_pages)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back on some errors
                self._connection.execute("ROLLBACK")
            raise

    def _give_space_back(self) -> None:
        """Shrink an empty file; VACUUM costs what is left inside, so next to nothing."""
        with suppress(sqlite3.Error):  # housekeeping: the entries are deleted either way
            if self._integer("PRAGMA freelist_count") >= _WORTH_GIVING_BACK_PAGES:
                self._connection.execute("VACUUM")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _create_privately(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unavailable(error) from error
    except sqlite3.Error as error:
        match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
            case sqlite3.SQLITE_FULL:
                raise SpoolFull(
                    "the spool or its disk is full: bring PostgreSQL back so that it drains, or free space on the disk"
                ) from error
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                raise SpoolDamaged("SQLite does not understand the spool's file") from error
            case _:
                raise unavailable(error) from error


def unavailable(error: Exception) -> SpoolUnavailable:
    """Tell of a disk or folder that does not work."""
    return SpoolUnavailable(
        f"the spool cannot be used ({type(error).__name__}): look at the disk and the rights of its folder"
    )
