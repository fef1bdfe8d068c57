"""From messages to committed rows and acknowledgements, over RabbitMQ: ours, and others on the same stream.

Events are stored and published beforehand: for ours by our relay, for the others a message an event, as they would.
The first acknowledgements are the warm-up. `--consume` is

* `eventsync`: three of the stage's consumers, as a process has them, with their prefetch and batches
* `receive`: receives by our own subscription and acknowledges in the same batches, and does nothing else
* `receive-aio-pika`: the same as an aio-pika consumer does it
* `upsert`: an aio-pika consumer that reads the event, maps it with our mapping, upserts and acknowledges, each message
  by itself, as many at once as its pool has connections
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from bench.acknowledged import TalliedBus, Tally
from bench.contender import WARM_UP_EVENTS, Assignment, Stopwatch, contend
from bench.contest import LOST, Figures
from bench.plain_upsert import PlainUpsert
from bench.practice import Practice, add_practice, bench_keyring, store_appointments
from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.topology import RoutingKey
from eventsync.bus.wire import Delivery, Message, QueueName, encode
from eventsync.domain.events import Lane, WorkClass
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.queue import EventQueue
from eventsync.postgres.queue_values import FlightWindow
from eventsync.postgres.records import RecordWriter
from eventsync.postgres.tenants import Connections
from eventsync.stages.apply import Applier, Consumer, event_ids_in
from eventsync.stages.bus_link import BusLink
from eventsync.stages.directory import ConnectionDirectory
from eventsync.stages.relay import Relay
from eventsync.telemetry import Metrics
from eventsync.vendors import load_vendors
from eventsync.wiring import utc_now

_BATCH_EVENTS = 100
_PREFETCH = 3 * _BATCH_EVENTS
_PUBLISHED_AT_ONCE = 500
_OUR_CONSUMERS = 3


@dataclass(frozen=True, slots=True)
class _Site:
    """What the consumers are made of."""

    queue: EventQueue
    bus: RabbitBus
    amqp_url: str
    practice: Practice
    tally: Tally
    total: int


async def work(assignment: Assignment) -> Figures:
    """Store and publish events, then consume them all."""
    database = Database(assignment.database_url)
    await database.open()
    queue = EventQueue(database, bench_keyring())
    bus = RabbitBus(assignment.amqp_url)
    practice = await add_practice(database)
    total = WARM_UP_EVENTS + assignment.events
    await store_appointments(queue, practice, total)
    if assignment.options.consume == "eventsync":
        await _relay_all(queue, bus, total)
    else:
        await _publish_each(queue, bus)
    tally = Tally()
    stopwatch = Stopwatch()
    async with _CONSUMERS[assignment.options.consume](_Site(queue, bus, assignment.amqp_url, practice, tally, total)):
        await tally.reach(WARM_UP_EVENTS)
        warmed_up = tally.count
        with stopwatch.running():
            await tally.reach(total)
    figures = stopwatch.figures(total - warmed_up)
    if not assignment.options.consume.startswith("receive"):
        figures[LOST.name] = total - await _rows(database)
    await bus.stop()
    await database.close()
    return figures


async def _relay_all(queue: EventQueue, bus: RabbitBus, total: int) -> None:
    metrics = Metrics()
    link = BusLink(bus, queue)
    await link.restore()
    windows = [FlightWindow(WorkClass.APPLY, Lane.FRESH, total)]
    relay = Relay(queue, link, Listener(queue.database.url, metrics), metrics, utc_now, windows=windows)
    while await relay.run_once():
        pass


async def _publish_each(queue: EventQueue, bus: RabbitBus) -> None:
    await bus.start()
    async with queue.database.session() as session:
        event_ids = [row["event_id"] for row in await session.fetch("SELECT event_id FROM event_queue")]
    bodies = [encode({"type": "event.apply", "event_ids": [str(event_id)]}) for event_id in event_ids]
    for first in range(0, len(bodies), _PUBLISHED_AT_ONCE):
        messages = [Message(RoutingKey.APPLY_FRESH, body) for body in bodies[first : first + _PUBLISHED_AT_ONCE]]
        await bus.publish(messages)


async def _rows(database: Database) -> int:
    async with database.session() as session:
        return int(await session.fetchval("SELECT count(*) FROM appointments"))


@asynccontextmanager
async def _ours(site: _Site) -> AsyncIterator[None]:
    metrics, vendors, keyring = Metrics(), load_vendors(), bench_keyring()
    connections = Connections(site.queue.database, keyring, vendors)
    directory = ConnectionDirectory(connections.load_connection, Listener(site.queue.database.url, metrics))
    link = BusLink(TalliedBus(site.bus, site.tally), site.queue)

    def consumer() -> Consumer:
        applier = Applier(site.queue, RecordWriter(keyring), vendors, directory, metrics, utc_now)
        return Consumer(applier, link, QueueName.APPLY_FRESH)

    async with AsyncExitStack() as running:
        for _ in range(_OUR_CONSUMERS):
            await running.enter_async_context(_in_background(asyncio.create_task(consumer().run())))
        yield


@asynccontextmanager
async def _receive(site: _Site) -> AsyncIterator[None]:
    bus = TalliedBus(site.bus, site.tally)
    subscription = await bus.subscribe(QueueName.APPLY_FRESH, _PREFETCH)

    async def receive() -> None:
        while True:
            deliveries = await subscription.next_batch(_BATCH_EVENTS)
            event_ids_in(deliveries)
            await subscription.acknowledge(deliveries)

    async with _in_background(asyncio.create_task(receive())):
        yield
    await subscription.close()


@asynccontextmanager
async def _receive_by_aio_pika(site: _Site) -> AsyncIterator[None]:
    received = 0

    async def take(message: AbstractIncomingMessage) -> None:
        nonlocal received
        event_ids_in([Delivery(0, message.body)])
        received += 1
        if received % _BATCH_EVENTS == 0 or received == site.total:
            await message.ack(multiple=True)
            site.tally.add(received - site.tally.count)

    async with _aio_pika_consumer(site, take):
        yield


@asynccontextmanager
async def _upsert(site: _Site) -> AsyncIterator[None]:
    upsert = PlainUpsert(site.queue.database, site.practice)

    async def take(message: AbstractIncomingMessage) -> None:
        (event_id,) = event_ids_in([Delivery(0, message.body)])
        await upsert.apply(event_id)
        await message.ack()
        site.tally.add(1)

    async with _aio_pika_consumer(site, take):
        yield


@asynccontextmanager
async def _aio_pika_consumer(
    site: _Site, take: Callable[[AbstractIncomingMessage], Awaitable[None]]
) -> AsyncIterator[None]:
    async with await aio_pika.connect(site.amqp_url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=_PREFETCH)
        queue = await channel.get_queue(QueueName.APPLY_FRESH)
        tag = await queue.consume(take)
        yield
        await queue.cancel(tag)


@asynccontextmanager
async def _in_background(task: asyncio.Task[None]) -> AsyncIterator[None]:
    """End the task with the block; what made it fail before is raised."""
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


_CONSUMERS: dict[str, Callable[[_Site], AbstractAsyncContextManager[None]]] = {
    "eventsync": _ours,
    "receive": _receive,
    "receive-aio-pika": _receive_by_aio_pika,
    "upsert": _upsert,
}

if __name__ == "__main__":
    contend(work, ["consume"])
