"""A stream of deliveries from one RabbitMQ queue, taken in batches and acknowledged in as few frames as possible."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Any

import aiormq
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from eventsync.bus.rabbit_link import broker_call, describe
from eventsync.bus.wire import Delivery, QueueName
from eventsync.domain.errors import Transient


class RabbitSubscription:
    """One consumer on a channel of its own."""

    def __init__(self, channel: aiormq.Channel, queue: QueueName, *, timeout_s: float) -> None:
        self._channel = channel
        self._queue = queue
        self._timeout_s = timeout_s
        self._arrived: deque[Delivery] = deque()
        self._unacknowledged: dict[int, None] = {}  # tags in the order of arrival; a dict, for its order
        self._bell = asyncio.Event()  # rings for arrivals and for the end
        self._ended: str | None = None

    async def consume(self, prefetch: int) -> None:
        """Begin to receive. Raises Transient."""
        self._channel.closing.add_done_callback(self._on_closing)
        self._channel.on_consumer_cancel_callbacks.add(self._on_cancelled_by_broker)
        async with broker_call(f"subscribing to the queue {self._queue}", self._timeout_s, self._channel.connection):
            await self._channel.basic_qos(prefetch_count=prefetch)
            await self._channel.basic_consume(self._queue, self._on_delivery)

    async def next_batch(self, at_most: int) -> Sequence[Delivery]:
        """Wait for a delivery, then take what has arrived. Raises Transient once the stream has ended."""
        while self._ended is None and not self._arrived:
            self._bell.clear()
            await self._bell.wait()
        self._fail_when_ended()
        return [self._arrived.popleft() for _ in range(min(at_most, len(self._arrived)))]

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge in one frame whatever is the oldest unbroken run, the rest one by one."""
        try:
            await self._acknowledge(deliveries)
        except Transient:
            await asyncio.sleep(0)  # the turn that `Subscription` promises
            raise

    async def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self._fail_when_ended()
        tags = sorted(delivery.tag for delivery in deliveries if delivery.tag in self._unacknowledged)
        oldest = islice(self._unacknowledged, len(tags))
        run = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tags, oldest, strict=True)))
        async with broker_call("acknowledging", self._timeout_s, self._channel.connection):
            if run:
                await self._channel.basic_ack(tags[run - 1], multiple=True, wait=False)
            for tag in tags[run:]:
                await self._channel.basic_ack(tag, wait=False)
        for tag in tags:
            self._unacknowledged.pop(tag, None)

    async def close(self) -> None:
        """Close the channel, upon which RabbitMQ puts back what was not acknowledged; never raises."""
        already_gone = self._ended is not None
        self.end("it was closed")
        if already_gone:
            return
        try:
            async with broker_call("closing a subscription", self._timeout_s, self._channel.connection):
                await self._channel.close()
        except Transient:
            return  # the link is gone, and RabbitMQ puts them back by itself

    def end(self, reason: str) -> None:
        """End the stream: whoever waits for a batch gets Transient at once."""
        if self._ended is None:
            self._ended = reason
        self._arrived.clear()
        self._bell.set()

    @property
    def ended(self) -> bool:
        """Whether nothing will come any more."""
        return self._ended is not None

    def _fail_when_ended(self) -> None:
        if self._ended is not None:
            raise Transient(
                f"the subscription to {self._queue} has ended ({self._ended}): subscribe again; "
                "what was not acknowledged comes again"
            )

    async def _on_delivery(self, message: DeliveredMessage) -> None:
        tag = message.delivery_tag
        if tag is None or self._ended is not None:
            return
        self._unacknowledged[tag] = None
        self._arrived.append(Delivery(tag, message.body, redelivered=bool(message.redelivered)))
        self._bell.set()

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        self.end("the link was lost" if closing.cancelled() else describe(closing.exception()))

    def _on_cancelled_by_broker(self, _: Basic.Cancel) -> None:
        self.end("RabbitMQ cancelled it: the queue was deleted or lost its leader; call start()")
