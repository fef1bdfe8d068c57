"""Makes events durable before anyone is told so: a group at a time into PostgreSQL, or into the spool while it is away.

Whoever calls `receive` waits for the group that its event went with; nobody is answered early, and no timer waits
for a group to grow: a group is what has gathered while the one before it was being written.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from eventsync.domain.clock import Clock
from eventsync.domain.errors import EventsyncError, Misconfigured, Rejected, Transient
from eventsync.domain.events import EventId, IncomingEvent
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.retention import Retention
from eventsync.spool.entries import UnverifiedEvent
from eventsync.spool.errors import SpoolFull, SpoolUnavailable
from eventsync.spool.spool import Spool
from eventsync.stages.incoming import incoming
from eventsync.stages.patience import Patience
from eventsync.stages.verify import Refusal, Request, VerifierBook, judge
from eventsync.telemetry import Metrics

_log = structlog.get_logger(__name__)

_GROUP_BYTES = 8 * 1024 * 1024
_DRAIN_GROUP = 200
_SPOOL_TIMEOUT_S = 10.0
_HELD_BACK_FOR = timedelta(minutes=1)


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
        self._insert_patience = Patience(insert_timeout_s)
        self._spool_patience = Patience(_SPOOL_TIMEOUT_S)
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self.database_is_away = False

    async def receive(self, event: IncomingEvent) -> None:
        """Return once `event` is durable. Raises Transient when neither PostgreSQL nor the spool can take it."""
        waiting = _Waiting(event, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        await waiting.durable

    async def receive_unverified(self, event: UnverifiedEvent) -> None:
        """Keep a request that nobody can judge now, in a small lane of the spool. Raises Transient when it is full."""
        try:
            await self._spool_patience.wait_for(self._spool.put_unverified(event))
        except TimeoutError:
            raise Transient("the disk of the spool does not answer") from None
        self._metrics.received.labels(vendor=event.vendor, store="unverified").inc()

    def went_away(self, reason: str) -> None:
        """Leave PostgreSQL alone until `came_back`, so that nobody waits for it in vain."""
        if not self.database_is_away:
            self.database_is_away = True
            _log.warning("postgres_away_spooling", error=reason)

    def came_back(self) -> None:
        """Use PostgreSQL again: something was just stored there."""
        if self.database_is_away:
            self.database_is_away = False
            _log.info("postgres_back")

    async def run(self) -> None:
        """Write group after group for ever; every failure is answered to those who wait, none ends the loop."""
        group: list[_Waiting] = []
        try:
            while True:
                await self._arrived.wait()
                group = self._next_group()
                await self._write(group)
        finally:
            self._turn_away([*group, *self._waiting], "eventsync is stopping: send it again")
            self._waiting.clear()
            await self._insert_patience.close()
            await self._spool_patience.close()

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and len(group) < self._group_events and size_bytes < _GROUP_BYTES:
            group.append(self._waiting.popleft())
            size_bytes += len(group[-1].event.body)
        if not self._waiting:
            self._arrived.clear()
        return group

    async def _write(self, group: list[_Waiting]) -> None:
        was_away = self.database_is_away
        left = await self._insert(group)
        reason = await self._put(left)
        if reason and was_away:  # nobody is told 503 before both have really failed for this very group
            self.database_is_away = False
            left = await self._insert(left)
        if reason and left:
            _log.error("events_not_durable", count=len(left), error=reason)
            self._turn_away(left, reason)

    async def _insert(self, group: list[_Waiting]) -> list[_Waiting]:
        """Try PostgreSQL; return those whom the spool must take, since PostgreSQL is away, refuses or hangs.

        An INSERT that hangs is left behind with its own fate: should it commit after all, the events' ids keep the
        spool's copy from doubling them. A group that PostgreSQL refuses is split until the one it means is alone.
        """
        if self.database_is_away or not group:
            return group
        try:
            await self._insert_patience.wait_for(self._queue.store([waiting.event for waiting in group]))
        except TimeoutError:
            self.went_away("an INSERT hangs")
        except Rejected as error:
            if len(group) > 1:
                half = len(group) // 2
                return [*await self._insert(group[:half]), *await self._insert(group[half:])]
            _log.error("postgres_refused_event", event_id=str(group[0].event.id), error=str(error))
        except EventsyncError as error:
            self.went_away(str(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, the spool can still take the events
            self.went_away(f"internal error ({type(error).__name__})")
        else:
            self._tell_durable(group, "postgres")
            return []
        return group

    async def _put(self, group: list[_Waiting]) -> str:
        """Put a group into the spool; an empty text, or why that failed."""
        if not group:
            return ""
        try:
            await self._spool_patience.wait_for(self._spool.put([waiting.event for waiting in group]))
        except TimeoutError:
            return "the disk of the spool does not answer"
        except EventsyncError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001  # whoever waits must get an answer, whatever it is
            return f"internal error ({type(error).__name__})"
        self._tell_durable(group, "spool")
        return ""

    def _tell_durable(self, group: Sequence[_Waiting], store: str) -> None:
        for vendor, count in Counter(waiting.event.vendor for waiting in group).items():
            self._metrics.received.labels(vendor=vendor, store=store).inc(count)
        for waiting in group:
            if not waiting.durable.done():  # a caller who has gone; the event is kept all the same
                waiting.durable.set_result(None)

    def _turn_away(self, group: Iterable[_Waiting], reason: str) -> None:
        for waiting in group:
            if not waiting.durable.done():
                waiting.durable.set_exception(Transient(reason))


class SpoolDrain:
    """Carries what the spool holds into PostgreSQL, oldest first; that it takes them is the proof that it is back.

    A group that is refused or takes too long is halved. An event that PostgreSQL refuses by itself goes to the end of
    the line and is tried again later, so that it stops nobody.
    """

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
        *,
        insert_timeout_s: float = 3.0,
        interval_s: float = 1.0,
    ) -> None:
        self._receiver = receiver
        self._queue = queue
        self._retention = retention
        self._spool = spool
        self._book = book
        self._metrics = metrics
        self._clock = clock
        self._patience = Patience(insert_timeout_s)
        self._interval_s = interval_s
        self._group_events = _DRAIN_GROUP
        self._held_back: set[EventId] = set()
        self._held_back_until = clock()

    async def run(self) -> None:
        """Drain for ever. Raises Transient when the spool's disk fails: run it again."""
        try:
            while True:
                while await self.run_once():
                    pass
                await asyncio.sleep(self._interval_s)
        finally:
            await self._patience.close()

    async def run_once(self) -> bool:
        """Carry one group of each lane, where there is one; tell whether to go on at once."""
        self._measure()
        if not (self._spool.stats.waiting_count or self._receiver.database_is_away):
            return False
        left = self._held_back_until - self._clock()
        if not timedelta(0) < left <= _HELD_BACK_FOR:  # more is left only where the clock has been set back
            self._held_back.clear()
        try:
            goes_on = await self._drain_verified()
            goes_on = await self._drain_unverified() or goes_on
            if not goes_on:
                await self._patience.wait_for(self._queue.database.ping())
        except (SpoolFull, SpoolUnavailable):
            raise
        except (TimeoutError, EventsyncError) as error:
            self._group_events = max(1, self._group_events // 2)  # perhaps it was only too much at once
            self._receiver.went_away(str(error) or "an INSERT hangs")
            return False
        self._receiver.came_back()
        return goes_on

    async def _drain_verified(self) -> bool:
        events = await self._spool.oldest(self._group_events + len(self._held_back))
        events = [event for event in events if event.id not in self._held_back][: self._group_events]
        return bool(events) and await self._carry(events, [event.id for event in events])

    async def _drain_unverified(self) -> bool:
        entries = await self._spool.oldest_unverified(self._group_events + len(self._held_back))
        entries = [entry for entry in entries if entry.id not in self._held_back][: self._group_events]
        if not entries:
            return False
        events = [event for entry in entries if (event := await self._judge(entry)) is not None]
        return await self._carry(events, [entry.id for entry in entries if entry.id not in self._held_back])

    async def _carry(self, events: Sequence[IncomingEvent], ids: Sequence[EventId]) -> bool:
        """Store `events`, then forget `ids`; a group that is refused is carried in halves from now on."""
        try:
            await self._store(events)
        except Rejected as error:
            if len(events) == 1:
                self._hold_back(events[0].id, str(error))
            self._group_events = max(1, len(events) // 2)
            return True
        await self._spool.forget(ids)
        self._group_events = min(2 * self._group_events, _DRAIN_GROUP)
        return True

    async def _store(self, events: Sequence[IncomingEvent]) -> None:
        """Store spooled events, making the partitions of their weeks where these are missing."""
        if not events:
            return
        try:
            await self._patience.wait_for(self._queue.store(events))
        except Rejected:
            for week in {event.received_at.isocalendar()[:2]: event.received_at for event in events}.values():
                partitions = self._retention.ensure_partitions(week, week + timedelta(milliseconds=1))
                await self._patience.wait_for(partitions)
            await self._patience.wait_for(self._queue.store(events))

    async def _judge(self, entry: UnverifiedEvent) -> IncomingEvent | None:
        try:
            verifier = await self._book.find(entry.token_hash)
        except Misconfigured as error:  # this one connection's secrets do not open: nobody can judge it yet
            self._hold_back(entry.id, str(error))
            return None
        request = Request(entry.vendor, entry.token_hash, entry.headers, entry.body, entry.remote_address)
        refusal = judge(verifier, request, entry.received_at)
        if verifier is None or refusal is not None:
            reason = refusal or Refusal.UNKNOWN_TOKEN
            self._metrics.refused.labels(vendor=entry.vendor, reason=reason.value).inc()
            return None
        return incoming(entry.id, verifier, entry.headers, entry.body)

    def _hold_back(self, event_id: EventId, reason: str) -> None:
        _log.error("spooled_event_held_back", event_id=str(event_id), error=reason)
        self._held_back.add(event_id)
        self._held_back_until = self._clock() + _HELD_BACK_FOR

    def _measure(self) -> None:
        stats = self._spool.stats
        self._metrics.spool_events.set(stats.waiting_count)
        self._metrics.spool_bytes.set(stats.used_bytes)
        oldest = stats.oldest_received_at
        age_s = 0.0 if oldest is None else (self._clock() - oldest).total_seconds()
        self._metrics.spool_oldest_seconds.set(age_s)
