"""RabbitMQ is away for a while under load: health says so, nobody gives up, nothing is lost, soon all moves again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import asyncpg

from e2e.eventsync_process import EventsyncProcess
from e2e.fixtures import Connect, Start
from e2e.moving_again import MOVES_AGAIN_WITHIN_S, RecordProperty, seconds_to_move, tell
from e2e.nothing_lost import assert_nothing_lost
from e2e.persistent_sender import PersistentSender
from e2e.probes import says_that_all_is_well, says_that_it_lacks, unready_parts
from e2e.steady_load import under_load
from eventsync.sandbox import QuotaLimits, SandboxOptions, serve
from servers.eventually import eventually
from servers.rabbitmq import RabbitServer

_PRACTICE = SandboxOptions(appointments=0, clients=100, quota=QuotaLimits(per_minute=None, per_day=None), seed=17)
_AWAY_FOR_S = 30.0 if os.environ.get("EVENTSYNC_PROVE") else 6.0
_LOOK_EVERY_S = 0.5

MakeRabbit = Callable[[], Awaitable[RabbitServer]]


async def test_an_outage_of_rabbitmq_under_load_is_said_borne_and_soon_forgotten(
    start_eventsync: Start,
    connect: Connect,
    database: asyncpg.Connection,
    rabbitmq_factory: MakeRabbit,
    record_property: RecordProperty,
) -> None:
    rabbit = await rabbitmq_factory()
    url = rabbit.fresh_vhost_url()
    door = await start_eventsync("ingress", "relay", amqp_url=url)
    hand = await start_eventsync("consumer", "worker", "scheduler", amqp_url=url)
    pids = (door.pid, hand.pid)
    async with serve(_PRACTICE) as sandbox:
        sender = PersistentSender(door.base_url + (await connect(sandbox)).webhook_path)
        async with under_load(sandbox, sender) as load:
            await seconds_to_move(database, sender)
            await rabbit.stop()
            for process in (door, hand):
                await says_that_it_lacks(process.base_url, "bus")
            await stays_said(door, hand, for_s=_AWAY_FOR_S)
            await rabbit.start()
            moving_s = await seconds_until_one_ends(database)
            # What has gathered meanwhile goes first, so a new event waits for as long as that takes.
            caught_up_s = moving_s + await seconds_to_move(database, sender, within_s=2 * _AWAY_FOR_S + 30.0)
            for process in (door, hand):
                await says_that_all_is_well(process.base_url)  # every worker included
        tell(record_property, f"RabbitMQ away for {_AWAY_FOR_S:g} s", moving_s)
        tell(record_property, f"RabbitMQ away for {_AWAY_FOR_S:g} s, a new event", caught_up_s)
        await assert_nothing_lost(database, sandbox, load.work(), sender, within_s=60.0)
        assert (door.pid, hand.pid) == pids
        assert [await process.stop() for process in (door, hand)] == [0, 0]


async def seconds_until_one_ends(database: asyncpg.Connection) -> float:
    """Wait until one more event has ended, and tell how long that took."""
    began = time.monotonic()
    statement = "SELECT count(*) FROM event_history"
    before = await database.fetchval(statement)

    async def one_more_has_ended() -> bool:
        return bool(await database.fetchval(statement) > before)

    await eventually(one_more_has_ended, MOVES_AGAIN_WITHIN_S)
    return time.monotonic() - began


async def stays_said(door: EventsyncProcess, hand: EventsyncProcess, *, for_s: float) -> None:
    """Hold for `for_s` seconds that both say what they lack, and that only the door goes on serving."""
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        assert "bus" in await unready_parts(door.base_url)
        assert "bus" in await unready_parts(hand.base_url)
        assert await door.is_ready()  # webhooks are as welcome as before
        assert not await hand.is_ready()
        await asyncio.sleep(_LOOK_EVERY_S)
