"""A process that relays and applies until nothing waits any more; one event's reading kills it on the spot.

Arguments: the database's URL, the connection's id, and RabbitMQ's URL or nothing for the in-process bus.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from uuid import UUID

from eventsync.bus.memory import MemoryBus
from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.wire import QueueName
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.webhooks import WebhookReading
from eventsync.postgres.database import Database
from eventsync.stages.apply import Consumer
from servers.eventually import eventually
from stages.spine import Spine, VendorDouble, is_about

KILLER = 50


def read(reading: WebhookReading) -> WebhookReading:
    """Die over the marked event, as by a fault in native code or the kernel's memory guard."""
    if is_about(reading, KILLER):
        os.kill(os.getpid(), signal.SIGKILL)
    return reading


async def main(database_url: str, connection_id: str, amqp_url: str) -> None:
    """Go on until every event has ended or is parked."""
    pool = Database(database_url)
    await pool.open()
    bus = RabbitBus(amqp_url) if amqp_url else MemoryBus()
    spine = Spine(pool, Keyring([bytes(range(32))]), bus, [ConnectionId(UUID(connection_id))])
    consumer = Consumer(spine.applier({"intakeq": VendorDouble(read)}), spine.link, QueueName.APPLY_FRESH)

    async def nothing_waits() -> bool:
        return all(measure.status == "parked" for measure in await spine.queue.measure())

    async with spine.running(spine.relay(clock=lambda: datetime.now(UTC)), consumer):
        await eventually(nothing_waits, deadline_s=30)
    await bus.stop()
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
