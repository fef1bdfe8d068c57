"""News for other teams: ids only, soon, and never lost between the commit and the confirm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import aio_pika
import asyncpg
import orjson
import pytest
from aio_pika.abc import AbstractQueue

from eventsync.bus.memory import MemoryBus
from eventsync.bus.topology import EVENTS_EXCHANGE
from eventsync.bus.wire import Message
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Transient
from eventsync.domain.records import RecordKind, record_id_of
from eventsync.postgres.database import Database
from servers.eventually import eventually
from stages.spine import Spine, an_appointment

KEYS = {"v", "type", "connection_id", "record_id", "external_id", "version", "deleted", "event_id"}


@pytest.fixture
async def foreign_queue(rabbit_spine: Spine, amqp_url: str) -> AsyncIterator[AbstractQueue]:
    """A queue that another team has bound for all news."""
    await rabbit_spine.link.restore()
    connection = await aio_pika.connect(amqp_url, timeout=10)
    channel = await connection.channel()
    queue = await channel.declare_queue("another.team", durable=True)
    await queue.bind(EVENTS_EXCHANGE, "*.changed")
    yield queue
    await connection.close()


async def receive(queue: AbstractQueue, count: int) -> list[bytes]:
    async def one() -> bytes:
        message = await queue.get(fail=False, timeout=5)
        if message is None:
            return b""
        await message.ack()
        return message.body

    return [await eventually(one) for _ in range(count)]


async def test_news_of_changed_records_reach_another_teams_queue_as_ids_only(
    rabbit_spine: Spine, foreign_queue: AbstractQueue
) -> None:
    webhook = an_appointment(12)
    (event_id,) = await rabbit_spine.apply(webhook)
    await rabbit_spine.publish_all()
    bodies = await receive(foreign_queue, 2)
    news = {envelope["type"]: envelope for envelope in map(orjson.loads, bodies)}
    assert news.keys() == {"patient.changed", "appointment.changed"}
    assert all(envelope.keys() == KEYS for envelope in news.values())
    connection_id, external_id = rabbit_spine.connection_id, webhook["Appointment"]["Id"]
    assert news["appointment.changed"] == {
        "v": 1,
        "type": "appointment.changed",
        "connection_id": str(connection_id),
        "record_id": str(record_id_of(connection_id, RecordKind.APPOINTMENT, external_id)),
        "external_id": external_id,
        "version": webhook["Appointment"]["LastModified"],
        "deleted": False,
        "event_id": str(event_id),
    }
    for personal in ("Test Client", "example.test", "2025550112", "1990-01-12", "Pat Doe", "Therapy"):
        assert personal.encode() not in b"".join(bodies)


async def test_a_delete_is_news_and_an_unchanged_duplicate_is_none(
    rabbit_spine: Spine, foreign_queue: AbstractQueue
) -> None:
    await rabbit_spine.apply(an_appointment(1))
    await rabbit_spine.apply(an_appointment(1))
    await rabbit_spine.apply(an_appointment(1, event="AppointmentDeleted"))
    await rabbit_spine.publish_all()
    news = [orjson.loads(body) for body in await receive(foreign_queue, 3)]
    assert [(entry["type"], entry["deleted"]) for entry in news] == [
        ("patient.changed", False),
        ("appointment.changed", False),
        ("appointment.changed", True),
    ]
    assert await foreign_queue.get(fail=False) is None


async def test_news_survive_a_crash_before_the_confirm(
    pool: Database, keyring: Keyring, connection_ids: list[ConnectionId], database: asyncpg.Connection
) -> None:
    class RefusingBus(MemoryBus):
        refuses = True

        async def publish(self, messages: Sequence[Message]) -> None:
            if self.refuses:
                raise Transient("not confirmed")
            await super().publish(messages)

    bus = RefusingBus()
    spine = Spine(pool, keyring, bus, connection_ids)
    await spine.apply(an_appointment())
    with pytest.raises(Transient):
        await spine.relay().run_once()
    assert await database.fetchval("SELECT count(*) FROM change_outbox") == 2
    bus.refuses = False
    assert await spine.relay().run_once() == 2
    assert await database.fetchval("SELECT count(*) FROM change_outbox") == 0


async def test_news_wake_the_relay_themselves(rabbit_spine: Spine, foreign_queue: AbstractQueue) -> None:
    (event_id,) = await rabbit_spine.receive(an_appointment())
    async with rabbit_spine.running(rabbit_spine.relay(), rabbit_spine.listener):
        await eventually(lambda: rabbit_spine.listener.is_proven)
        async with asyncio.timeout(rabbit_spine.listener.poll_interval_s / 5):
            await rabbit_spine.applier().apply([event_id])
            await receive(foreign_queue, 2)
    assert rabbit_spine.count("eventsync_relay_wakeups_total", by="poll") == 0
