"""When connections are read of themselves: listed without their secrets, and planned without a race."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import RunEnd, RunRequest, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.runs import Runs
from eventsync.postgres.schedules import ScheduledConnection, Schedules

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
FIRST = NOW + timedelta(minutes=15)
LATER = NOW + timedelta(hours=2)


@pytest.fixture
def schedules(pool: Database) -> Schedules:
    return Schedules(pool)


async def the_first(schedules: Schedules) -> ScheduledConnection:
    return (await schedules.connections(["intakeq"], FIRST))[0]


async def test_living_connections_of_the_vendors_are_listed_with_what_their_schedule_needs(
    schedules: Schedules, connection_ids: list[ConnectionId], database: asyncpg.Connection
) -> None:
    await database.execute(
        "UPDATE connections SET timezone = 'America/Denver', settings = '{\"sweeps\": \"off\"}', created_at = $2"
        " WHERE id = $1",
        *(connection_ids[0], NOW),
    )
    first, second = await schedules.connections(["intakeq", "other"], FIRST)
    assert [first.id, second.id] == connection_ids
    assert (first.timezone, first.settings, first.created_at) == ("America/Denver", {"sweeps": "off"}, NOW)
    owner = await database.fetchval("SELECT organization_id FROM connections WHERE id = $1", first.id)
    assert (first.organization_id, first.daily_answered_at) == (owner, None)
    await database.execute("UPDATE connections SET disabled_at = $2 WHERE id = $1", connection_ids[0], NOW)
    assert [found.id for found in await schedules.connections(["intakeq"], FIRST)] == connection_ids[1:]
    assert await schedules.connections(["other"], FIRST) == []


async def test_a_new_connection_has_its_first_sweep_planned_once(
    schedules: Schedules, connection_ids: list[ConnectionId], database: asyncpg.Connection
) -> None:
    times = [FIRST + timedelta(minutes=minutes) for minutes in range(4)]
    listings = await asyncio.gather(*(schedules.connections(["intakeq"], first) for first in times))
    planned = {(found.id, found.next_sweep_at) for listing in listings for found in listing}
    assert len(planned) == 2
    assert {at for _, at in planned} <= set(times)
    assert await database.fetchval("SELECT count(*) FROM sync_schedules") == 2


async def test_a_sweep_is_put_off_only_from_the_time_that_was_seen(
    schedules: Schedules, connection_ids: list[ConnectionId]
) -> None:
    await the_first(schedules)
    await schedules.plan_sweep(connection_ids[0], LATER)
    assert not await schedules.put_off_sweep(connection_ids[0], FIRST, FIRST + timedelta(minutes=15))
    assert (await the_first(schedules)).next_sweep_at == LATER
    assert await schedules.put_off_sweep(connection_ids[0], LATER, LATER + timedelta(minutes=15))
    assert (await the_first(schedules)).next_sweep_at == LATER + timedelta(minutes=15)


async def test_a_sweep_can_be_planned_before_any_scheduler_has_seen_the_connection(
    schedules: Schedules, connection_ids: list[ConnectionId]
) -> None:
    await schedules.plan_sweep(connection_ids[0], LATER)
    assert (await the_first(schedules)).next_sweep_at == LATER


async def test_the_latest_daily_time_that_has_a_run_is_told_whatever_became_of_the_run(
    schedules: Schedules, connection_ids: list[ConnectionId], pool: Database
) -> None:
    runs, one = Runs(pool), connection_ids[0]
    for sync_type, due_at in (
        (SyncType.AUTOMATED_DAILY, NOW - timedelta(days=1)),
        (SyncType.AUTOMATED_DAILY, NOW),
        (SyncType.AUTOMATED_SWEEP, LATER),
    ):
        await runs.request(RunRequest(sync_type, one, None, "schedule", due_at=due_at), NOW)
        lease = await runs.claim(uuid4(), NOW, LATER)
        assert lease is not None
        await runs.end(lease, RunEnd(RunStatus.FAILED), NOW)
    first, second = await schedules.connections(["intakeq"], FIRST)
    assert (first.daily_answered_at, second.daily_answered_at) == (NOW, None)
