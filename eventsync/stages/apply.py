"""Applies events: takes what the bus has brought, understands it, and writes data and end in one transaction."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

import structlog

from eventsync.bus.wire import Delivery, QueueName, decode
from eventsync.domain.changes import Absence, Refetch
from eventsync.domain.clock import Clock
from eventsync.domain.errors import Misconfigured, Rejected, Transient
from eventsync.domain.events import EventId, Outcome
from eventsync.domain.merging import Merged
from eventsync.domain.records import RecordKind
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.postgres.queue import EventQueue, finish, hand_to_refetch, park
from eventsync.postgres.queue_values import Attempt, Finished, Parked, RefetchWork
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.stages.bus_link import BusLink
from eventsync.stages.cancellation import finish_before_cancel
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.holding import hold_while_away
from eventsync.telemetry import Metrics
from eventsync.vendorkit.vendor import Vendor

_log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
_TRANSACTION_TRIES = 3
_FIRST_RETRY = timedelta(seconds=5)
_INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class _Understood:
    """An attempt and what its webhook says."""

    attempt: Attempt
    reading: WebhookReading


class Applier:
    """Turns attempts into committed rows: a batch at a time, and one by one where one of them spoils it."""

    def __init__(
        self,
        queue: EventQueue,
        writer: RecordWriter,
        vendors: Mapping[str, Vendor],
        directory: ConnectionDirectory,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._writer = writer
        self._vendors = vendors
        self._directory = directory
        self._metrics = metrics
        self._clock = clock
        self._released: set[UUID] = set()

    async def apply(self, event_ids: Sequence[UUID]) -> None:
        """Bring every one of these events that still waits to its end, or to its next try.

        Attempts are counted first. An event whose earlier attempt never ended may have killed its consumer, so it
        runs alone; after MAX_ATTEMPTS it is parked. Raises Transient or Misconfigured when PostgreSQL goes away or
        refuses us: nothing is lost, and these events are not suspected for it.
        """
        try:
            attempts = await self._queue.begin_attempts(event_ids, self._clock(), released=self._released)
            self._released.difference_update(event_ids)
            await self._apply_attempts(attempts)
        except (Transient, Misconfigured):
            self._released.update(event_ids)
            raise

    async def _apply_attempts(self, attempts: Sequence[Attempt]) -> None:
        trusted = [attempt for attempt in attempts if not attempt.is_suspect]
        suspects = [attempt for attempt in attempts if attempt.is_suspect]
        if trusted:
            self._metrics.batch_events.observe(len(trusted))
            await self._apply_batch(trusted)
        for suspect in sorted(suspects, key=lambda attempt: attempt.attempts):
            await self._apply_alone(suspect)

    async def _apply_alone(self, suspect: Attempt) -> None:
        """Count a suspect's attempt only now that its turn has come: the others must not pay for a killer before it."""
        if suspect.attempts >= MAX_ATTEMPTS:
            await self._park([_parked(suspect, "kills_the_consumer", "its consumer died at every attempt")])
            return
        await self._apply_batch(await self._queue.begin_attempts([suspect.event_id], self._clock(), alone=True))

    async def _apply_batch(self, attempts: Sequence[Attempt]) -> None:
        understood, parked = [], []
        for attempt in attempts:
            try:
                understood.append(_Understood(attempt, await self._understand(attempt)))
            except Rejected as error:
                parked.append(_parked(attempt, error.reason, str(error)))
            except Misconfigured as error:
                parked.append(_parked(attempt, "misconfigured", str(error)))
            except Transient:
                raise
            except Exception as error:  # noqa: BLE001  # a fault of ours in one event must not stop the others
                _log.error("event_not_understood", event_id=str(attempt.event_id), exception=type(error).__name__)
                parked.append(_parked(attempt, _INTERNAL_ERROR, type(error).__name__))
        await self._park(parked)
        if understood:
            await self._commit(understood)

    async def _understand(self, attempt: Attempt) -> WebhookReading:
        vendor = self._vendors.get(attempt.vendor)
        if vendor is None:
            raise Rejected("unknown_vendor", "this release has no adapter for the event's vendor")
        if attempt.unreadable is not None:
            raise Misconfigured(attempt.unreadable)
        connection = await self._directory.get(attempt.connection_id)
        context = WebhookContext(connection.id, connection.practice_id)
        return vendor.read_webhook(attempt.body, dict(attempt.headers), context)

    async def _commit(self, understood: Sequence[_Understood]) -> None:
        """Write them together or, where one of them spoils that, in ever smaller parts until it stands alone."""
        try:
            await self._write(understood)
        except (Transient, Misconfigured):
            raise
        except Exception as error:  # noqa: BLE001  # a fault of ours in one event must not stop the others
            if len(understood) > 1:
                middle = len(understood) // 2
                await self._commit(understood[:middle])
                await self._commit(understood[middle:])
            elif isinstance(error, Rejected):
                await self._park([_parked(understood[0].attempt, error.reason, str(error), understood[0].reading)])
            else:
                await self._retry_or_park(understood[0], error)

    async def _retry_or_park(self, entry: _Understood, error: Exception) -> None:
        """Try again later what failed by a fault of ours: a schema in the middle of an upgrade is one that passes."""
        attempt = entry.attempt
        _log.error("event_not_written", event_id=str(attempt.event_id), exception=type(error).__name__)
        if attempt.attempts >= MAX_ATTEMPTS:
            await self._park([_parked(attempt, _INTERNAL_ERROR, type(error).__name__, entry.reading)])
            return
        now = self._clock()
        available_at = now + _FIRST_RETRY * 2 ** (attempt.attempts - 1)
        await self._queue.retry_later([attempt.event_id], now, available_at, type(error).__name__)

    async def _write(self, understood: Sequence[_Understood]) -> None:
        """Write data and ends in one transaction; a deadlock or a lost connection is worth trying again at once."""
        for tries_left in reversed(range(_TRANSACTION_TRIES)):
            try:
                finished = await self._write_once(understood)
            except Transient:
                if not tries_left:
                    raise
            else:
                self._tell(understood, finished)
                return

    async def _write_once(self, understood: Sequence[_Understood]) -> list[Finished]:
        now = self._clock()
        changes = [
            EventChange(entry.attempt.event_id, change)
            for entry in understood
            for change in entry.reading.changes
            if not isinstance(change, Refetch)
        ]
        async with self._queue.database.transaction() as session:
            merged = await self._writer.write(session, changes, now)
            results: dict[EventId, list[tuple[EventChange, Merged]]] = {}
            for change, result in zip(changes, merged, strict=True):
                if change.event_id is not None:
                    results.setdefault(change.event_id, []).append((change, result))
            refetches = [work for entry in understood if (work := _refetch_work(entry)) is not None]
            handed = {work.event_id for work in refetches}
            finished = [
                finished_by(entry.attempt.event_id, entry.reading, results.get(entry.attempt.event_id, []))
                for entry in understood
                if entry.attempt.event_id not in handed
            ]
            await finish(session, finished, now)
            await hand_to_refetch(session, refetches, now)
        return finished

    def _tell(self, understood: Sequence[_Understood], finished: Sequence[Finished]) -> None:
        now = self._clock()
        attempts = {entry.attempt.event_id: entry.attempt for entry in understood}
        ends = Counter((attempts[end.event_id].vendor, end.outcome) for end in finished)
        for (vendor, outcome), count in ends.items():
            self._metrics.finished.labels(vendor=vendor, outcome=outcome.value).inc(count)
        for end in finished:
            attempt = attempts[end.event_id]
            latency_s = (now - attempt.received_at).total_seconds()
            self._metrics.latency_seconds.labels(vendor=attempt.vendor).observe(latency_s)

    async def _park(self, parked: Sequence[Parked]) -> None:
        if not parked:
            return
        async with self._queue.database.transaction() as session:
            await park(session, parked)
        for entry in parked:
            self._metrics.parked.labels(reason=entry.reason).inc()
            _log.warning("event_parked", event_id=str(entry.event_id), reason=entry.reason)


