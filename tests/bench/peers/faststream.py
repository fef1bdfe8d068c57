"""FastStream over RabbitMQ: one message a job, one handler call a message.

Settings: a durable quorum queue, persistent messages with publisher confirms, a hundred of them on their way at a
time; prefetch 100, which is also how many handlers run at once; acknowledged after the handler, rejected on an error.
Bodies travel as they are: a decoder that hands on the bytes, no dependency injection, no log line a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from faststream import AckPolicy  # type: ignore[import-not-found]  # in the peers' environment only
from faststream.rabbit import (  # type: ignore[import-not-found]  # in the peers' environment only
    Channel,
    QueueType,
    RabbitBroker,
    RabbitMessage,
    RabbitQueue,
)

from bench.peers.job import Apply
from bench.peers.peer import Peer, Publish, Servers, publish_in_windows

_PUBLISHES_AT_ONCE = 100
_PREFETCH = 100


@asynccontextmanager
async def publisher(servers: Servers) -> AsyncIterator[Publish]:
    """Publish with confirms."""
    async with RabbitBroker(servers.amqp_url, apply_types=False, logger=None) as broker:
        queue = await broker.declare_queue(_queue())

        async def publish_one(body: bytes) -> None:
            await broker.publish(body, queue.name, persist=True)

        async def publish(bodies: Sequence[bytes]) -> None:
            await publish_in_windows(bodies, publish_one, _PUBLISHES_AT_ONCE)

        yield publish


async def work(servers: Servers, apply: Apply) -> None:
    """Consume."""
    channel = Channel(prefetch_count=_PREFETCH)
    broker = RabbitBroker(servers.amqp_url, default_channel=channel, apply_types=False, logger=None)
    subscriber = broker.subscriber(_queue(), decoder=_bytes_of, ack_policy=AckPolicy.REJECT_ON_ERROR, no_reply=True)
    subscriber(apply)
    async with broker:
        await broker.start()
        await asyncio.Event().wait()


async def _bytes_of(message: RabbitMessage) -> Any:
    return message.body


def _queue() -> RabbitQueue:
    return RabbitQueue("apply", queue_type=QueueType.QUORUM, durable=True)


PEER = Peer(publisher=publisher, work=work)
