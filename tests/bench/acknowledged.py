"""Counts the events that a consumer has acknowledged, from outside: the stage under the clock knows nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from eventsync.bus.wire import Bus, Delivery, Message, QueueName, Subscription
from eventsync.stages.apply import event_ids_in


class Tally:
    """A count that can be waited for."""

    def __init__(self) -> None:
        self.count = 0
        self._moved = asyncio.Event()

    def add(self, count: int) -> None:
        """Count further ones."""
        self.count += count
        self._moved.set()

    async def reach(self, count: int, *, stalled_after_s: float = 20.0) -> None:
        """Wait until there are `count`. Raises RuntimeError where none came for `stalled_after_s` seconds."""
        while self.count < count:
            self._moved.clear()
            try:
                async with asyncio.timeout(stalled_after_s):
                    await self._moved.wait()
            except TimeoutError:
                raise RuntimeError(f"stalled at {self.count} of {count}") from None


class TalliedBus:
    """A bus as it is, but that each acknowledgement is counted."""

    def __init__(self, bus: Bus, tally: Tally) -> None:
        self._bus = bus
        self._tally = tally

    async def start(self) -> bool:
        """Pass on."""
        return await self._bus.start()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Pass on."""
        await self._bus.publish(messages)

    async def subscribe(self, queue: QueueName, prefetch: int) -> Subscription:
        """Subscribe, and count what is acknowledged there."""
        return _TalliedSubscription(await self._bus.subscribe(queue, prefetch), self._tally)

    async def depth(self, queue: QueueName) -> int:
        """Pass on."""
        return await self._bus.depth(queue)

    async def stop(self) -> None:
        """Pass on."""
        await self._bus.stop()

    @property
    def connected(self) -> bool:
        """Pass on."""
        return self._bus.connected


class _TalliedSubscription:
    def __init__(self, subscription: Subscription, tally: Tally) -> None:
        self._subscription = subscription
        self._tally = tally

    async def next_batch(self, at_most: int) -> Sequence[Delivery]:
        return await self._subscription.next_batch(at_most)

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        await self._subscription.acknowledge(deliveries)
        self._tally.add(len(event_ids_in(deliveries)))

    async def close(self) -> None:
        await self._subscription.close()
