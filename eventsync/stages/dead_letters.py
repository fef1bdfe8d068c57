"""Takes care of what the broker gave up on: messages whose consumers died too often without a word."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from eventsync.bus.wire import QueueName
from eventsync.domain.clock import Clock
from eventsync.domain.events import EventId
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.queue_values import Parked
from eventsync.stages.apply import MAX_ATTEMPTS, event_ids_in
from eventsync.stages.bus_link import BusLink
from eventsync.stages.holding import hold_while_away
from eventsync.telemetry import Metrics

_log = structlog.get_logger(__name__)
_PREFETCH = 50


class DeadLetterConsumer:
    """Parks the rows of dead letters; one that only shared its consumer's fate gets a few more chances, alone."""

    name = "consumer:dead-letters"

    def __init__(self, queue: EventQueue, link: BusLink, metrics: Metrics, clock: Clock) -> None:
        self._queue = queue
        self._link = link
        self._metrics = metrics
        self._clock = clock

    async def run(self) -> None:
        """Consume for ever. Raises Transient when PostgreSQL or the bus goes away: run it again."""
        await self._link.restore()
        subscription = await self._link.bus.subscribe(QueueName.DEAD_LETTERS, _PREFETCH)
        try:
            while True:
                deliveries = await subscription.next_batch(_PREFETCH)
                for event_id in event_ids_in(deliveries):
                    await hold_while_away(partial(self._bury, event_id))
                await subscription.acknowledge(deliveries)
        finally:
            await asyncio.shield(subscription.close())

    async def _bury(self, event_id: EventId) -> None:
        attempts = await self._queue.count_dead_letter(event_id, self._clock())
        _log.warning("dead_letter", event_id=str(event_id), attempts=attempts)
        if attempts is not None and attempts > MAX_ATTEMPTS:
            await self._queue.park(
                [Parked(event_id, "dead_letter", "the broker delivered it too often without an end")]
            )
            self._metrics.parked.labels(reason="dead_letter").inc()
