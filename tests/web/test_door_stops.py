"""A door that is told to stop answers what is in its hands, and takes nothing more."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.errors import Misconfigured
from eventsync.postgres.database import Database
from servers.eventually import eventually
from web.webhook_door import Door, Limits, Practice, open_door


@pytest.fixture
def practice(pool: Database, database: asyncpg.Connection, keyring: Keyring) -> Practice:
    return Practice(pool, database, keyring)


async def test_requests_in_flight_are_answered_after_their_commit_when_the_door_stops(
    database_url: str, keyring: Keyring, tmp_path: Path, practice: Practice, database: asyncpg.Connection
) -> None:
    connection = await practice.connect()
    async with open_door(database_url, keyring, tmp_path, Limits(insert_timeout_s=20.0)) as door:
        async with database.transaction():
            await database.execute("LOCK TABLE event_queue IN ACCESS EXCLUSIVE MODE")
            requests = [asyncio.create_task(door.post(connection.webhook_token)) for _ in range(20)]
            await eventually(lambda: in_hands(door) == 20)
            door.stop.set()
            await eventually(lambda: refuses(door))
            done, _ = await asyncio.wait(requests, timeout=0.1)
            assert not done
        answers = await asyncio.gather(*requests)
    assert {answer.status for answer in answers} == {200}
    assert {answer.event_id for answer in answers} == set(await practice.stored_ids())


async def test_a_door_that_stops_while_postgresql_is_away_keeps_its_spool_for_the_next(
    database_url: str, keyring: Keyring, tmp_path: Path, practice: Practice
) -> None:
    connection = await practice.connect()
    async with open_door(database_url, keyring, tmp_path, Limits(drain_interval_s=60.0)) as door:
        door.receiver.went_away("for the test")
        answers = [await door.post(connection.webhook_token) for _ in range(5)]
    assert {answer.status for answer in answers} == {200}
    async with open_door(database_url, keyring, tmp_path) as door:
        await eventually(lambda: door.spool.stats.waiting_count == 0)
    assert sorted(await practice.stored_ids()) == sorted(answer.event_id for answer in answers)


async def test_idle_callers_do_not_delay_the_end(database_url: str, keyring: Keyring, tmp_path: Path) -> None:
    async with open_door(database_url, keyring, tmp_path) as door:
        await door.post("a-guess")  # leaves a connection behind that is kept alive
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    writer.transport.abort()


async def test_evidence_is_written_down_at_the_end(
    database_url: str, keyring: Keyring, tmp_path: Path, database: asyncpg.Connection
) -> None:
    async with open_door(database_url, keyring, tmp_path) as door:
        for _ in range(3):
            await door.post("a-guess")
    assert await database.fetchval("SELECT sum(count) FROM refused_requests") == 3


async def test_a_port_that_is_taken_is_named(database_url: str, keyring: Keyring, tmp_path: Path) -> None:
    async with open_door(database_url, keyring, tmp_path / "one") as door:
        other = Door(database_url, keyring, tmp_path / "two", Limits())
        other.server._port = door.port
        with pytest.raises(Misconfigured, match=f"127.0.0.1:{door.port}"):
            await other.server.open()


def in_hands(door: Door) -> int:
    assert door.server._runner is not None
    assert door.server._runner.server is not None
    return sum(connection._request_in_progress for connection in door.server._runner.server.connections)


async def refuses(door: Door) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    except ConnectionRefusedError:
        return True
    writer.transport.abort()
    return False
