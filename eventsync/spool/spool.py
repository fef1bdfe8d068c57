"""The spool: takes requests while Postgres is away or hangs, and gives them back oldest first.

Step 1b of the path. One thread of its own does all that touches the disk. Puts that arrive while it is busy share
the next transaction, so that many requests cost one fsync and none waits for a timer.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import structlog

from eventsync.crypto import Keyring
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.events import EventId, IncomingEvent, received_at_of
from eventsync.spool.entries import (
    SealedEntry,
    UnverifiedEvent,
    open_event,
    open_unverified,
    open_verifiers,
    seal_event,
    seal_unverified,
    seal_verifiers,
)
from eventsync.spool.errors import EntryDamaged, SpoolFull, SpoolUnavailable
from eventsync.spool.file import SpoolFile, unavailable
from eventsync.spool.stats import SpoolStats
from eventsync.spool.store import SpoolStore

_GIB = 1024**3
_GROUP_PUTS = 256
_GROUP_BYTES = 8 * 1024 * 1024
_UNVERIFIED_SHARE = 8  # strangers get an eighth of the room, so that they cannot shut out our own vendors
_NEARLY_FULL = 0.9
_DISK_RESERVE_BYTES = 16 * 1024 * 1024  # on a disk that is really full not even a drained entry can be deleted

_log = structlog.get_logger(__name__)

_Result = TypeVar("_Result")


@dataclass(slots=True, eq=False)
class _Put:
    """One caller's events on their way to the disk."""

    events: Sequence[IncomingEvent]
    size_bytes: int = field(init=False)
    done: bool = False
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.size_bytes = sum(len(event.body) for event in self.events)


def free_disk_bytes(folder: Path) -> int:
    """Tell how many bytes the disk of a folder has left for us."""
    return shutil.disk_usage(folder).free


