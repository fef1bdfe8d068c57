"""Processes repair the bus one at a time, or the second would delete what the first has just declared."""

from __future__ import annotations

import asyncio

from eventsync.bus.memory import MemoryBus
from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue
from eventsync.stages.bus_link import BusLink
from servers.eventually import eventually


class SlowBus(MemoryBus):
    """A bus whose repair takes until `may_end` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()

    async def start(self) -> bool:
        self.began.set()
        await self.may_end.wait()
        return await super().start()


async def test_a_process_waits_while_another_repairs_the_bus(pool: Database, keyring: Keyring) -> None:
    first, second = SlowBus(), SlowBus()
    links = [BusLink(bus, EventQueue(pool, keyring)) for bus in (first, second)]

    async def one_waits_for_its_turn() -> bool:
        async with pool.session() as session:
            return bool(
                await session.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            )

    async with asyncio.timeout(20), asyncio.TaskGroup() as restoring:
        restoring.create_task(links[0].restore())
        await first.began.wait()
        restoring.create_task(links[1].restore())
        await eventually(one_waits_for_its_turn)
        assert not second.began.is_set()
        first.may_end.set()
        second.may_end.set()
    assert second.connected
