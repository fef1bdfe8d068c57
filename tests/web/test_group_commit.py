"""Requests that come together share a commit, and nobody is answered before theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.postgres.database import Database
from eventsync.postgres.tenants import AddedConnection
from servers.eventually import eventually
from web.webhook_door import BODY, Door, Limits, Practice, open_door

REQUESTS = 60


@pytest.fixture
def practice(pool: Database, database: asyncpg.Connection, keyring: Keyring) -> Practice:
    return Practice(pool, database, keyring)


@pytest.fixture
async def connection(practice: Practice) -> AddedConnection:
    return await practice.connect()


@pytest.fixture
async def door(database_url: str, keyring: Keyring, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(database_url, keyring, tmp_path, Limits(insert_timeout_s=20.0)) as door:
        yield door


@asynccontextmanager
async def locked(database: asyncpg.Connection, table: str) -> AsyncIterator[None]:
    """Let every INSERT wait until the block ends."""
    async with database.transaction():
        await database.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


async def insert_waits(pool: Database) -> bool:
    """Tell whether a group waits for a lock; another session than the locking one, whose view stands still."""
    async with pool.session() as session:
        count: int = await session.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO events%'"
        )
    return count > 0


@pytest.mark.parametrize("table", ["events", "event_queue"])
async def test_nobody_is_answered_before_the_commit_and_many_share_one(
    door: Door,
    practice: Practice,
    connection: AddedConnection,
    database: asyncpg.Connection,
    pool: Database,
    table: str,
) -> None:
    assert (await door.post(connection.webhook_token)).status == 200
    async with locked(database, table):
        requests = [asyncio.create_task(door.post(connection.webhook_token)) for _ in range(REQUESTS)]
        await eventually(lambda: insert_waits(pool))
        answered, _ = await asyncio.wait(requests, timeout=0.3)
        assert not answered
    answers = await asyncio.gather(*requests)
    assert {answer.status for answer in answers} == {200}
    assert {answer.event_id for answer in answers} <= set(await practice.stored_ids())
    transactions = await database.fetchval("SELECT count(DISTINCT xmin::text) FROM events")
    assert transactions <= 5


async def test_large_bodies_go_in_several_groups(
    door: Door, practice: Practice, connection: AddedConnection, database: asyncpg.Connection, pool: Database
) -> None:
    body = b'{"Note":"' + b"x" * 1_000_000 + b'"}'
    async with locked(database, "event_queue"):
        requests = [asyncio.create_task(door.post(connection.webhook_token, body)) for _ in range(24)]
        await eventually(lambda: insert_waits(pool))
    assert {answer.status for answer in await asyncio.gather(*requests)} == {200}
    largest = await database.fetchval("SELECT max(n) FROM (SELECT count(*) AS n FROM events GROUP BY xmin::text) AS g")
    assert largest <= 9


async def test_a_caller_who_leaves_takes_nobody_of_the_group_along(
    door: Door, practice: Practice, connection: AddedConnection, database: asyncpg.Connection, pool: Database
) -> None:
    async with locked(database, "event_queue"):
        requests = [asyncio.create_task(door.post(connection.webhook_token)) for _ in range(10)]
        await eventually(lambda: insert_waits(pool))
        for request in requests[::2]:
            request.cancel()
    stayed = await asyncio.gather(*requests[1::2])
    assert {answer.status for answer in stayed} == {200}
    assert {answer.event_id for answer in stayed} <= set(await practice.stored_ids())
    assert await eventually(lambda: all_stored(practice, len(requests)))  # those who left had sent theirs


@pytest.mark.parametrize("hours", [0, 6])  # a time to wait until that is hours away: the clock has been set back
async def test_one_event_that_postgresql_refuses_costs_the_others_nothing(
    hours: int,
    door: Door,
    practice: Practice,
    connection: AddedConnection,
    database: asyncpg.Connection,
    pool: Database,
) -> None:
    refused = b'{"Type":"refused"}'
    await refuse_bodies_of(database, len(refused))
    bodies = [refused if number == 7 else BODY for number in range(20)]
    answers = await asyncio.gather(*(door.post(connection.webhook_token, body) for body in bodies))
    assert {answer.status for answer in answers} == {200}
    assert len(await practice.stored_ids()) == 19
    assert door.spool.stats.count == 1
    assert not door.receiver.database_is_away

    await eventually(lambda: door.drain._held_back)
    await database.execute("ALTER TABLE events DROP CONSTRAINT refusing")
    door.drain._held_back_until = door.drain._clock() + timedelta(hours=hours)
    await eventually(lambda: door.spool.stats.count == 0)
    assert set(await practice.stored_ids()) == {answer.event_id for answer in answers}


async def test_events_that_postgresql_refuses_in_the_spool_do_not_stop_those_behind_them(
    door: Door, practice: Practice, connection: AddedConnection, database: asyncpg.Connection, pool: Database
) -> None:
    refused = b'{"Type":"refused"}'
    await refuse_bodies_of(database, len(refused))
    door.receiver.went_away("for the test")
    bodies = [refused if number in (0, 11) else BODY for number in range(40)]
    answers = await asyncio.gather(*(door.post(connection.webhook_token, body) for body in bodies))
    await eventually(lambda: door.spool.stats.count == 2)
    good = {answer.event_id for answer, body in zip(answers, bodies, strict=True) if body != refused}
    assert set(await practice.stored_ids()) == good


async def all_stored(practice: Practice, count: int) -> bool:
    return len(await practice.stored_ids()) == count


async def refuse_bodies_of(database: asyncpg.Connection, size_bytes: int) -> None:
    await database.execute(f"ALTER TABLE events ADD CONSTRAINT refusing CHECK (body_bytes <> {size_bytes:d})")
