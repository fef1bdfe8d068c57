"""Reads from the vendor what an event only named: one read at a time per record, within the API budget.

The message is acknowledged as soon as the row is leased, since a read may wait for the budget far longer than a
broker waits for an acknowledgement; a worker that dies leaves a lease that runs out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from itertools import chain, repeat
from uuid import UUID

import structlog

from eventsync.bus.wire import Delivery, QueueName
from eventsync.domain.changes import EntityRef, RecordChange
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection
from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.domain.events import EventId
from eventsync.domain.merging import Merged
from eventsync.domain.records import RecordKind
from eventsync.domain.webhooks import WebhookReading
from eventsync.postgres.queue import EventQueue, covered_by_read, end_read, finish
from eventsync.postgres.queue_values import Finished, Parked, RefetchLease
from eventsync.postgres.record_rows import milliseconds
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.stages.apply import event_ids_in, finished_by
from eventsync.stages.bus_link import BusLink
from eventsync.stages.cancellation import finish_before_cancel
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.holding import hold_while_away
from eventsync.telemetry import Metrics
from eventsync.vendorkit.budget import BudgetSpent
from eventsync.vendorkit.vendor import RecordReader

_log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 12
_LEASE = timedelta(minutes=5)
_DEFER = timedelta(seconds=2)
_FIRST_RETRY_S = 15.0
_LONGEST_RETRY_S = 3600.0
_CREDENTIALS_RETRY_S = 300.0

OpenClient = Callable[[Connection], RecordReader]


class Refetcher:
    """Answers one event at a time by one read of its record, and every other event that the read answers too."""

    def __init__(
        self,
        queue: EventQueue,
        writer: RecordWriter,
        directory: ConnectionDirectory,
        open_client: OpenClient,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._writer = writer
        self._directory = directory
        self._open_client = open_client
        self._metrics = metrics
        self._clock = clock

    async def lease(self, event_id: UUID) -> RefetchLease | None:
        """Take the right to read the event's record, or let the event wait for whoever has it.

        Waits while PostgreSQL is away. When a link breaks, what was asked may have been done: all tries are one.
        """
        now = self._clock()
        again = chain([False], repeat(True))
        lease = await hold_while_away(
            lambda: self._queue.lease_refetch(event_id, now, self._clock() + _LEASE, again=next(again))
        )
        if lease is None:
            await hold_while_away(partial(self._queue.defer, event_id, now, now + _DEFER))
        return lease

    async def refetch(self, lease: RefetchLease) -> None:
        """Read the record and bring the event to its end, or to its next try; both wait while PostgreSQL is away."""
        if lease.attempts > MAX_ATTEMPTS:  # earlier ones ended without a word: their workers died
            await self._park(lease, "kills_the_worker", "its worker died at every attempt")
            return
        try:
            changes = await self._read(lease)
        except Misconfigured as error:
            _log.error("vendor_refuses_credentials", connection_id=str(lease.connection_id), error=str(error))
            await self._retry(lease, _CREDENTIALS_RETRY_S, str(error), counts=False)
        except BudgetSpent as error:
            await self._retry(lease, error.retry_after_s or _FIRST_RETRY_S, str(error), counts=False)
        except Transient as error:
            await self._retry_or_park(lease, "vendor_unreachable", str(error), error.retry_after_s)
        except Rejected as error:
            await self._park(lease, error.reason, str(error))
        except Exception as error:  # noqa: BLE001  # a fault of ours in one read must not end those beside it
            _log.error("record_not_read", event_id=str(lease.event_id), exception=type(error).__name__)
            await self._retry_or_park(lease, "internal_error", type(error).__name__)
        else:
            await self._commit(lease, changes)

    async def _read(self, lease: RefetchLease) -> tuple[RecordChange, ...]:
        read_began_ms = milliseconds(self._clock())
        connection = await self._directory.get(lease.connection_id)
        client = self._open_client(connection)
        return await client.refetch(_entity(lease), sequence=lease.sequence, read_began_ms=read_began_ms)

    async def _commit(self, lease: RefetchLease, changes: Sequence[RecordChange]) -> None:
        """Write what was read, however long PostgreSQL is away: calls are scarce, and the sequence guards the order."""
        try:
            ended = await hold_while_away(partial(self._commit_once, lease, changes))
        except Rejected as error:
            await self._park(lease, error.reason, str(error))
        else:
            self._metrics.finished.labels(vendor=lease.vendor, outcome="refetched").inc(len(ended))

    async def _commit_once(self, lease: RefetchLease, changes: Sequence[RecordChange]) -> Sequence[Finished]:
        now = self._clock()
        async with self._queue.database.transaction() as session:
            covered = await covered_by_read(session, lease)
            cause = _cause(lease, [event_id for event_id, _ in covered])
            entries = [EventChange(cause, change) for change in changes]
            merged = await self._writer.write(session, entries, now)
            results = list(zip(entries, merged, strict=True))
            ended = [self._end(lease, event, results, changes) for event in covered]
            await finish(session, ended, now)
            await end_read(session, lease)
        return ended

    @staticmethod
    def _end(
        lease: RefetchLease,
        event: tuple[EventId, str],
        results: Sequence[tuple[EventChange, Merged]],
        changes: Sequence[RecordChange],
    ) -> Finished:
        event_id, event_type = event
        return finished_by(event_id, WebhookReading(event_type, _entity(lease), tuple(changes)), results)

    async def _retry_or_park(
        self, lease: RefetchLease, reason: str, error: str, retry_after_s: float | None = None
    ) -> None:
        if lease.attempts >= MAX_ATTEMPTS:
            await self._park(lease, reason, error)
            return
        pause_s = retry_after_s or min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2.0 ** (lease.attempts - 1))
        await self._retry(lease, pause_s, error, counts=True)

    async def _retry(self, lease: RefetchLease, pause_s: float, error: str, *, counts: bool) -> None:
        now = self._clock()
        available_at = now + timedelta(seconds=pause_s)
        put_off = partial(self._queue.retry_later, [lease.event_id], now, available_at, error, counts=counts)
        await hold_while_away(put_off)
        await hold_while_away(partial(self._queue.end_read, lease))

    async def _park(self, lease: RefetchLease, reason: str, error: str) -> None:
        await hold_while_away(partial(self._queue.park, [Parked(lease.event_id, reason, error)]))
        await hold_while_away(partial(self._queue.end_read, lease))
        self._metrics.parked.labels(reason=reason).inc()
        _log.warning("event_parked", event_id=str(lease.event_id), reason=reason)


class RefetchWorker:
    """Feeds a Refetcher from the bus: several records at once, so that a slow vendor does not hold up the others."""

    name = "worker:refetch"

    def __init__(self, refetcher: Refetcher, link: BusLink, *, at_once: int = 4) -> None:
        self._refetcher = refetcher
        self._link = link
        self._at_once = at_once

    async def run(self) -> None:
        """Work for ever. Raises Transient when the bus goes away: run it again."""
        await self._link.restore()
        subscription = await self._link.bus.subscribe(QueueName.REFETCH, self._at_once)
        places = asyncio.Semaphore(self._at_once)
        try:
            async with asyncio.TaskGroup() as reads:
                while True:
                    await places.acquire()  # before the lease, which runs out while one waits
                    deliveries = await subscription.next_batch(1)
                    lease = await self._lease(deliveries)
                    if lease is None:
                        places.release()
                    else:
                        reads.create_task(self._refetch(lease, places))
                    await subscription.acknowledge(deliveries)
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # one read's failure ended the others; the supervisor needs its kind
        finally:
            await asyncio.shield(subscription.close())

    async def _lease(self, deliveries: Sequence[Delivery]) -> RefetchLease | None:
        for event_id in event_ids_in(deliveries):  # at most one: that is how they are published
            return await self._refetcher.lease(event_id)
        return None

    async def _refetch(self, lease: RefetchLease, places: asyncio.Semaphore) -> None:
        try:
            await finish_before_cancel(self._refetcher.refetch(lease))
        finally:
            places.release()


def _cause(lease: RefetchLease, covered: Sequence[EventId]) -> EventId | None:
    """Name the event that the changes are told to come from: one that ends with them, which the lease's own may not.

    A worker that is slow, or has a slow clock, may lose its lease to another one, whose read then ended the event.
    """
    if lease.event_id in covered:
        return lease.event_id
    return covered[-1] if covered else None


def _entity(lease: RefetchLease) -> EntityRef:
    return EntityRef(lease.connection_id, RecordKind(lease.entity_kind), lease.entity_id)
