"""Brings the bus back for whoever needs it, and publishes again what it lost; all workers of a process share one."""

from __future__ import annotations

import asyncio

import structlog

from eventsync.bus.wire import Bus
from eventsync.domain.errors import Transient
from eventsync.postgres.queue import EventQueue, wait_for_bus_turn

_log = structlog.get_logger(__name__)


class BusLink:
    """The bus, with the promise that what its queues lost is made due again in PostgreSQL."""

    def __init__(self, bus: Bus, queue: EventQueue) -> None:
        self.bus = bus
        self._queue = queue
        self._lock = asyncio.Lock()
        self._attempts = 0  # that ended, well or not
        self._failure: Transient | None = None  # of the last one
        self._owes_republish = False

    async def restore(self) -> None:
        """Connect where needed. Raises Transient or Misconfigured as `Bus.start` does, and while PostgreSQL is away.

        Whoever took messages now could only let them fall, and the broker counts each fall: after an outage of some
        minutes all of them would be dead letters.
        A queue that had to be created held nothing, so everything in flight becomes due again; that debt is
        remembered until PostgreSQL has taken it.
        One process at a time: RabbitMQ may leave a consumer deaf, without a word, on a queue that a second process
        deletes and declares once more.
        Whoever waits while another worker of this process tries shares what comes of it. A broker that does not answer
        costs seconds a try, which would add up: as many tries as there are workers.
        """
        attempts_before = self._attempts
        async with self._lock:
            if self._attempts == attempts_before or not self._shared():
                await self._attempt()

    def _shared(self) -> bool:
        """Tell whether the last attempt restored all for us as well. Raises its failure as our own."""
        if self._failure is not None:
            raise Transient(str(self._failure)) from self._failure
        return self.bus.connected and not self._owes_republish

    async def _attempt(self) -> None:
        try:
            await self._repair()
        except Transient as error:
            self._failure = error
            self._attempts += 1
            raise
        self._failure = None
        self._attempts += 1

    async def _repair(self) -> None:
        async with self._queue.database.transaction() as session:
            await wait_for_bus_turn(session)
            if await self.bus.start():
                self._owes_republish = True
        if self._owes_republish:
            count = await self._queue.republish_all()
            self._owes_republish = False
            _log.info("in_flight_events_due_again", count=count)