class Consumer:
    """Feeds an Applier from one of the bus's queues, and acknowledges what has been committed.

    `prefetch` counts messages, `batch_events` the events of one transaction.
    """

    def __init__(
        self, applier: Applier, link: BusLink, queue_name: QueueName, *, prefetch: int = 60, batch_events: int = 200
    ) -> None:
        self.name = f"consumer:{queue_name.value}"
        self._applier = applier
        self._link = link
        self._queue_name = queue_name
        self._prefetch = prefetch
        self._batch_events = batch_events

    async def run(self) -> None:
        """Consume for ever. Raises Transient when the bus goes away: run it again."""
        await self._link.restore()
        subscription = await self._link.bus.subscribe(self._queue_name, self._prefetch)
        try:
            while True:
                arrived = await subscription.next_batch(self._prefetch)
                for deliveries, event_ids in in_batches(arrived, self._batch_events):
                    await hold_while_away(partial(self._apply, event_ids))
                    await subscription.acknowledge(deliveries)
        finally:
            await asyncio.shield(subscription.close())

    async def _apply(self, event_ids: Sequence[EventId]) -> None:
        await finish_before_cancel(self._applier.apply(event_ids))


def in_batches(
    deliveries: Sequence[Delivery], batch_events: int
) -> Iterator[tuple[Sequence[Delivery], Sequence[EventId]]]:
    """Cut deliveries into runs of at most `batch_events` events (more where one message alone names more)."""
    run: list[Delivery] = []
    event_ids: dict[EventId, None] = {}
    for delivery in deliveries:
        more = event_ids_in([delivery])
        if run and len(event_ids) + len(more) > batch_events:
            yield run, list(event_ids)
            run, event_ids = [], {}
        run.append(delivery)
        event_ids |= dict.fromkeys(more)
    if run:
        yield run, list(event_ids)


