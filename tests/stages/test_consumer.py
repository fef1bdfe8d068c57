"""The consumer on both buses: duplicates, PostgreSQL going away, being stopped, and being killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.topology import RoutingKey
from eventsync.bus.wire import Bus, Delivery, Message, QueueName, encode
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import EventId, Lane
from eventsync.domain.merging import Merged
from eventsync.postgres.database import Database, Session
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.stages.apply import MAX_ATTEMPTS, Consumer, in_batches
from servers.eventually import eventually
from servers.proxy import TcpProxy
from stages.spine import Spine, an_appointment, outcomes, queued, take

KILLER_PROCESS = Path(__file__).with_name("killer_process.py")


class GuardedWriter(RecordWriter):
    """A writer that lets a test in before each write."""

    def __init__(self, keyring: Keyring, before: Callable[[], Awaitable[None]]) -> None:
        super().__init__(keyring)
        self._before = before

    async def write(
        self, session: Session, changes: Sequence[EventChange], now: datetime, *, reads_in_order: bool = False
    ) -> list[Merged]:
        await self._before()
        return await super().write(session, changes, now, reads_in_order=reads_in_order)


def consumer_of(spine: Spine, queue: QueueName = QueueName.APPLY_FRESH) -> Consumer:
    return Consumer(spine.applier(), spine.link, queue)


async def test_what_the_relay_publishes_is_applied_in_both_lanes(
    bus_spine: Spine, database: asyncpg.Connection
) -> None:
    await bus_spine.receive(*[an_appointment(number) for number in range(150)])
    await bus_spine.receive(*[an_appointment(number, LastModified=1) for number in range(20)], lane=Lane.BULK)
    bulk = consumer_of(bus_spine, QueueName.APPLY_BULK)
    async with bus_spine.running(bus_spine.relay(), consumer_of(bus_spine), bulk):
        await eventually(lambda: _all_ended(database, 170))
    assert await database.fetchval("SELECT count(*) FROM appointments") == 150
    assert await bus_spine.bus.depth(QueueName.APPLY_FRESH) == 0


def test_messages_are_cut_into_batches_by_the_events_that_they_name() -> None:
    named = [
        [EventId(UUID(int=100 * place + number)) for number in range(count)] for place, count in enumerate((2, 1, 3, 9))
    ]
    bodies = [encode({"type": "event.apply", "event_ids": [str(event_id) for event_id in ids]}) for ids in named]
    deliveries = [Delivery(tag, body) for tag, body in enumerate(bodies)]
    batches = list(in_batches(deliveries, 4))
    assert [[delivery.tag for delivery in run] for run, _ in batches] == [[0, 1], [2], [3]]
    assert [list(event_ids) for _, event_ids in batches] == [named[0] + named[1], named[2], named[3]]


async def test_two_consumers_with_the_same_messages_end_every_event_once(
    bus_spine: Spine, database: asyncpg.Connection
) -> None:
    event_ids = await bus_spine.receive(*[an_appointment(number % 40) for number in range(200)])
    await bus_spine.publish_all()
    bodies = [encode({"type": "event.apply", "event_ids": [str(event_id)]}) for event_id in reversed(event_ids)]
    await bus_spine.bus.publish([Message(RoutingKey.APPLY_FRESH, body) for body in bodies])
    async with bus_spine.running(consumer_of(bus_spine), consumer_of(bus_spine)):
        await eventually(lambda: _all_ended(database, 200))
        await eventually(lambda: _empty(bus_spine))
    assert await outcomes(database) == {"applied": 40, "unchanged": 160}


async def test_a_message_that_is_none_of_ours_is_set_aside(bus_spine: Spine, database: asyncpg.Connection) -> None:
    await bus_spine.link.restore()
    for body in (b"\xff", b'{"v":2}', b'{"v":1,"event_ids":7}', b'{"v":1,"event_ids":[7]}', b"[]", b"x" * 5000):
        await bus_spine.bus.publish([Message(RoutingKey.APPLY_FRESH, body)])
    await bus_spine.receive(an_appointment())
    async with bus_spine.running(bus_spine.relay(), consumer_of(bus_spine)):
        await eventually(lambda: _all_ended(database, 1))
        await eventually(lambda: _empty(bus_spine))


async def test_postgres_going_away_in_the_middle_loses_nothing_and_makes_nobody_suspect(
    tcp_proxy: Callable[[str], Awaitable[TcpProxy]],
    database_url: str,
    database: asyncpg.Connection,
    keyring: Keyring,
    bus: Bus,
    connection_ids: list[ConnectionId],
) -> None:
    proxy = await tcp_proxy(database_url)
    pool = Database(proxy.url)
    await pool.open()
    spine = Spine(pool, keyring, bus, connection_ids)
    was_away = False

    async def pull_the_plug() -> None:
        nonlocal was_away
        if not was_away:
            was_away = True
            await proxy.refuse()
            proxy.cut()

    spine.writer = GuardedWriter(keyring, pull_the_plug)
    await spine.receive(*[an_appointment(number) for number in range(100)])
    await spine.publish_all()
    with capture_logs() as logs:
        async with spine.running(consumer_of(spine)):
            await eventually(lambda: [entry for entry in logs if entry["event"] == "holding_on"])
            await proxy.accept()
            await eventually(lambda: _all_ended(database, 100))
    assert await database.fetchval("SELECT max(attempts) FROM event_history") == 1
    assert spine.count("eventsync_apply_batch_events_count") < 50  # in batches, not one by one as suspects are
    await pool.close()


async def test_while_postgres_is_away_no_message_is_taken_so_none_dies_of_falling(
    tcp_proxy: Callable[[str], Awaitable[TcpProxy]],
    database_url: str,
    keyring: Keyring,
    bus: Bus,
    connection_ids: list[ConnectionId],
) -> None:
    proxy = await tcp_proxy(database_url)
    pool = Database(proxy.url)
    await pool.open()
    spine = Spine(pool, keyring, bus, connection_ids)
    await spine.receive(an_appointment())
    await spine.publish_all()
    await proxy.refuse()
    proxy.cut()
    async with spine.running(consumer_of(spine)):
        await eventually(lambda: spine.count("eventsync_worker_restarts_total", worker="consumer:eventsync.apply") >= 3)
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, 1)
    (delivery,) = await take(subscription, 1)
    assert not delivery.redelivered
    await pool.close()


async def test_a_stop_in_the_middle_of_a_batch_finishes_it_and_leaves_no_suspects(
    bus_spine: Spine, database: asyncpg.Connection, keyring: Keyring
) -> None:
    writing, gate = asyncio.Event(), asyncio.Event()

    async def wait_at_the_gate() -> None:
        writing.set()
        await gate.wait()

    bus_spine.writer = GuardedWriter(keyring, wait_at_the_gate)
    await bus_spine.receive(*[an_appointment(number) for number in range(100)])
    await bus_spine.publish_all()
    consumer = asyncio.create_task(consumer_of(bus_spine).run())
    await writing.wait()
    consumer.cancel()
    await asyncio.wait({consumer}, timeout=0.05)
    assert not consumer.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert (await outcomes(database))["applied"] > 0
    assert await database.fetchval("SELECT count(*) FROM event_queue WHERE attempt_started_at IS NOT NULL") == 0


async def test_an_event_that_kills_its_consumer_parks_alone(
    bus: Bus, spine: Spine, database_url: str, database: asyncpg.Connection
) -> None:
    event_ids = await spine.receive(*[an_appointment(number) for number in range(100)])
    amqp_url = bus._url if isinstance(bus, RabbitBus) else ""
    deaths = 0
    while (status := await run_until_dead_or_quiet(database_url, str(spine.connection_id), amqp_url)) != 0:
        assert status == -signal.SIGKILL
        deaths += 1
    assert deaths == MAX_ATTEMPTS
    assert await outcomes(database) == {"kills_the_consumer": 1, "applied": 99}
    killer = await queued(database, event_ids[50])
    assert (killer["reason"], killer["attempts"]) == ("kills_the_consumer", MAX_ATTEMPTS)
    assert await database.fetchval("SELECT max(attempts) FROM event_history") == 2  # once with the killer, once alone


async def run_until_dead_or_quiet(*arguments: str) -> int:
    tests = KILLER_PROCESS.parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(KILLER_PROCESS), *arguments, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(60):
        return await process.wait()


async def _all_ended(database: asyncpg.Connection, count: int) -> bool:
    ended = await database.fetchval("SELECT count(*) FROM event_history")
    return bool(ended == count)


async def _empty(spine: Spine) -> bool:
    return await spine.bus.depth(QueueName.APPLY_FRESH) == 0
