"""The in-process bus: what one machine uses instead of RabbitMQ, between the relay and the consumers of one process.

It behaves as RabbitMQ does (one contract suite runs over both) but keeps nothing: Postgres knows what was
published and not finished, and `start` answers True so that it is published again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import count

from eventsync.bus.topology import QUEUE_BY_ROUTING_KEY, QUEUES
from eventsync.bus.wire import Delivery, Message, QueueName
from eventsync.domain.errors import Transient


@dataclass(slots=True)
class _Waiting:
    """A message in a queue: `place` keeps the order of publishing, `returns` counts how often it came back."""

    place: int
    body: bytes
    returns: int = 0


class _Queue:
    """A queue's ready messages, and the bell that rings when any come or a consumer has room again."""

    def __init__(self, delivery_limit: int) -> None:
        self.ready: deque[_Waiting] = deque()
        self.bell = asyncio.Condition()
        self._delivery_limit = delivery_limit

    async def put(self, arrivals: Sequence[_Waiting]) -> None:
        self.ready.extend(arrivals)
        await self.ring()

    async def take_back(self, returned: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """Put each back into its place; answer those that came back too often, and are now dead."""
        for waiting in returned:
            waiting.returns += 1
        alive = [waiting for waiting in returned if waiting.returns <= self._delivery_limit]
        self.ready = deque(merge(alive, self.ready, key=lambda waiting: waiting.place))
        await self.ring()
        return [waiting for waiting in returned if waiting.returns > self._delivery_limit]

    async def ring(self) -> None:
        async with self.bell:
            self.bell.notify_all()


class MemoryBus:
    """A bus within one process; other processes see nothing of it."""

    def __init__(self) -> None:
        self._queues: dict[QueueName, _Queue] = {}
        self._places = count()
        self._subscriptions: set[MemorySubscription] = set()

    async def start(self) -> bool:
        """Make the queues; True when there were none, as what an earlier process published is gone."""
        if self._queues:
            return False
        self._queues = {shape.name: _Queue(int(shape.arguments["x-delivery-limit"])) for shape in QUEUES}
        return True

    async def publish(self, messages: Sequence[Message]) -> None:
        """Put all into their queues; news is dropped, as by an exchange to which nobody has bound a queue."""
        arrivals: dict[QueueName, list[_Waiting]] = {}
        for message in messages:
            name = QUEUE_BY_ROUTING_KEY.get(message.routing_key)
            if name is not None:
                arrivals.setdefault(name, []).append(_Waiting(next(self._places), message.body))
            elif message.must_route:
                raise Transient(f"no queue is bound for the routing key {message.routing_key}")
        for name, waiting in arrivals.items():
            await self._queue(name).put(waiting)

    async def subscribe(self, queue: QueueName, prefetch: int) -> MemorySubscription:
        """Open a stream of `queue`; several share its messages."""
        subscription = MemorySubscription(self._queue(queue), prefetch, self._forget)
        self._subscriptions.add(subscription)
        return subscription

    async def depth(self, queue: QueueName) -> int:
        """Count the messages that no consumer has taken."""
        return len(self._queue(queue).ready)

    async def stop(self) -> None:
        """Close every subscription and forget everything."""
        for subscription in tuple(self._subscriptions):
            await subscription.close()
        self._queues = {}

    @property
    def connected(self) -> bool:
        """Whether `start` was called and `stop` was not."""
        return bool(self._queues)

    def _queue(self, name: QueueName) -> _Queue:
        try:
            return self._queues[name]
        except KeyError:
            raise Transient("the in-process bus is not started: call start() first") from None

    async def _forget(self, subscription: MemorySubscription, dead: Sequence[_Waiting]) -> None:
        self._subscriptions.discard(subscription)
        await self._queue(QueueName.DEAD_LETTERS).put([_Waiting(next(self._places), waiting.body) for waiting in dead])


class MemorySubscription:
    """One consumer's stream of a queue of the in-process bus."""

    def __init__(
        self,
        queue: _Queue,
        prefetch: int,
        on_closed: Callable[[MemorySubscription, Sequence[_Waiting]], Awaitable[None]],
    ) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._on_closed = on_closed
        self._tags = count(1)
        self._unacknowledged: dict[int, _Waiting] = {}
        self._closed = False

    async def next_batch(self, at_most: int) -> Sequence[Delivery]:
        """Wait until there is a message and room for it, then take what is there, `at_most` of them."""
        async with self._queue.bell:
            await self._queue.bell.wait_for(self._may_take)
            self._fail_when_closed()
            size = min(at_most, self._prefetch - len(self._unacknowledged), len(self._queue.ready))
            return [self._deliver(self._queue.ready.popleft()) for _ in range(size)]

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Forget these, which makes room for as many new ones."""
        if self._closed:
            await asyncio.sleep(0)  # the turn that `Subscription` promises
        self._fail_when_closed()
        for delivery in deliveries:
            self._unacknowledged.pop(delivery.tag, None)
        await self._queue.ring()

    async def close(self) -> None:
        """Stop receiving; what was not acknowledged goes back to its place in the queue."""
        if self._closed:
            return
        self._closed = True
        returned, self._unacknowledged = list(self._unacknowledged.values()), {}
        await self._on_closed(self, await self._queue.take_back(returned))

    def _may_take(self) -> bool:
        return self._closed or (bool(self._queue.ready) and len(self._unacknowledged) < self._prefetch)

    def _fail_when_closed(self) -> None:
        if self._closed:
            raise Transient("the subscription is closed: subscribe again; what was not acknowledged comes again")

    def _deliver(self, waiting: _Waiting) -> Delivery:
        tag = next(self._tags)
        self._unacknowledged[tag] = waiting
        return Delivery(tag, waiting.body, redelivered=waiting.returns > 0)
