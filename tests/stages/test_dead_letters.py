"""Dead letters: counted, given chances alone, and parked in the end; old copies of a message change nothing."""

from __future__ import annotations

from datetime import timedelta

import asyncpg

from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.topology import DELIVERY_LIMIT
from eventsync.bus.wire import QueueName
from eventsync.domain.events import EventId
from eventsync.stages.apply import MAX_ATTEMPTS, Consumer
from eventsync.stages.dead_letters import DeadLetterConsumer
from servers.eventually import eventually
from stages.spine import NOW, Spine, an_appointment, outcomes, queued, take


def dead_letters_of(spine: Spine) -> DeadLetterConsumer:
    return DeadLetterConsumer(spine.queue, spine.link, spine.metrics, spine.clock)


async def let_fall(spine: Spine) -> None:
    """Take the one message of the queue and die, until the bus gives it up."""
    while await spine.bus.depth(QueueName.DEAD_LETTERS) == 0:
        subscription = await spine.bus.subscribe(QueueName.APPLY_FRESH, 10)
        await take(subscription, 1)
        await subscription.close()
        await eventually(lambda: _came_back(spine))


async def attempts_are(database: asyncpg.Connection, event_id: EventId, attempts: int) -> bool:
    row = await queued(database, event_id)
    return bool(row["attempts"] == attempts)


async def test_a_dead_letter_of_an_innocent_is_applied_in_the_end(
    bus_spine: Spine, database: asyncpg.Connection
) -> None:
    (event_id,) = await bus_spine.receive(an_appointment())
    await bus_spine.publish_all()
    await let_fall(bus_spine)
    consumer = Consumer(bus_spine.applier(), bus_spine.link, QueueName.APPLY_FRESH)
    async with bus_spine.running(bus_spine.relay(), dead_letters_of(bus_spine), consumer, bus_spine.listener):
        await eventually(lambda: _is_over(database))
    assert await outcomes(database) == {"applied": 1}
    assert await database.fetchval("SELECT attempts FROM event_history WHERE event_id = $1", event_id) == 2


async def test_what_dies_too_often_is_parked(spine: Spine, database: asyncpg.Connection) -> None:
    (event_id,) = await spine.receive(an_appointment())
    for death in range(1, MAX_ATTEMPTS + 1):
        await spine.publish_all()
        await let_fall(spine)
        async with spine.running(dead_letters_of(spine)):
            await eventually(lambda death=death: attempts_are(database, event_id, death))  # type: ignore[misc]  # bound
            await eventually(lambda: _none_dead(spine))
    await spine.publish_all()
    await let_fall(spine)
    async with spine.running(dead_letters_of(spine)):
        await eventually(lambda: spine.count("eventsync_events_parked_total", reason="dead_letter"))
    assert await outcomes(database) == {"dead_letter": 1}


async def test_a_dead_copy_of_a_message_does_not_hurry_an_event_that_waits_for_its_next_try(
    spine: Spine, database: asyncpg.Connection
) -> None:
    (event_id,) = await spine.receive(an_appointment())
    await spine.publish_all()
    await let_fall(spine)
    await spine.queue.retry_later([event_id], NOW, NOW + timedelta(hours=1), "later")
    async with spine.running(dead_letters_of(spine)):
        await eventually(lambda: _none_dead(spine))
    row = await queued(database, event_id)
    assert (row["available_at"], row["attempts"]) == (NOW + timedelta(hours=1), 0)


async def test_a_dead_letter_of_an_event_that_has_ended_is_dropped(spine: Spine, database: asyncpg.Connection) -> None:
    (event_id,) = await spine.receive(an_appointment())
    await spine.publish_all()
    await let_fall(spine)
    await spine.applier().apply([event_id])
    async with spine.running(dead_letters_of(spine)):
        await eventually(lambda: _none_dead(spine))
    assert await outcomes(database) == {"applied": 1}


def test_the_broker_gives_more_chances_than_a_killer_needs() -> None:
    assert DELIVERY_LIMIT > 2 * MAX_ATTEMPTS


async def _came_back(spine: Spine) -> bool:
    if isinstance(spine.bus, RabbitBus) and await spine.bus.depth(QueueName.DEAD_LETTERS):
        return True
    waiting = await spine.bus.depth(QueueName.APPLY_FRESH) + await spine.bus.depth(QueueName.DEAD_LETTERS)
    return waiting > 0


async def _none_dead(spine: Spine) -> bool:
    """No dead letter is ready or unacknowledged."""
    subscriptions = getattr(spine.bus, "_subscriptions", ())
    held = any(subscription._unacknowledged for subscription in subscriptions)
    return not held and await spine.bus.depth(QueueName.DEAD_LETTERS) == 0


async def _is_over(database: asyncpg.Connection) -> bool:
    return bool(await database.fetchval("SELECT count(*) FROM event_history") == 1)
