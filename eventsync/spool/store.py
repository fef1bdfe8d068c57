"""The spool's file, and its successor: a damaged one is moved aside, so that the door never stops.

Used by the spool's one thread only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import structlog

from eventsync.domain.errors import Misconfigured
from eventsync.domain.events import EventId
from eventsync.spool.entries import SealedEntry
from eventsync.spool.errors import SpoolDamaged, SpoolFull, SpoolUnavailable
from eventsync.spool.file import BUSY_TIMEOUT_S, SpoolFile, unavailable
from eventsync.spool.lock import lock_exclusively, release

_SIDE_FILES = ("-wal", "-shm")
_SALVAGE_ENTRIES = 16  # in one transaction: at most 16 MiB of bodies
_SALVAGE = "SELECT id, verified, sealed FROM entries NOT INDEXED"

_log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")


class SpoolStore:
    """The lock, the file under it, and `damaged_files`, those that were moved aside since the start."""

    def __init__(self, path: Path, max_bytes: int, clock: Callable[[], datetime]) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._file: SpoolFile | None = None
        self._lock: int | None = None
        self._verifiers: bytes | None = None
        self.damaged_files: tuple[Path, ...] = ()

    def open(self) -> None:
        """Lock and open. Raises Misconfigured when another process has it, or its folder cannot be used."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = lock_exclusively(self._path.with_name(self._path.name + ".lock"))
            self._verifiers = self.run(lambda file: file.read_verifiers())
        except (OSError, SpoolFull, SpoolUnavailable) as error:
            self.close()
            raise Misconfigured(
                f"the spool {self._path} cannot be opened ({type(error).__name__}): check the disk and the rights of"
                " its folder, or choose another with EVENTSYNC_DATA_DIR"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, then give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            release(self._lock)
            self._lock = None

    @property
    def sealed_verifiers(self) -> bytes | None:
        """The last set of verifiers written, from memory."""
        return self._verifiers

    def write_verifiers(self, sealed: bytes) -> None:
        """Replace the set of verifiers, here and in every file to come."""
        self.run(lambda file: file.write_verifiers(sealed))
        self._verifiers = sealed

    def run(self, operation: Callable[[SpoolFile], _Result]) -> _Result:
        """Do something with the file; when that shows it to be damaged, begin a new one and do it there.

        Raises SpoolFull or SpoolUnavailable.
        """
        if self._lock is None:
            raise SpoolUnavailable("the spool is not open: eventsync is starting or stopping, try again")
        try:
            return operation(self._opened())
        except SpoolDamaged:
            self._begin_anew()
        try:
            return operation(self._opened())
        except SpoolDamaged as error:
            raise unavailable(error) from error

    def _opened(self) -> SpoolFile:
        if self._file is None:
            self._file = SpoolFile(self._path, self._max_bytes)
        return self._file

    def _begin_anew(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        try:
            aside = _move_aside(self._path, f"damaged-{self._clock().astimezone(UTC):%Y%m%dT%H%M%SZ}")
            self.damaged_files = (*self.damaged_files, aside)
            fresh = self._opened()
        except (OSError, SpoolDamaged) as error:
            raise unavailable(error) from error
        salvaged = _copy_entries(aside, fresh)
        if self._verifiers is not None:
            fresh.write_verifiers(self._verifiers)
        _log.error("spool.damaged", moved_to=aside.name, salvaged_count=salvaged)


def _move_aside(path: Path, suffix: str) -> Path:
    """Rename a damaged file and its journal to the first free name with `suffix`, and tell that name."""
    target = path.with_name(f"{path.name}.{suffix}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{suffix}-{number}")
    path.rename(target)
    for side in _SIDE_FILES:
        with suppress(FileNotFoundError):
            path.with_name(path.name + side).rename(target.with_name(target.name + side))
    return target


def _copy_entries(damaged: Path, fresh: SpoolFile) -> int:
    """Copy what a damaged file still gives, and tell how many entries that was.

    One that had been forgotten may come back so; its id keeps it from being stored twice.
    """
    entries = _readable_entries(damaged)
    with suppress(SpoolFull):  # the rest stays in the damaged file, which is kept
        while batch := list(islice(entries, _SALVAGE_ENTRIES)):
            fresh.insert(batch)
    return fresh.verified.count + fresh.unverified.count


def _readable_entries(path: Path) -> Iterator[SealedEntry]:
    """Read entries until the first that SQLite cannot read."""
    damage = (sqlite3.Error, TypeError, ValueError)  # the last two from a row whose id or content is nonsense
    with suppress(*damage), closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
        for raw_id, verified, sealed in connection.execute(_SALVAGE):
            yield SealedEntry(EventId(UUID(bytes=raw_id)), bool(verified), bytes(sealed))
