"""How the hot statements find their rows: by index, and in the partitions concerned only, however long the history."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.events import EventId, Outcome, new_event_id
from eventsync.postgres.json_rows import json_rows
from eventsync.postgres.queue import SQL, Finished

NOW = datetime.now(UTC).replace(microsecond=0)
WEEKS = 8
EVENTS_A_WEEK = 3000
LANES = (["apply", "apply", "refetch", "refetch"], [0, 1, 0, 1], [6000, 600, 50, 10])


@pytest.fixture
async def grown(database: asyncpg.Connection, connection_ids: list[ConnectionId]) -> list[EventId]:
    """A database with two months of events, of which those of the last days are unfinished; answers a batch's ids."""
    await database.execute("SELECT ensure_event_partitions($1, $2)", NOW - timedelta(weeks=WEEKS + 1), NOW)
    times = [NOW - timedelta(weeks=week, seconds=number) for week in range(WEEKS) for number in range(EVENTS_A_WEEK)]
    ids = [new_event_id(at, secrets.token_bytes(10)) for at in times]
    await database.execute(
        "INSERT INTO events SELECT i, t, $3, 'intakeq', 'webhook', NULL, 'headers', repeat('x', 200)::bytea, 200"
        " FROM unnest($1::uuid[], $2::timestamptz[]) AS g(i, t)",
        ids,
        times,
        connection_ids[0],
    )
    await database.execute(
        "INSERT INTO event_queue (event_id, received_at, connection_id, vendor, source, available_at, status,"
        " published_at, work, entity_kind, entity_id)"
        " SELECT i, t, $3, 'intakeq', 'webhook', t, CASE WHEN n % 3 = 0 THEN 'published' ELSE 'pending' END, t,"
        " CASE WHEN n % 10 = 9 THEN 'refetch' ELSE 'apply' END, 'note', n::text"
        " FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS g(i, t, n)",
        ids[:EVENTS_A_WEEK],
        times[:EVENTS_A_WEEK],
        connection_ids[0],
    )
    await database.execute("ANALYZE")
    return ids[:100]


async def plan_of(database: asyncpg.Connection, sql: str, *arguments: Any) -> str:
    """Run a statement, and answer how it went."""
    rows = await database.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) {sql}", *arguments)
    return "\n".join(row[0] for row in rows if "never executed" not in row[0])


async def test_attempts_begin_by_index_and_in_the_events_own_partitions(
    database: asyncpg.Connection, grown: list[EventId]
) -> None:
    plan = await plan_of(database, SQL.begin_attempts, grown, [], NOW, False)  # a statement's argument
    assert "event_queue_pkey" in plan
    assert "Seq Scan" not in plan
    partitions = {line.split(" on ")[1].split()[0] for line in plan.splitlines() if " on events_" in line}
    assert 1 <= len(partitions) <= 2  # a batch may lie across the turn of a week


async def test_events_end_by_index(database: asyncpg.Connection, grown: list[EventId]) -> None:
    ended = json_rows([Finished(event_id, Outcome.APPLIED) for event_id in grown])
    plan = await plan_of(database, SQL.finish, ended, NOW)
    assert "event_queue_pkey" in plan
    assert "Seq Scan" not in plan


async def test_due_events_are_claimed_in_the_order_of_their_index(
    database: asyncpg.Connection, grown: list[EventId]
) -> None:
    plan = await plan_of(database, SQL.claim_due, *LANES, NOW, 500)
    assert "Index Scan using event_queue_due" in plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan


async def test_what_a_read_answers_is_found_by_its_record(
    database: asyncpg.Connection, grown: list[EventId], connection_ids: list[ConnectionId]
) -> None:
    snapshot = await database.fetchval("SELECT pg_current_snapshot()::text")
    plan = await plan_of(database, SQL.covered_by_read, connection_ids[0], "note", "9", snapshot, grown[8])
    assert "event_queue_refetches" in plan
    assert "Seq Scan" not in plan