def event_ids_in(deliveries: Sequence[Delivery]) -> list[EventId]:
    """Read the events' ids out of our own messages, once each; what is none of ours is left out and logged."""
    event_ids: dict[EventId, None] = {}
    for delivery in deliveries:
        try:
            event_ids |= dict.fromkeys(EventId(UUID(text)) for text in decode(delivery.body)["event_ids"])
        except (Rejected, KeyError, TypeError, AttributeError, ValueError):  # UUID raises each of the last three
            _log.error("message_is_not_ours", size_bytes=len(delivery.body))
    return list(event_ids)


def finished_by(event_id: EventId, reading: WebhookReading, results: Sequence[tuple[EventChange, Merged]]) -> Finished:
    """Tell an event's end from what its changes did: applied where any of them was, else as its subject's ended."""
    subject = reading.subject
    applied = any(merged.outcome is Outcome.APPLIED for _, merged in results)
    of_subject = (merged.outcome for change, merged in results if change.change.entity == subject)
    outcome = Outcome.APPLIED if applied else next(of_subject, Outcome.UNCHANGED)
    return Finished(
        event_id=event_id,
        outcome=outcome,
        event_type=reading.event_type,
        entity_kind=None if subject is None else subject.kind.value,
        entity_id=None if subject is None else subject.external_id,
        entity_version=_position(reading, results),
        reason=None if reading.changes else "unknown_event_type",
        changed_fields=tuple(_named(change, name) for change, merged in results for name in merged.changed_fields),
    )


def _named(change: EventChange, field: str) -> str:
    kind = change.change.entity.kind
    return f"patient.{field}" if kind is RecordKind.PATIENT else field


def _position(reading: WebhookReading, results: Sequence[tuple[EventChange, Merged]]) -> int | None:
    for change, _ in results:
        if change.change.entity == reading.subject and not isinstance(change.change, Absence):
            return change.change.version.position
    return None


def _refetch_work(entry: _Understood) -> RefetchWork | None:
    for change in entry.reading.changes:
        if isinstance(change, Refetch):
            return RefetchWork(
                event_id=entry.attempt.event_id,
                event_type=entry.reading.event_type,
                entity_kind=change.entity.kind.value,
                entity_id=change.entity.external_id,
            )
    return None


def _parked(attempt: Attempt, reason: str, error: str, reading: WebhookReading | None = None) -> Parked:
    """Set an event aside; where it was understood, under the name of its record, so that a person finds it there."""
    if reading is None or reading.subject is None:
        return Parked(event_id=attempt.event_id, reason=reason, error=error)
    subject = reading.subject
    return Parked(attempt.event_id, reason, error, reading.event_type, subject.kind.value, subject.external_id)