class Spool:
    """A bounded, sealed, fsynced queue on the local disk; every method may be called concurrently.

    Calls raise SpoolUnavailable when the disk fails. They set no timeout: the caller knows how long its request
    may wait. A call that was cancelled may still take effect, which does no harm, as an event's id is fixed.
    """

    def __init__(
        self,
        path: Path,
        keyring: Keyring,
        *,
        clock: Callable[[], datetime],
        max_bytes: int = _GIB,
        max_unverified: int = 1000,
        free_bytes: Callable[[Path], int] = free_disk_bytes,
    ) -> None:
        self._path = path
        self._keyring = keyring
        self._max_bytes = max_bytes
        self._max_unverified = max_unverified
        self._free_bytes = free_bytes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._waiting: deque[_Put] = deque()
        self._store = SpoolStore(path, max_bytes, clock)
        self._closed = False
        self._verifiers: tuple[WebhookVerifier, ...] = ()
        self._stats = SpoolStats(max_bytes=max_bytes)

    @property
    def stats(self) -> SpoolStats:
        """What the spool holds, from memory."""
        return self._stats

    @property
    def shortage(self) -> str:
        """Why the spool would soon refuse an event, or already does; empty while it has room."""
        if self._stats.fullness > _NEARLY_FULL:
            return f"the spool is {self._stats.fullness:.0%} full: bring PostgreSQL back, or give the spool more room"
        try:
            self._check_disk(0)
        except (SpoolFull, SpoolUnavailable) as error:
            return str(error)
        return ""

    async def open(self) -> None:
        """Lock and open the file, moving a damaged one aside.

        Raises Misconfigured when another process has it, or its folder cannot be used.
        """
        await self._in_thread(self._open)

    async def close(self) -> None:
        """Finish what was begun, close the file and give the lock back; for good, make a new spool to go on."""
        if self._closed:
            return
        self._closed = True
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        finally:
            self._thread.shutdown(wait=False)

    async def put(self, events: Sequence[IncomingEvent]) -> None:
        """Store events, all or none, and return once they are on the disk. Raises SpoolFull.

        An id that is already here is left as it is.
        """
        if not events:
            return
        put = _Put(tuple(events))
        self._waiting.append(put)
        await self._in_thread(self._write_until_done, put)
        if put.error is not None:
            raise put.error

    async def put_unverified(self, event: UnverifiedEvent) -> None:
        """Store a request whose token is unknown, and return once it is on the disk. Raises SpoolFull at the cap."""
        await self._in_thread(self._put_unverified, event)

    async def oldest(self, limit: int) -> Sequence[IncomingEvent]:
        """Read up to `limit` events, oldest first: fewer when they are large, none only when none waits."""
        return await self._in_thread(self._read, open_event, limit, True)

    async def oldest_unverified(self, limit: int) -> Sequence[UnverifiedEvent]:
        """Read up to `limit` requests whose token was unknown, oldest first; as `oldest`."""
        return await self._in_thread(self._read, open_unverified, limit, False)

    async def forget(self, ids: Sequence[EventId]) -> None:
        """Remove events of both lanes, once they are safely elsewhere; ids that are not here are ignored."""
        if ids:
            await self._in_thread(self._forget, tuple(ids))

    async def remember_verifiers(self, verifiers: Sequence[WebhookVerifier]) -> None:
        """Keep the set of token verifiers for a restart while Postgres is away; the same set again costs nothing."""
        await self._in_thread(self._remember, tuple(verifiers))

    async def verifiers(self) -> Sequence[WebhookVerifier]:
        """Give the last set of token verifiers remembered, empty where there never was one."""
        return self._verifiers

    async def _in_thread(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        if self._closed:
            raise SpoolUnavailable("the spool is closed: eventsync is stopping, send it again")
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    # What follows runs in the spool's own thread only.

    def _open(self) -> None:
        self._store.open()
        sealed = self._store.sealed_verifiers
        try:
            self._verifiers = () if sealed is None else open_verifiers(self._keyring, sealed)
        except EntryDamaged as error:
            _log.warning("spool.verifiers_lost", reason=error.reason)
        self._store.run(self._measure)

    def _on_file(self, operation: Callable[[SpoolFile], _Result]) -> _Result:
        def measured(file: SpoolFile) -> _Result:
            result = operation(file)
            self._measure(file)
            return result

        return self._store.run(measured)

    def _measure(self, file: SpoolFile) -> None:
        first_id = file.first_id()
        self._stats = replace(
            self._stats,
            count=file.verified.count,
            unverified_count=file.unverified.count,
            damaged_count=file.damaged_count,
            used_bytes=file.used_bytes(),
            oldest_received_at=None if first_id is None else received_at_of(first_id),
            damaged_files=self._store.damaged_files,
        )

    def _write_until_done(self, put: _Put) -> None:
        while not put.done:
            self._write_group(self._next_group())

    def _next_group(self) -> list[_Put]:
        """Take what has gathered, at least one put, within the bounds of one transaction."""
        group = [self._waiting.popleft()]
        size = group[0].size_bytes
        while self._waiting and len(group) < _GROUP_PUTS and size + self._waiting[0].size_bytes <= _GROUP_BYTES:
            group.append(self._waiting.popleft())
            size += group[-1].size_bytes
        return group

    def _write_group(self, group: Sequence[_Put]) -> None:
        """Write puts in one transaction; a group that fails is split, so that each put fails or succeeds alone."""
        error = self._try_to_insert(group)
        if error is not None and len(group) > 1:
            for put in group:
                self._write_group([put])
            return
        if isinstance(error, SpoolFull):
            self._count_refused()
        for put in group:
            put.error = error
            put.done = True

    def _try_to_insert(self, group: Sequence[_Put]) -> Exception | None:
        try:
            self._insert([seal_event(self._keyring, event) for put in group for event in put.events])
        except Exception as error:  # noqa: BLE001 - handed to its own putter, not to the one whose turn it was
            return error
        return None

    def _insert(self, entries: Sequence[SealedEntry]) -> None:
        def insert(file: SpoolFile) -> None:
            self._check_disk(sum(len(entry.sealed) for entry in entries))
            file.insert(entries)

        self._on_file(insert)
        self._stats = replace(self._stats, put_transactions=self._stats.put_transactions + 1)

    def _count_refused(self) -> None:
        self._stats = replace(self._stats, refused_count=self._stats.refused_count + 1)

    def _check_disk(self, wanted_bytes: int) -> None:
        try:
            free_bytes = self._free_bytes(self._path.parent)
        except OSError as error:
            raise unavailable(error) from error
        if free_bytes < wanted_bytes + _DISK_RESERVE_BYTES:
            raise SpoolFull("the disk of the spool is nearly full: free space on it")

    def _put_unverified(self, event: UnverifiedEvent) -> None:
        entry = seal_unverified(self._keyring, event)
        try:
            self._on_file(lambda file: self._check_unverified_lane(file, entry))
            self._insert([entry])
        except SpoolFull:
            self._count_refused()
            raise

    def _check_unverified_lane(self, file: SpoolFile, entry: SealedEntry) -> None:
        room_bytes = self._max_bytes // _UNVERIFIED_SHARE - file.unverified.sealed_bytes
        if file.unverified.count >= self._max_unverified or len(entry.sealed) > room_bytes:
            raise SpoolFull("the spool's lane for unknown tokens is full: bring PostgreSQL back so that it drains")

    def _read(self, open_entry: Callable[[Keyring, SealedEntry], _Result], limit: int, verified: bool) -> list[_Result]:
        opened: list[_Result] = []
        while not opened:
            entries = self._on_file(lambda file: file.oldest(verified=verified, limit=limit))
            damaged: list[tuple[EventId, str]] = []
            for entry in entries:
                try:
                    opened.append(open_entry(self._keyring, entry))
                except EntryDamaged as error:
                    damaged.append((entry.id, error.reason))
            if damaged:
                self._set_aside(damaged)
            if not entries:
                break
        return opened

    def _set_aside(self, damaged: Sequence[tuple[EventId, str]]) -> None:
        self._on_file(lambda file: file.set_aside(damaged))
        for event_id, reason in damaged:
            _log.error("spool.entry_set_aside", event_id=str(event_id), reason=reason)

    def _forget(self, ids: Sequence[EventId]) -> None:
        self._on_file(lambda file: file.delete(ids))

    def _remember(self, verifiers: tuple[WebhookVerifier, ...]) -> None:
        if verifiers != self._verifiers:
            sealed = seal_verifiers(self._keyring, verifiers)
            self._store.write_verifiers(sealed)
            self._verifiers = verifiers
