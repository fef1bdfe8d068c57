"""Makes events durable before anyone is told so: a group at a time into PostgreSQL, or into the spool while it is away.

Whoever calls `receive` waits for the group that its event went with; nobody is answered early, and no timer waits
for a group to grow: a group is what has gathered while the one before it was being written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.connections import WebhookVerifier
from eventsync.domain.errors import EventsyncError, Rejected, Transient
from eventsync.domain.events import EventId, EventSource, IncomingEvent
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.retention import Retention
from eventsync.spool.entries import UnverifiedEvent
from eventsync.spool.spool import Spool
from eventsync.stages.verify import Request, VerifierBook, judge
from eventsync.telemetry import Metrics

_log = structlog.get_logger(__name__)

_DRAIN_GROUP = 200
_DRAIN_INTERVAL_S = 1.0
_MASKED = "[masked]"
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-auth-key", "x-api-key"})


@dataclass(slots=True)
class _Waiting:
    event: IncomingEvent
    durable: asyncio.Future[None]


class Receiver:
    """The stage behind the door."""

    name = "receiver"

    def __init__(
        self,
        queue: EventQueue,
        spool: Spool,
        metrics: Metrics,
        clock: Clock,
        *,
        group_events: int = 256,
        insert_timeout_s: float = 3.0,
    ) -> None:
        self._queue = queue
        self._spool = spool
        self._metrics = metrics
        self._clock = clock
        self._group_events = group_events
        self._insert_timeout_s = insert_timeout_s
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._hanging: set[asyncio.Task[None]] = set()
        self.database_is_away = False

    async def receive(self, event: IncomingEvent) -> None:
        """Return once `event` is durable. Raises Transient when neither PostgreSQL nor the spool can take it."""
        waiting = _Waiting(event, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        await waiting.durable

    async def receive_unverified(self, event: UnverifiedEvent) -> None:
        """Keep a request that nobody can judge now, in a small lane of the spool. Raises Transient when it is full."""
        await self._spool.put_unverified(event)
        self._metrics.received.labels(vendor=event.vendor, store="unverified").inc()

    async def run(self) -> None:
        """Write group after group for ever; every failure is answered to those who wait, none ends the loop."""
        try:
            while True:
                await self._arrived.wait()
                group, self._waiting = self._waiting[: self._group_events], self._waiting[self._group_events :]
                if not self._waiting:
                    self._arrived.clear()
                if group:
                    await self._write(group)
        finally:
            for waiting in self._waiting:
                waiting.durable.cancel()
            await self._end_hanging()

    async def _write(self, group: Sequence[_Waiting]) -> None:
        error: EventsyncError | None = None
        store = "postgres"
        try:
            if not await self._insert([waiting.event for waiting in group]):
                store = "spool"
                await self._spool.put([waiting.event for waiting in group])
        except EventsyncError as caught:
            error = caught
            _log.error("events_not_durable", count=len(group), error=str(caught))
        for waiting in group:
            if waiting.durable.done():
                continue  # the caller has gone; the event is kept all the same
            if error is None:
                waiting.durable.set_result(None)
                self._metrics.received.labels(vendor=waiting.event.vendor, store=store).inc()
            else:
                waiting.durable.set_exception(Transient(str(error)))

    async def _insert(self, events: Sequence[IncomingEvent]) -> bool:
        """Try PostgreSQL; False where it is away, refuses or hangs, so that the spool must take the group.

        An INSERT that hangs is left behind with its own fate: should it commit after all, the events' ids keep the
        spool's copy from doubling them.
        """
        if self.database_is_away:
            return False
        task = asyncio.create_task(self._queue.store(events))
        await asyncio.wait({task}, timeout=self._insert_timeout_s)
        if not task.done():
            task.cancel()
            self._hanging.add(task)
            self._went_away("an INSERT hangs")
            return False
        try:
            task.result()
        except Rejected as error:
            _log.error("postgres_refused_events", count=len(events), error=str(error))
            return False
        except EventsyncError as error:
            self._went_away(str(error))
            return False
        return True

    def _went_away(self, reason: str) -> None:
        self.database_is_away = True
        _log.warning("postgres_away_spooling", error=reason)

    async def _end_hanging(self) -> None:
        hanging, self._hanging = self._hanging, set()
        for task in hanging:
            task.cancel()
        if hanging:
            await asyncio.wait(hanging, timeout=self._insert_timeout_s)

    async def came_back(self) -> bool:
        """Ask PostgreSQL whether it answers, and use it again if so."""
        try:
            async with asyncio.timeout(self._insert_timeout_s):
                await self._queue.database.ping()
        except (TimeoutError, EventsyncError):
            return False
        if self.database_is_away:
            self.database_is_away = False
            _log.info("postgres_back")
        self._hanging = {task for task in self._hanging if not task.done()}
        return True


class SpoolDrain:
    """Carries what the spool holds into PostgreSQL, oldest first, once that is back."""

    name = "spool-drain"

    def __init__(
        self,
        receiver: Receiver,
        queue: EventQueue,
        retention: Retention,
        spool: Spool,
        book: VerifierBook,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._receiver = receiver
        self._queue = queue
        self._retention = retention
        self._spool = spool
        self._book = book
        self._metrics = metrics
        self._clock = clock

    async def run(self) -> None:
        """Drain for ever. Raises Transient when PostgreSQL goes away in the middle: run it again."""
        while True:
            while await self.run_once():
                pass
            await asyncio.sleep(_DRAIN_INTERVAL_S)

    async def run_once(self) -> int:
        """Carry one group of each lane; tell how many events left the spool."""
        self._measure()
        if not (self._spool.stats.waiting_count or self._receiver.database_is_away):
            return 0
        if not await self._receiver.came_back():
            return 0
        return await self._drain_verified() + await self._drain_unverified()

    async def _drain_verified(self) -> int:
        events = await self._spool.oldest(_DRAIN_GROUP)
        if events:
            await self._store(events)
            await self._spool.forget([event.id for event in events])
        return len(events)

    async def _store(self, events: Sequence[IncomingEvent]) -> None:
        """Store spooled events; their weeks may be older than the partitions that are kept ready."""
        times = [event.received_at for event in events]
        await self._retention.ensure_partitions(min(times), max(times))
        await self._queue.store(events)

    async def _drain_unverified(self) -> int:
        entries = await self._spool.oldest_unverified(_DRAIN_GROUP)
        if not entries:
            return 0
        accepted = [event for entry in entries if (event := await self._judge(entry)) is not None]
        if accepted:
            await self._store(accepted)
        await self._spool.forget([entry.id for entry in entries])
        return len(entries)

    async def _judge(self, entry: UnverifiedEvent) -> IncomingEvent | None:
        verifier = await self._book.find(entry.token_hash)
        request = Request(entry.vendor, entry.token_hash, dict(entry.headers), entry.body, entry.remote_address)
        refusal = judge(verifier, request, entry.received_at)
        if verifier is None or refusal is not None:
            self._metrics.refused.labels(vendor=entry.vendor, reason=str(refusal)).inc()
            return None
        return incoming(entry.id, verifier, entry.headers, entry.body)

    def _measure(self) -> None:
        stats = self._spool.stats
        self._metrics.spool_events.set(stats.waiting_count)
        self._metrics.spool_bytes.set(stats.used_bytes)
        oldest = stats.oldest_received_at
        age_s = 0.0 if oldest is None else (self._clock() - oldest).total_seconds()
        self._metrics.spool_oldest_seconds.set(age_s)


def incoming(
    event_id: EventId,
    verifier: WebhookVerifier,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    parked_reason: str | None = None,
) -> IncomingEvent:
    """Make the event of a verified request, its credentials masked."""
    return IncomingEvent(
        id=event_id,
        connection_id=verifier.connection_id,
        vendor=verifier.vendor,
        source=EventSource.WEBHOOK,
        headers=mask_headers(headers, verifier),
        body=body,
        parked_reason=parked_reason,
    )


def mask_headers(headers: Sequence[tuple[str, str]], verifier: WebhookVerifier) -> tuple[tuple[str, str], ...]:
    """Blot out what proves who the caller is, so that a stored request cannot be sent again by whoever reads it."""
    secret = _SECRET_HEADERS | ({verifier.hmac.header.lower()} if verifier.hmac else set())
    return tuple((name, _MASKED if name.lower() in secret else value) for name, value in headers)
