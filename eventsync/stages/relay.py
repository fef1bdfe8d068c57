"""Carries due events from PostgreSQL to the bus: woken by NOTIFY, guaranteed by polling, any number side by side."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import structlog

from eventsync.bus.topology import RoutingKey, changed
from eventsync.bus.wire import Message, encode
from eventsync.domain.clock import Clock
from eventsync.domain.errors import Transient
from eventsync.domain.events import Lane, WorkClass
from eventsync.postgres.listener import Channel, Listener
from eventsync.postgres.queue import EventQueue, claim_due, mark_published
from eventsync.postgres.queue_values import Claimed, FlightWindow
from eventsync.postgres.records import News, take_news
from eventsync.stages.bus_link import BusLink
from eventsync.telemetry import Metrics

_log = structlog.get_logger(__name__)

WINDOWS = (
    FlightWindow(WorkClass.APPLY, Lane.FRESH, 6000),
    FlightWindow(WorkClass.APPLY, Lane.BULK, 10),  # of a replay, fresh events wait for no more than these
    FlightWindow(WorkClass.REFETCH, Lane.FRESH, 50),
    FlightWindow(WorkClass.REFETCH, Lane.BULK, 10),
)
_RESCUE_INTERVAL = timedelta(seconds=10)
_LOOK_AGAIN_AFTER = timedelta(seconds=1)
_BUSY_PAUSE_S = 0.05
_EVENTS_A_MESSAGE = 25  # a consumer's batch is some of them, so that consumers side by side share a burst


class Relay:
    """Publishes what is due, in batches that are claimed, confirmed and marked in one short transaction."""

    name = "relay"

    def __init__(
        self,
        queue: EventQueue,
        link: BusLink,
        listener: Listener,
        metrics: Metrics,
        clock: Clock,
        *,
        windows: Sequence[FlightWindow] = WINDOWS,
        batch_events: int = 500,
        lost_after_s: float = 60.0,
        publish_timeout_s: float = 10.0,
    ) -> None:
        self._queue = queue
        self._link = link
        self._listener = listener
        self._signal = listener.signal(Channel.QUEUE)
        self._metrics = metrics
        self._clock = clock
        self._windows = tuple(windows)
        self._batch_events = batch_events
        self._lost_after_s = lost_after_s
        self._publish_timeout_s = publish_timeout_s
        self._rescued_at = clock()

    async def run(self) -> None:
        """Relay for ever. Raises Transient when PostgreSQL or the bus goes away: run it again."""
        await self._link.restore()
        woken_by = "start"
        while True:
            rescued = await self._rescue()
            moved = await self._relay()
            if moved:
                self._metrics.wakeups.labels(by="rescue" if rescued else woken_by).inc()
            # What came since has rung the bell; only a full batch says by itself that there is more.
            woken_by = "more" if moved >= self._batch_events else await self._wait()

    async def run_once(self) -> int:
        """Publish one batch of events and of news, and rescue what seems lost; tell how many went out."""
        await self._rescue()
        return await self._relay()

    async def _relay(self) -> int:
        """Publish events and news together: they share one transaction and one wait for the bus's confirms."""
        async with self._queue.database.transaction() as session:
            claimed = await claim_due(session, self._windows, self._clock(), at_most=self._batch_events)
            news = await take_news(session, self._batch_events)
            if claimed or news:
                await self._publish([*_work_messages(claimed), *map(_news_message, news)])
            if claimed:
                await mark_published(session, [entry.event_id for entry in claimed], self._clock())
        for (work, lane), count in Counter((entry.work, entry.lane) for entry in claimed).items():
            self._metrics.published.labels(work=work.value, lane=lane.name.lower()).inc(count)
        return len(claimed) + len(news)

    async def _publish(self, messages: Sequence[Message]) -> None:
        try:
            async with asyncio.timeout(self._publish_timeout_s):
                await self._link.bus.publish(messages)
        except TimeoutError as error:
            raise Transient(f"the bus did not confirm within {self._publish_timeout_s:g} s") from error

    async def _rescue(self) -> int:
        now = self._clock()
        if timedelta(0) <= now - self._rescued_at < _RESCUE_INTERVAL:  # at once where the clock has been set back
            return 0
        self._rescued_at = now
        moved = await self._queue.follow_clock_set_back(self._windows, now)
        if moved:
            _log.warning("events_from_the_future", count=moved)
            self._rescued_at = now - _RESCUE_INTERVAL + _LOOK_AGAIN_AFTER  # more of them may be on their way to commit
        lost = await self._queue.republish_lost(now, after_s=self._lost_after_s)
        if lost:
            self._metrics.republished.inc(lost)
            _log.warning("published_events_seemed_lost", count=lost)
        expired = await self._queue.return_expired_leases(now)
        if expired:
            _log.warning("leases_expired", count=expired)
        return lost + expired

    async def _wait(self) -> str:
        pause_s, reason = self._pause(await self._queue.next_due(self._windows))
        return "notify" if await self._signal.wait(pause_s) else reason

    def _pause(self, due: Sequence[tuple[datetime, bool]]) -> tuple[float, str]:
        poll_s = min(self._listener.poll_interval_s, _RESCUE_INTERVAL.total_seconds())
        now = self._clock()
        pauses = [(poll_s, "poll")]
        for due_at, has_room in due:
            due_in_s = (due_at - now).total_seconds()
            if due_in_s > 0:
                pauses.append((due_in_s, "due"))
            else:  # the window is full, or another relay is just publishing it
                pauses.append((_BUSY_PAUSE_S, "due" if has_room else "room"))
        return min(pauses)


_ROUTING_KEYS = {
    (WorkClass.APPLY, Lane.FRESH): RoutingKey.APPLY_FRESH,
    (WorkClass.APPLY, Lane.BULK): RoutingKey.APPLY_BULK,
    (WorkClass.REFETCH, Lane.FRESH): RoutingKey.REFETCH,
    (WorkClass.REFETCH, Lane.BULK): RoutingKey.REFETCH,
}


def _work_messages(claimed: Sequence[Claimed]) -> Iterator[Message]:
    """Write what consumers are to do, some events a message, since a bus costs by the message; slow work alone."""
    by_class: dict[tuple[WorkClass, Lane], list[str]] = {}
    for entry in claimed:
        by_class.setdefault((entry.work, entry.lane), []).append(str(entry.event_id))
    for (work, lane), event_ids in by_class.items():
        size = _EVENTS_A_MESSAGE if work is WorkClass.APPLY else 1
        for first in range(0, len(event_ids), size):
            envelope = {"type": f"event.{work.value}", "event_ids": event_ids[first : first + size]}
            yield Message(_ROUTING_KEYS[work, lane], encode(envelope))


def _news_message(news: News) -> Message:
    envelope: dict[str, str | int | bool] = {
        "type": changed(news.kind.value),
        "connection_id": str(news.connection_id),
        "record_id": str(news.record_id),
        "external_id": news.external_id,
        "version": news.position,
        "deleted": news.deleted,
    }
    if news.event_id is not None:
        envelope["event_id"] = str(news.event_id)
    return Message(changed(news.kind.value), encode(envelope), must_route=False)
