"""The workers of a process restore their bus together: what one attempt shows, nobody waits for once more."""

from __future__ import annotations

import asyncio

import pytest

from eventsync.bus.memory import MemoryBus
from eventsync.crypto import Keyring
from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue
from eventsync.stages.bus_link import BusLink

_WORKERS = 6


class CountedBus(MemoryBus):
    """A bus whose start ends when `may_end` is set, and fails while `away` is."""

    def __init__(self, *, away: bool) -> None:
        super().__init__()
        self.away = away
        self.starts = 0
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()

    async def start(self) -> bool:
        self.starts += 1
        self.began.set()
        await self.may_end.wait()
        if self.away:
            raise Transient("the broker does not answer")
        return await super().start()


async def restored_together(link: BusLink, bus: CountedBus) -> list[BaseException | None]:
    """Let one worker begin an attempt, let the others come while it lasts, and tell how each of them fared."""
    first = asyncio.create_task(link.restore())
    await bus.began.wait()
    others = [asyncio.create_task(link.restore()) for _ in range(_WORKERS - 1)]
    await asyncio.sleep(0)  # lets them begin to wait
    bus.may_end.set()
    async with asyncio.timeout(20):
        return await asyncio.gather(first, *others, return_exceptions=True)


async def test_a_failed_attempt_fails_everybody_who_waited_for_it(pool: Database, keyring: Keyring) -> None:
    bus = CountedBus(away=True)
    link = BusLink(bus, EventQueue(pool, keyring))
    outcomes = await restored_together(link, bus)
    assert [str(outcome) for outcome in outcomes] == ["the broker does not answer"] * _WORKERS
    assert all(type(outcome) is Transient for outcome in outcomes)
    assert bus.starts == 1
    bus.away = False
    await link.restore()
    assert bus.connected


async def test_a_successful_attempt_serves_everybody_who_waited_for_it(pool: Database, keyring: Keyring) -> None:
    bus = CountedBus(away=False)
    link = BusLink(bus, EventQueue(pool, keyring))
    assert await restored_together(link, bus) == [None] * _WORKERS
    assert bus.starts == 1


async def test_whoever_comes_later_looks_for_itself(pool: Database, keyring: Keyring) -> None:
    bus = CountedBus(away=False)
    link = BusLink(bus, EventQueue(pool, keyring))
    await restored_together(link, bus)
    await link.restore()
    assert bus.starts == 2


async def test_a_worker_that_is_stopped_in_its_attempt_leaves_it_to_the_next(pool: Database, keyring: Keyring) -> None:
    bus = CountedBus(away=False)
    link = BusLink(bus, EventQueue(pool, keyring))
    first = asyncio.create_task(link.restore())
    await bus.began.wait()
    second = asyncio.create_task(link.restore())
    await asyncio.sleep(0)  # lets it begin to wait
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    bus.may_end.set()
    async with asyncio.timeout(20):
        await second
    assert bus.starts == 2
    assert bus.connected
