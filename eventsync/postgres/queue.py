"""The unfinished events: stored at the door, claimed by the relay, attempted by consumers, finished or parked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from eventsync.crypto import Keyring
from eventsync.domain.errors import Misconfigured
from eventsync.domain.events import EventId, IncomingEvent, Lane, WorkClass
from eventsync.postgres.database import Database, Session
from eventsync.postgres.json_rows import json_rows
from eventsync.postgres.queue_values import (
    Attempt,
    Claimed,
    Finished,
    FlightWindow,
    Parked,
    QueueMeasure,
    RefetchLease,
    RefetchWork,
)
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    store: str
    claim_due: str
    mark_published: str
    next_due: str
    republish_lost: str
    follow_clock_set_back: str
    republish_all: str
    wait_for_bus_turn: str
    return_expired_leases: str
    begin_attempts: str
    finish: str
    park: str
    hand_to_refetch: str
    retry_later: str
    lease_refetch: str
    end_read: str
    covered_by_read: str
    defer: str
    count_dead_letter: str
    unpark: str
    measure: str


SQL = load_statements(_Sql, "queue.sql")


class EventQueue:
    """`event_queue`, `events` and `event_history` as the stages use them; all times are arguments."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self.database = database
        self._keyring = keyring

    async def store(self, events: Sequence[IncomingEvent]) -> None:
        """Make `events` durable in one statement; those that are already stored are left alone."""
        rows = [self._row(event) for event in events]
        async with self.database.session() as session:
            await session.execute(SQL.store, *map(list, zip(*rows, strict=True)))

    async def republish_lost(self, now: datetime, *, after_s: float) -> int:
        """Make published events due again that were not finished for `after_s` seconds (doubling); tell how many."""
        async with self.database.session() as session:
            return _count(await session.execute(SQL.republish_lost, now, after_s))

    async def follow_clock_set_back(self, windows: Sequence[FlightWindow], now: datetime) -> int:
        """Let what a clock that was ahead has put into the future begin now; tell how many events that were."""
        works, lanes, _ = _columns(windows)
        async with self.database.session() as session:
            moved: int = await session.fetchval(SQL.follow_clock_set_back, now, works, lanes)
        return moved

    async def republish_all(self) -> int:
        """Make everything in flight due again, since the bus has lost it; tell how many."""
        async with self.database.session() as session:
            return _count(await session.execute(SQL.republish_all))

    async def return_expired_leases(self, now: datetime) -> int:
        """Make due again what workers leased and never ended; tell how many."""
        async with self.database.session() as session:
            return _count(await session.execute(SQL.return_expired_leases, now))

    async def next_due(self, windows: Sequence[FlightWindow]) -> list[tuple[datetime, bool]]:
        """Tell for each class with waiting events when the earliest is due and whether the window has room."""
        async with self.database.session() as session:
            rows = await session.fetch(SQL.next_due, *_columns(windows))
        return [(row["available_at"], row["has_room"]) for row in rows]

    async def begin_attempts(
        self, event_ids: Sequence[UUID], now: datetime, *, released: Iterable[UUID] = (), alone: bool = False
    ) -> list[Attempt]:
        """Count an attempt at each event that still waits, and answer them with their opened bodies.

        Suspects are answered but not counted, unless `alone` says that this is their own try. `released` names those
        that this process let go unharmed before (the database went away): they are neither suspects nor counted twice.
        """
        async with self.database.session() as session:
            rows = await session.fetch(SQL.begin_attempts, list(event_ids), list(released), now, alone)
        return [self._attempt(row) for row in rows]

    async def retry_later(
        self, event_ids: Sequence[UUID], now: datetime, available_at: datetime, error: str, *, counts: bool = True
    ) -> None:
        """Let events wait until `available_at`; with `counts` False the attempt is taken back."""
        async with self.database.session() as session:
            await session.execute(SQL.retry_later, list(event_ids), available_at, error, counts, now)

    async def lease_refetch(
        self, event_id: UUID, now: datetime, leased_until: datetime, *, again: bool = False
    ) -> RefetchLease | None:
        """Take the right to read the event's record; None while another worker has it or nothing waits any more.

        With `again`, a try that failed at the same `now` may have been committed, and is answered.
        """
        async with self.database.session() as session:
            row = await session.fetchrow(SQL.lease_refetch, event_id, now, leased_until, again)
        return None if row is None else RefetchLease(**dict(row))

    async def end_read(self, lease: RefetchLease) -> None:
        """Let the next worker read the record; nothing happens where the lease was lost to another."""
        async with self.database.session() as session:
            await end_read(session, lease)

    async def defer(self, event_id: UUID, now: datetime, available_at: datetime) -> None:
        """Let an event wait whose record another worker is reading."""
        async with self.database.session() as session:
            await session.execute(SQL.defer, event_id, available_at, now)

    async def count_dead_letter(self, event_id: UUID, now: datetime) -> int | None:
        """Count an attempt for an event that the broker gave up on; None where it has ended or is at work."""
        async with self.database.session() as session:
            attempts: int | None = await session.fetchval(SQL.count_dead_letter, event_id, now)
            return attempts

    async def park(self, parked: Sequence[Parked]) -> int:
        """Set events aside for a person; tell how many were not parked before."""
        async with self.database.session() as session:
            return await park(session, parked)

    async def unpark(self, event_id: UUID, now: datetime, lane: Lane) -> bool:
        """Give a parked event a fresh start; False where it is not parked."""
        async with self.database.session() as session:
            return await session.fetchval(SQL.unpark, event_id, now, lane.value) is not None

    async def measure(self) -> list[QueueMeasure]:
        """Count the unfinished events by class and status."""
        async with self.database.session() as session:
            return [QueueMeasure(**dict(row)) for row in await session.fetch(SQL.measure)]

    def _row(self, event: IncomingEvent) -> tuple[Any, ...]:
        context = f"event:{event.id}"
        return (
            event.id,
            event.received_at,
            event.connection_id,
            event.vendor,
            event.source.value,
            event.caused_by,
            self._keyring.seal(orjson.dumps(event.headers), context),
            self._keyring.seal(event.body, context),
            len(event.body),
            event.lane.value,
            event.parked_reason,
        )

    def _attempt(self, row: Any) -> Attempt:
        headers, body, unreadable = self._opened(row)
        return Attempt(
            event_id=row["event_id"],
            received_at=row["received_at"],
            connection_id=row["connection_id"],
            vendor=row["vendor"],
            attempts=row["attempts"],
            is_suspect=row["is_suspect"],
            headers=headers,
            body=body,
            unreadable=unreadable,
        )

    def _opened(self, row: Any) -> tuple[tuple[tuple[str, str], ...], bytes, str | None]:
        """Open headers and body; one event that does not open must not stop the others of its batch."""
        context = f"event:{row['event_id']}"
        try:
            headers = orjson.loads(self._keyring.open(row["headers_sealed"], context))
            return (
                tuple((name, value) for name, value in headers),
                self._keyring.open(row["body_sealed"], context),
                None,
            )
        except Misconfigured as error:
            return (), b"", str(error)


