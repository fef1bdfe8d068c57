"""Keeps the outbound queue worked off: woken over the bus, guaranteed by looking again, resting where it must.

Stands between the wake-ups that stages/wake publishes and the Deliverer. A wake-up carries nothing and is acknowledged
at once: what is to be done stands in the queue's rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from eventsync.bus.wire import QueueName
from eventsync.domain.clock import Clock
from eventsync.domain.errors import Misconfigured, Transient
from eventsync.postgres.listener import Channel, Listener
from eventsync.postgres.outbound import OutboundQueue
from eventsync.stages.bus_link import BusLink
from eventsync.stages.deliver import Deliverer

_POLL_S = 5.0
_DEAF_POLL_S = 1.0  # while no wake-up can come
_RETURN_EVERY_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0  # after a failure
_WAKE_UPS_AT_ONCE = 10
_log = structlog.get_logger(__name__)


class DeliveryWorker:
    """Lets a Deliverer make attempts, one after the other, as long as something may be sent."""

    name = "worker:deliver"

    def __init__(
        self,
        deliverer: Deliverer,
        queue: OutboundQueue,
        link: BusLink,
        listener: Listener,
        clock: Clock,
        *,
        poll_s: float = _POLL_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deliverer = deliverer
        self._queue = queue
        self._link = link
        self._clock = clock
        self._poll_s = poll_s
        self._monotonic = monotonic
        # A changed connection is tried at once, and is all that a rest may be broken off for.
        self._bell = listener.signal(Channel.CONFIGURATION)
        self._change_bell = listener.signal(Channel.CONFIGURATION)
        self._is_deaf = True
        self._bus_trouble = ""
        self._returned_at_s = float("-inf")
        self.trouble = ""

    async def run(self) -> None:
        """Work for ever, whatever PostgreSQL and the bus do; `trouble` says why nothing can be sent, if so."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear_for_ever())
                tasks.create_task(self._deliver_for_ever())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group  # the supervisor needs its kind

    async def run_once(self) -> float:
        """Deliver what is due, and take back what died; tell for how many seconds nothing more is foreseen.

        Raises Transient, Misconfigured as `Deliverer.deliver_next` does.
        """
        looked_at = self._clock()
        while await self._deliverer.deliver_next() is not None:
            await self._return_stuck()
            looked_at = self._clock()
        if await self._return_stuck():
            return 0.0
        if self._deliverer.resting_s > 0.0:
            return min(self._deliverer.resting_s, self._poll_s)
        poll_s = min(_DEAF_POLL_S, self._poll_s) if self._is_deaf else self._poll_s
        due_at = await self._queue.next_due(looked_at)
        if due_at is None or due_at <= looked_at:  # what was due then is blocked, paused, or another's
            return poll_s
        return min(max((due_at - self._clock()).total_seconds(), 0.0), poll_s)

    async def _deliver_for_ever(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                quiet_s = await self.run_once()
            except (Transient, Misconfigured) as error:
                self._tell(str(error), isinstance(error, Misconfigured))
                await self._change_bell.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            self.trouble = ""
            bell = self._change_bell if self._deliverer.resting_s > 0.0 else self._bell
            await bell.wait(quiet_s)

    async def _return_stuck(self) -> bool:
        """Take back what deliverers that died have left, now and then; tells whether there is more to do."""
        now_s = self._monotonic()
        if now_s - self._returned_at_s < _RETURN_EVERY_S:
            return False
        self._returned_at_s = now_s
        return any(not stuck.is_given_up for stuck in await self._deliverer.return_stuck())

    def _tell(self, trouble: str, needs_person: bool) -> None:
        if trouble != self.trouble:  # once, and not at each try of an outage
            (_log.error if needs_person else _log.warning)("outbound_waits", error=trouble)
        self.trouble = trouble

    async def _hear_for_ever(self) -> None:
        """Ring at each wake-up. While the bus is away, looking again more often stands in for it."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._hear()
            except (Transient, Misconfigured) as error:
                if str(error) != self._bus_trouble:
                    _log.warning("outbound_wake_ups_lost", error=str(error))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if self._bus_trouble else _FIRST_PAUSE_S
                self._bus_trouble = str(error)
            await asyncio.sleep(pause_s)

    async def _hear(self) -> None:
        await self._link.restore()
        subscription = await self._link.bus.subscribe(QueueName.DELIVER, _WAKE_UPS_AT_ONCE)
        self._is_deaf, self._bus_trouble = False, ""
        try:
            self._bell.ring()  # for what came while nobody heard
            while True:
                deliveries = await subscription.next_batch(_WAKE_UPS_AT_ONCE)
                self._bell.ring()
                await subscription.acknowledge(deliveries)
        finally:
            self._is_deaf = True
            self._bell.ring()  # the wait that is under way counts on wake-ups
            await asyncio.shield(subscription.close())
