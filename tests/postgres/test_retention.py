"""Partitions of events: made ahead, dropped by the week, and what a person still needs is never in what is dropped."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import EventId, EventSource, IncomingEvent, Outcome, new_event_id
from eventsync.postgres.database import Database
from eventsync.postgres.queue import EventQueue, finish
from eventsync.postgres.queue_values import Finished, Parked
from eventsync.postgres.retention import Retention

MONDAY = datetime(2031, 3, 3, tzinfo=UTC)  # the first moment of a week far from those that the migrations make
WEEK = timedelta(days=7)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.fixture
def retention(pool: Database) -> Retention:
    return Retention(pool)


@pytest.fixture
def queue(pool: Database, keyring: Keyring) -> EventQueue:
    return EventQueue(pool, keyring)


async def stored(queue: EventQueue, connection_id: ConnectionId, at: datetime, *, parked: bool = False) -> EventId:
    event = IncomingEvent(
        id=new_event_id(at, secrets.token_bytes(10)),
        connection_id=connection_id,
        vendor="intakeq",
        source=EventSource.WEBHOOK,
        headers=(),
        body=b"{}",
        parked_reason="test" if parked else None,
    )
    await queue.store([event])
    if not parked:
        async with queue.database.transaction() as session:
            await finish(session, [Finished(event.id, Outcome.APPLIED)], at)
    return event.id


async def kept(database: asyncpg.Connection, table: str) -> set[str]:
    column = {"events": "id", "event_history": "event_id"}[table]
    return {str(row[0]) for row in await database.fetch(f"SELECT {column} FROM {table}")}  # noqa: S608  # two literals


async def test_weeks_are_made_once_each_for_both_tables(retention: Retention) -> None:
    assert await retention.ensure_partitions(MONDAY, MONDAY + 2 * WEEK) == 4
    assert await retention.ensure_partitions(MONDAY, MONDAY + 2 * WEEK) == 0
    assert await retention.ensure_partitions(MONDAY + timedelta(days=13), MONDAY + 2 * WEEK + timedelta(seconds=1)) == 2
    assert await retention.covered_until() == MONDAY + 3 * WEEK


async def test_an_event_without_a_partition_is_refused_not_lost(
    queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    with pytest.raises(Exception, match="PostgreSQL refused"):
        await stored(queue, connection_ids[0], MONDAY)
    assert await database.fetchval("SELECT count(*) FROM event_queue") == 0


async def test_only_whole_weeks_that_ended_before_the_time_are_dropped(
    retention: Retention, queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    await retention.ensure_partitions(MONDAY, MONDAY + 2 * WEEK)
    first = await stored(queue, connection_ids[0], MONDAY)
    second = await stored(queue, connection_ids[0], MONDAY + WEEK)
    last_moment = MONDAY + WEEK - timedelta(milliseconds=1)
    await retention.remove_expired(raw_before=last_moment, history_before=LONG_AGO)
    assert await kept(database, "events") == {str(first), str(second)}
    await retention.remove_expired(raw_before=MONDAY + WEEK, history_before=LONG_AGO)
    assert await kept(database, "events") == {str(second)}
    assert await kept(database, "event_history") == {str(first), str(second)}


async def test_a_week_with_a_parked_event_keeps_its_raw_body_and_nothing_else(
    retention: Retention, queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    await retention.ensure_partitions(MONDAY, MONDAY + WEEK)
    await stored(queue, connection_ids[0], MONDAY)
    parked = await stored(queue, connection_ids[0], MONDAY, parked=True)
    for _ in range(2):
        await retention.remove_expired(raw_before=MONDAY + WEEK, history_before=LONG_AGO)
        assert await kept(database, "events") == {str(parked)}
    await queue.park([Parked(parked, "again")])
    async with queue.database.transaction() as session:
        await finish(session, [Finished(parked, Outcome.APPLIED)], MONDAY)
    assert await retention.remove_expired(raw_before=MONDAY + WEEK, history_before=LONG_AGO) >= 1
    assert await kept(database, "events") == set()
    assert str(parked) in await kept(database, "event_history")


async def test_history_goes_after_a_time_of_its_own(
    retention: Retention, queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    await retention.ensure_partitions(MONDAY, MONDAY + WEEK)
    event_id = await stored(queue, connection_ids[0], MONDAY)
    await retention.remove_expired(raw_before=LONG_AGO, history_before=MONDAY + WEEK)
    assert await kept(database, "event_history") == set()
    assert await kept(database, "events") == {str(event_id)}


async def test_while_someone_reads_for_long_weeks_are_made_nothing_is_dropped_and_the_door_stays_open(
    retention: Retention, queue: EventQueue, database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    await retention.ensure_partitions(MONDAY, MONDAY + WEEK)
    await stored(queue, connection_ids[0], MONDAY)
    async with database.transaction():
        await database.fetch("SELECT count(*) FROM events")
        assert await retention.ensure_partitions(MONDAY, MONDAY + 2 * WEEK) == 2
        assert await retention.remove_expired(raw_before=MONDAY + WEEK, history_before=LONG_AGO) == 0
        await stored(queue, connection_ids[0], MONDAY)
        await stored(queue, connection_ids[0], MONDAY + WEEK)