# The following run inside a transaction of the stage's: an event's end and what it changed are one commit.


async def claim_due(session: Session, windows: Sequence[FlightWindow], now: datetime, *, at_most: int) -> list[Claimed]:
    """Lock up to `at_most` due events of each class that have room in their window, oldest first."""
    rows = await session.fetch(SQL.claim_due, *_columns(windows), now, at_most)
    return [Claimed(row["event_id"], WorkClass(row["work"]), Lane(row["lane"])) for row in rows]


async def mark_published(session: Session, event_ids: Sequence[UUID], now: datetime) -> None:
    """Note that the bus has confirmed these."""
    await session.execute(SQL.mark_published, list(event_ids), now)


async def finish(session: Session, finished: Sequence[Finished], now: datetime) -> None:
    """Move events from the queue to the history; those that someone else finished first are left alone."""
    if finished:
        await session.execute(SQL.finish, json_rows(finished), now)


async def wait_for_bus_turn(session: Session) -> None:
    """Wait until no other process is repairing the bus; the turn ends with the transaction."""
    await session.execute(SQL.wait_for_bus_turn)


async def park(session: Session, parked: Sequence[Parked]) -> int:
    """Set events aside for a person; tell how many were not parked before."""
    return len(await session.fetch(SQL.park, json_rows(parked))) if parked else 0


async def hand_to_refetch(session: Session, work: Sequence[RefetchWork], now: datetime) -> None:
    """Let events wait for a worker that reads their records from the vendor."""
    if work:
        await session.execute(SQL.hand_to_refetch, json_rows(work), now)


async def covered_by_read(session: Session, lease: RefetchLease) -> list[tuple[EventId, str]]:
    """Lock and list, oldest first, the waiting events (id, type) that a read begun after the lease answers."""
    key = lease.connection_id, lease.entity_kind, lease.entity_id
    rows = await session.fetch(SQL.covered_by_read, *key, lease.snapshot, lease.event_id)
    return [(row["event_id"], row["event_type"]) for row in rows]


async def end_read(session: Session, lease: RefetchLease) -> None:
    """Let the next worker read the record; nothing happens where the lease was lost to another."""
    await session.execute(SQL.end_read, lease.connection_id, lease.entity_kind, lease.entity_id, lease.sequence)


def _columns(windows: Sequence[FlightWindow]) -> tuple[list[str], list[int], list[int]]:
    return [w.work.value for w in windows], [w.lane.value for w in windows], [w.size for w in windows]


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
