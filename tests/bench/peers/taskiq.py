"""taskiq with taskiq-aio-pika: one message a task.

Settings: its own default of a durable quorum queue with a dead-letter queue; publisher confirms, a hundred tasks on
their way at a time; `qos` 100 and a hundred tasks at once, as its worker command has by default; acknowledged after
the task ran; orjson as serializer; no result backend, no validation of parameters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from taskiq.acks import AcknowledgeType  # type: ignore[import-not-found]  # in the peers' environment only
from taskiq.api import run_receiver_task  # type: ignore[import-not-found]  # in the peers' environment only
from taskiq.serializers import ORJSONSerializer  # type: ignore[import-not-found]  # in the peers' environment only
from taskiq_aio_pika import AioPikaBroker  # type: ignore[import-not-found]  # in the peers' environment only

from bench.peers.job import Apply
from bench.peers.peer import Peer, Publish, Servers, publish_in_windows

_TASKS_AT_ONCE = 100


@asynccontextmanager
async def publisher(servers: Servers) -> AsyncIterator[Publish]:
    """Send tasks with confirms."""

    async def unused(_: str) -> None:
        """Stand for the worker's function of the same name."""

    broker, task = _broker(servers, unused)
    await broker.startup()

    async def publish_one(body: bytes) -> None:
        await task.kiq(body.decode())

    async def publish(bodies: Sequence[bytes]) -> None:
        await publish_in_windows(bodies, publish_one, _TASKS_AT_ONCE)

    try:
        yield publish
    finally:
        await broker.shutdown()


async def work(servers: Servers, apply: Apply) -> None:
    """Run its receiver."""

    async def run_task(body: str) -> None:
        await apply(body.encode())

    broker, _ = _broker(servers, run_task)
    await run_receiver_task(
        broker,
        max_async_tasks=_TASKS_AT_ONCE,
        validate_params=False,
        run_startup=True,
        ack_time=AcknowledgeType.WHEN_EXECUTED,
    )


def _broker(servers: Servers, function: Callable[[str], Awaitable[None]]) -> tuple[AioPikaBroker, Any]:
    broker = AioPikaBroker(servers.amqp_url, qos=_TASKS_AT_ONCE).with_serializer(ORJSONSerializer())
    return broker, broker.register_task(function, task_name="apply")


PEER = Peer(publisher=publisher, work=work)
