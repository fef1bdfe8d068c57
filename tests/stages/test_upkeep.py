"""Upkeep: every event finds its partition, and nothing stays beyond its time but what waits for a person."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from eventsync.domain.errors import Transient
from eventsync.domain.events import Lane
from eventsync.postgres.queue_values import Parked
from eventsync.postgres.retention import Retention
from eventsync.stages.upkeep import Upkeep
from servers.eventually import eventually
from stages.spine import Spine, an_appointment, outcomes

RAW_DAYS, HISTORY_DAYS = 30, 400


@pytest.fixture
def upkeep(spine: Spine) -> Upkeep:
    return Upkeep(Retention(spine.pool), spine.clock, raw_days=RAW_DAYS, history_days=HISTORY_DAYS)


async def raw_events(database: asyncpg.Connection) -> int:
    count: int = await database.fetchval("SELECT count(*) FROM events")
    return count


async def test_partitions_are_made_ahead_for_weeks_and_back_for_a_spools_events(spine: Spine, upkeep: Upkeep) -> None:
    spine.clock.advance(200 * 86400)  # where the migrations have made none
    await upkeep.run_once()
    until = await Retention(spine.pool).covered_until()
    assert until is not None
    assert until >= spine.clock() + timedelta(days=28)
    for days in (-14, 27):
        now = spine.clock.now
        spine.clock.advance(days * 86400)
        await spine.receive({"EventType": "Test"})
        spine.clock.now = now


async def test_raw_bodies_go_after_their_time_and_the_history_stays_much_longer(
    spine: Spine, upkeep: Upkeep, database: asyncpg.Connection
) -> None:
    await upkeep.run_once()
    await spine.apply(an_appointment(1))
    (parked,) = await spine.receive(an_appointment(2))
    await spine.queue.park([Parked(parked, "test")])
    spine.clock.advance((RAW_DAYS - 1) * 86400)
    await upkeep.run_once()
    assert await raw_events(database) == 2
    spine.clock.advance(9 * 86400)
    await upkeep.run_once()
    assert [row["id"] for row in await database.fetch("SELECT id FROM events")] == [parked]
    assert await outcomes(database) == {"applied": 1, "test": 1}
    await spine.queue.unpark(parked, spine.clock(), Lane.FRESH)
    await spine.applier().apply([parked])
    await upkeep.run_once()
    assert await raw_events(database) == 0
    assert await outcomes(database) == {"applied": 2}
    spine.clock.advance(HISTORY_DAYS * 86400)
    await upkeep.run_once()
    assert await outcomes(database) == {}


async def test_every_chore_is_done_at_once_and_again_after_the_interval(spine: Spine) -> None:
    done: list[str] = []

    async def chore() -> None:
        done.append("swept")

    upkeep = Upkeep(Retention(spine.pool), spine.clock, raw_days=30, history_days=400, chores=[chore], interval_s=0.05)
    async with spine.running(upkeep):
        await eventually(lambda: len(done) >= 2)


async def test_two_keepers_at_once_do_no_harm(spine: Spine, upkeep: Upkeep) -> None:
    other = Upkeep(Retention(spine.pool), spine.clock, raw_days=RAW_DAYS, history_days=HISTORY_DAYS)
    spine.clock.advance(500 * 86400)
    await asyncio.gather(upkeep.run_once(), other.run_once())
    await upkeep.run_once()
    until = await Retention(spine.pool).covered_until()
    assert until is not None
    assert until >= spine.clock() + timedelta(days=28)


async def test_a_week_that_someone_is_reading_is_left_for_the_next_time(
    spine: Spine, upkeep: Upkeep, database: asyncpg.Connection
) -> None:
    await upkeep.run_once()
    await spine.apply(an_appointment())
    spine.clock.advance((RAW_DAYS + 8) * 86400)
    async with database.transaction():
        await database.fetch("SELECT * FROM events")
        await upkeep.run_once()
        assert await raw_events(database) == 1
    await upkeep.run_once()
    assert await raw_events(database) == 0


async def test_a_failing_chore_is_told_to_the_supervisor(spine: Spine) -> None:
    async def chore() -> None:
        raise Transient("away")

    upkeep = Upkeep(Retention(spine.pool), spine.clock, raw_days=30, history_days=400, chores=[chore])
    with pytest.raises(Transient):
        await upkeep.run_once()
