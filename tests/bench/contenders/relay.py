"""From pending rows to rows marked as published, over RabbitMQ: ours, and two ways to publish with aio-pika.

`--publish` is `eventsync` (the stage as it is), `one-by-one` (each message's confirm awaited before the next) or
`gather` (a batch's publishes and confirms at once). Claiming and marking are the same statements, a batch at a time, so
that only publishing differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractExchange

from bench.contender import WARM_UP_EVENTS, Assignment, Stopwatch, contend
from bench.contest import LOST, Figures
from bench.practice import add_practice, bench_keyring, store_appointments
from eventsync.bus.rabbit import RabbitBus
from eventsync.bus.topology import EVENTS_EXCHANGE, RoutingKey
from eventsync.bus.wire import encode
from eventsync.domain.events import Lane, WorkClass
from eventsync.postgres.database import Database
from eventsync.postgres.listener import Listener
from eventsync.postgres.queue import EventQueue, claim_due, mark_published
from eventsync.postgres.queue_values import Claimed, FlightWindow
from eventsync.stages.bus_link import BusLink
from eventsync.stages.relay import Relay
from eventsync.telemetry import Metrics
from eventsync.wiring import utc_now

RelayOnce = Callable[[], Awaitable[int]]
_BATCH_EVENTS = 500  # ours' own


async def work(assignment: Assignment) -> Figures:
    """Store events, then relay them all."""
    database = Database(assignment.database_url)
    await database.open()
    queue = EventQueue(database, bench_keyring())
    bus = RabbitBus(assignment.amqp_url)
    await bus.start()  # declares the queues, for all of them
    practice = await add_practice(database)
    stopwatch = Stopwatch()
    windows = (FlightWindow(WorkClass.APPLY, Lane.FRESH, assignment.events + WARM_UP_EVENTS),)
    async with _RELAYS[assignment.options.publish](queue, bus, assignment.amqp_url, windows) as relay_once:
        await store_appointments(queue, practice, WARM_UP_EVENTS)
        await _relay_all(relay_once)
        await store_appointments(queue, practice, assignment.events, first_number=WARM_UP_EVENTS)
        with stopwatch.running():
            relayed = await _relay_all(relay_once)
    measures = await queue.measure()
    published = sum(measure.count for measure in measures if measure.status == "published") - WARM_UP_EVENTS
    await bus.stop()
    await database.close()
    return {**stopwatch.figures(relayed), LOST.name: assignment.events - published}


async def _relay_all(relay_once: RelayOnce) -> int:
    relayed = 0
    while count := await relay_once():
        relayed += count
    return relayed


@asynccontextmanager
async def _ours(queue: EventQueue, bus: RabbitBus, _: str, windows: Sequence[FlightWindow]) -> AsyncIterator[RelayOnce]:
    metrics = Metrics()
    link = BusLink(bus, queue)
    await link.restore()
    relay = Relay(queue, link, Listener(queue.database.url, metrics), metrics, utc_now, windows=windows)
    yield relay.run_once


@asynccontextmanager
async def _one_by_one(
    queue: EventQueue, _: RabbitBus, amqp_url: str, windows: Sequence[FlightWindow]
) -> AsyncIterator[RelayOnce]:
    async def publish(exchange: AbstractExchange, claimed: Sequence[Claimed]) -> None:
        for entry in claimed:
            await _publish(exchange, entry)

    async with _aio_pika(queue, amqp_url, windows, publish) as relay_once:
        yield relay_once


@asynccontextmanager
async def _gather(
    queue: EventQueue, _: RabbitBus, amqp_url: str, windows: Sequence[FlightWindow]
) -> AsyncIterator[RelayOnce]:
    async def publish(exchange: AbstractExchange, claimed: Sequence[Claimed]) -> None:
        await asyncio.gather(*(_publish(exchange, entry) for entry in claimed))

    async with _aio_pika(queue, amqp_url, windows, publish) as relay_once:
        yield relay_once


@asynccontextmanager
async def _aio_pika(
    queue: EventQueue,
    amqp_url: str,
    windows: Sequence[FlightWindow],
    publish: Callable[[AbstractExchange, Sequence[Claimed]], Awaitable[None]],
) -> AsyncIterator[RelayOnce]:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(EVENTS_EXCHANGE)

        async def relay_once() -> int:
            async with queue.database.transaction() as session:
                claimed = await claim_due(session, windows, utc_now(), at_most=_BATCH_EVENTS)
                if claimed:
                    await publish(exchange, claimed)
                    await mark_published(session, [entry.event_id for entry in claimed], utc_now())
            return len(claimed)

        yield relay_once


async def _publish(exchange: AbstractExchange, entry: Claimed) -> None:
    body = encode({"type": "event.apply", "event_id": str(entry.event_id)})
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await exchange.publish(message, RoutingKey.APPLY_FRESH, mandatory=True)


_RELAYS = {"eventsync": _ours, "one-by-one": _one_by_one, "gather": _gather}

if __name__ == "__main__":
    contend(work, ["publish"])
