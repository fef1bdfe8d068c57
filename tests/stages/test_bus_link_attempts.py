"""The workers of a process restore their bus together: what one attempt shows, nobody waits for once more."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from structlog.testing import capture_logs

from eventsync.bus.memory import MemoryBus
from eventsync.crypto import Keyring
from eventsync.domain.errors import Transient
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue
from eventsync.stages.bus_link import BusLink
from eventsync.supervisor import Supervisor
from eventsync.telemetry import Metrics
from servers.eventually import eventually

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


class Restoring:
    """A worker that cannot do without the bus, and notes when it tries."""

    name = "restoring"

    def __init__(self, link: BusLink) -> None:
        self._link = link
        self.tried_at: list[float] = []

    async def run(self) -> None:
        self.tried_at.append(time.monotonic())
        await self._link.restore()


async def test_however_long_the_broker_is_away_a_worker_asks_every_second_and_says_so_once(
    pool: Database, keyring: Keyring
) -> None:
    bus = CountedBus(away=True)
    bus.may_end.set()
    worker = Restoring(BusLink(bus, EventQueue(pool, keyring)))
    stop = asyncio.Event()
    with capture_logs() as lines:
        running = asyncio.create_task(Supervisor([worker], Metrics()).run(stop))
        await eventually(lambda: len(worker.tried_at) == 8, 30.0)
        stop.set()
        await running
    pauses = [later - earlier for earlier, later in itertools.pairwise(worker.tried_at)]
    assert min(pauses[-2:]) < 2.5  # and not twice the one before, which would be more than 3 s
    (line,) = [line for line in lines if line["event"] == "worker_failed"]
    assert (line["worker"], line["error"], line["log_level"]) == (
        "restoring",
        "the broker does not answer",
        "warning",
    )
