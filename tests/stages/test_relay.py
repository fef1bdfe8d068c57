"""The relay: every due event goes out once, within its window, however it is woken and whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import aio_pika
import asyncpg
import orjson
import pytest

from eventsync.bus.memory import MemoryBus
from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.topology import QUEUES
from eventsync.bus.wire import Bus, Message, QueueName
from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.errors import Transient
from eventsync.domain.events import Lane, Outcome, WorkClass
from eventsync.postgres.database import Database
from eventsync.postgres.queue import finish
from eventsync.postgres.queue_values import Finished, FlightWindow
from servers.eventually import eventually
from stages.spine import NOW, Spine, queued, take

TEST = {"EventType": "Test"}


class RefusingBus(MemoryBus):
    """A bus that confirms nothing while `refuses`; what it was given may have arrived nevertheless."""

    refuses = True

    async def publish(self, messages: Sequence[Message]) -> None:
        await super().publish(messages)
        if self.refuses:
            raise Transient("not confirmed")


async def statuses(database: asyncpg.Connection) -> dict[str, int]:
    rows = await database.fetch("SELECT status, count(*) FROM event_queue GROUP BY status")
    return {row["status"]: row["count"] for row in rows}


async def lose_everything(bus: Bus, amqp_url: str | None) -> None:
    """Lose all queues and what is in them, as a wiped broker or a new process has."""
    if amqp_url is None:
        await bus.stop()
        return
    connection = await aio_pika.connect(amqp_url, timeout=10)
    channel = await connection.channel()
    for shape in QUEUES:
        await channel.queue_delete(shape.name)
    await connection.close()


async def test_due_events_are_published_once_and_marked(bus_spine: Spine, database: asyncpg.Connection) -> None:
    fresh = await bus_spine.receive(TEST, TEST)
    (bulk,) = await bus_spine.receive(TEST, lane=Lane.BULK)
    await bus_spine.publish_all()
    await bus_spine.publish_all()
    (delivery,) = await take(await bus_spine.bus.subscribe(QueueName.APPLY_FRESH, 10), 1)
    envelope = orjson.loads(delivery.body)
    assert sorted(envelope.pop("event_ids")) == sorted(map(str, fresh))
    assert envelope == {"v": 1, "type": "event.apply"}
    (delivery,) = await take(await bus_spine.bus.subscribe(QueueName.APPLY_BULK, 10), 1)
    assert orjson.loads(delivery.body) == {"v": 1, "type": "event.apply", "event_ids": [str(bulk)]}
    assert await bus_spine.bus.depth(QueueName.APPLY_FRESH) == 0
    rows = await database.fetch("SELECT status, publishes FROM event_queue")
    assert {(row["status"], row["publishes"]) for row in rows} == {("published", 1)}


async def test_what_the_bus_does_not_confirm_stays_pending(
    pool: Database, keyring: Keyring, connection_ids: list[ConnectionId], database: asyncpg.Connection
) -> None:
    bus = RefusingBus()
    spine = Spine(pool, keyring, bus, connection_ids)
    await spine.link.restore()
    (event_id,) = await spine.receive(TEST)
    with pytest.raises(Transient, match="not confirmed"):
        await spine.relay().run_once()
    assert (await queued(database, event_id))["status"] == "pending"
    assert (await queued(database, event_id))["publishes"] == 0
    bus.refuses = False
    assert await spine.relay().run_once() == 1
    assert (await queued(database, event_id))["status"] == "published"


async def test_a_bus_that_never_answers_is_given_up_after_the_timeout(
    pool: Database, keyring: Keyring, connection_ids: list[ConnectionId], database: asyncpg.Connection
) -> None:
    class SilentBus(MemoryBus):
        async def publish(self, messages: Sequence[Message]) -> None:
            await asyncio.Event().wait()
            await super().publish(messages)

    spine = Spine(pool, keyring, SilentBus(), connection_ids)
    await spine.link.restore()
    await spine.receive(TEST)
    with pytest.raises(Transient, match="the bus did not confirm"):
        await spine.relay(publish_timeout_s=0.05).run_once()
    assert await statuses(database) == {"pending": 1}


async def test_a_full_window_holds_the_rest_back_in_postgres(spine: Spine, database: asyncpg.Connection) -> None:
    await spine.receive(*[TEST] * 5)
    await spine.link.restore()
    relay = spine.relay(windows=[FlightWindow(WorkClass.APPLY, Lane.FRESH, 3)], batch_events=2)
    assert [await relay.run_once() for _ in range(3)] == [2, 1, 0]
    assert await statuses(database) == {"published": 3, "pending": 2}
    assert await spine.bus.depth(QueueName.APPLY_FRESH) == 2  # messages, of two events and of one


async def test_a_full_window_lets_the_next_go_as_soon_as_there_is_room(spine: Spine) -> None:
    event_ids = await spine.receive(TEST, TEST)
    relay = spine.relay(windows=[FlightWindow(WorkClass.APPLY, Lane.FRESH, 1)])
    async with spine.running(relay):
        await eventually(lambda: spine.bus.connected and spine.bus.depth(QueueName.APPLY_FRESH))
        subscription = await spine.bus.subscribe(QueueName.APPLY_FRESH, 10)
        (first,) = await take(subscription, 1)
        async with spine.pool.transaction() as session:
            ended = next(event_id for event_id in event_ids if str(event_id) in first.body.decode())
            await finish(session, [Finished(ended, Outcome.APPLIED)], NOW)
        async with asyncio.timeout(spine.listener.poll_interval_s / 2):
            await take(subscription, 1)


async def test_a_relay_that_waits_for_another_does_not_spin(spine: Spine) -> None:
    (event_id,) = await spine.receive(TEST)
    relay = spine.relay()
    async with spine.pool.transaction() as session:
        await session.execute("SELECT FROM event_queue WHERE event_id = $1 FOR UPDATE", event_id)
        await spine.link.restore()
        assert await relay.run_once() == 0
        pause_s, reason = relay._pause(await spine.queue.next_due(relay._windows))
    assert pause_s >= 0.01
    assert reason == "due"


async def test_relays_side_by_side_publish_every_event_once(bus_spine: Spine, database: asyncpg.Connection) -> None:
    await bus_spine.link.restore()
    await bus_spine.receive(*[TEST] * 600)

    async def work() -> int:
        relay, total = bus_spine.relay(batch_events=50), 0
        while moved := await relay.run_once():
            total += moved
        return total

    totals = await asyncio.gather(*[work() for _ in range(4)])
    assert await database.fetchval("SELECT count(*) FROM event_queue WHERE status = 'published' AND publishes = 1") == (
        sum(totals)
    )
    await bus_spine.publish_all()  # a relay stops when all that is left is in another's hands
    subscription = await bus_spine.bus.subscribe(QueueName.APPLY_FRESH, 1000)
    named: list[str] = []
    while len(named) < 600:
        (delivery,) = await take(subscription, 1)
        named += orjson.loads(delivery.body)["event_ids"]
    assert len(set(named)) == len(named) == 600
    assert await bus_spine.bus.depth(QueueName.APPLY_FRESH) == 0


async def test_a_notification_wakes_the_relay_long_before_its_poll(bus_spine: Spine) -> None:
    async with bus_spine.running(bus_spine.relay(), bus_spine.listener):
        await eventually(lambda: bus_spine.listener.is_proven and bus_spine.bus.connected)
        subscription = await bus_spine.bus.subscribe(QueueName.APPLY_FRESH, 10)
        await bus_spine.receive(TEST)
        async with asyncio.timeout(bus_spine.listener.poll_interval_s / 5):
            await take(subscription, 1)
    assert bus_spine.count("eventsync_relay_wakeups_total", by="poll") == 0


async def test_without_listen_polling_finds_the_events_and_the_metric_tells(spine: Spine) -> None:
    await spine.receive(TEST)
    async with spine.running(spine.relay()):
        await eventually(lambda: spine.bus.connected)
        subscription = await spine.bus.subscribe(QueueName.APPLY_FRESH, 10)
        await take(subscription, 1)
        await eventually(lambda: spine.count("eventsync_relay_wakeups_total", by="start"))
        await spine.receive(TEST)
        await take(subscription, 1)
        await eventually(lambda: spine.count("eventsync_relay_wakeups_total", by="poll"))
    assert spine.count("eventsync_relay_wakeups_total", by="notify") == 0


async def test_a_retry_in_the_far_future_delays_nobody_and_comes_when_it_is_due(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (later,) = await spine.receive(TEST)
    await spine.queue.retry_later([later], NOW, NOW + timedelta(hours=1), "not now")
    (now,) = await spine.receive(TEST)
    await spine.publish_all()
    assert (await queued(database, later))["status"] == "pending"
    assert (await queued(database, now))["status"] == "published"
    spine.clock.advance(3601)
    await spine.publish_all()
    assert (await queued(database, later))["status"] == "published"


async def test_what_was_put_off_while_the_relay_slept_is_published_when_it_is_due_not_at_the_next_poll(
    spine: Spine,
) -> None:
    (event_id,) = await spine.receive(TEST)
    async with spine.running(spine.relay(clock=lambda: datetime.now(UTC)), spine.listener):
        await eventually(lambda: spine.listener.is_proven and spine.bus.connected)
        subscription = await spine.bus.subscribe(QueueName.APPLY_FRESH, 10)
        await take(subscription, 1)
        async with asyncio.timeout(spine.listener.poll_interval_s / 5):
            now = datetime.now(UTC)
            await spine.queue.retry_later([event_id], now, now + timedelta(milliseconds=300), "busy")
            await take(subscription, 1)
    assert spine.count("eventsync_relay_wakeups_total", by="poll") == 0


async def test_what_stays_published_too_long_is_published_again(bus_spine: Spine) -> None:
    await bus_spine.receive(TEST)
    await bus_spine.link.restore()
    relay = bus_spine.relay(lost_after_s=60)
    await relay.run_once()
    bus_spine.clock.advance(59)
    assert await relay.run_once() == 0
    bus_spine.clock.advance(11)
    assert await relay.run_once() == 1
    assert await bus_spine.bus.depth(QueueName.APPLY_FRESH) == 2
    assert bus_spine.count("eventsync_events_republished_total") == 1


async def test_an_event_that_was_published_very_often_is_still_looked_after(
    spine: Spine, database: asyncpg.Connection
) -> None:
    await spine.receive(TEST)
    await spine.publish_all()
    await database.execute("UPDATE event_queue SET publishes = 999")
    for _ in range(3):
        spine.clock.advance(3700)
        assert await spine.queue.republish_lost(spine.clock(), after_s=60) == 1
        await spine.publish_all()


async def test_all_that_was_in_flight_goes_out_again_when_the_queues_were_lost(
    bus_spine: Spine,
) -> None:
    event_ids = await bus_spine.receive(TEST, TEST, TEST)
    await bus_spine.publish_all()
    url = bus_spine.bus._url if isinstance(bus_spine.bus, RabbitBus) else None
    await lose_everything(bus_spine.bus, url)
    await bus_spine.publish_all()
    (delivery,) = await take(await bus_spine.bus.subscribe(QueueName.APPLY_FRESH, 10), 1)
    assert set(orjson.loads(delivery.body)["event_ids"]) == set(map(str, event_ids))
