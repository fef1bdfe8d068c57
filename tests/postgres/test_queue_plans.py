"""How the hot statements find their rows: by index, few at a time, however much has gathered and the planner knows.

Every statement runs in tables of a hundred thousand rows and more. The planner has statistics of these tables, or of
the time when they were nearly empty, as just after a burst; and plans with the arguments known, or for any arguments,
as PostgreSQL does once a session has run a statement some times.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from eventsync.domain.events import EventId, Outcome
from eventsync.postgres.json_rows import json_rows
from eventsync.postgres.queue import SQL
from eventsync.postgres.queue_values import Finished, Parked, RefetchWork
from eventsync.postgres.record_rows import APPOINTMENTS, DOCUMENTS, PATIENTS
from eventsync.postgres.records import SQL as RECORDS
from servers.postgres import DatabaseServer

NOW = datetime.now(UTC).replace(microsecond=0)
CONNECTION = "00000000-0000-4000-8000-000000000001"
ROWS = 100_000
WEEKS = 8
BATCH = 100
PUBLISHED = 6_000
LANES = (["apply", "apply", "refetch", "refetch"], [0, 1, 0, 1], [PUBLISHED + 600, 600, 50, 10])
FEW_ROWS = 10_000  # what a single part of a plan may look at: the window in flight, not a table

# $1 and $2: the first number and the one after the last; $3: now. The queue holds events of the last week: pending,
# published ($4 of them), waiting for a refetch, parked; all other tables know the weeks before.
_FILL = (
    """INSERT INTO events (id, received_at, connection_id, vendor, source, headers_sealed, body_sealed, body_bytes)
    SELECT pg_temp.id_of(n), pg_temp.at($3, n), '00000000-0000-4000-8000-000000000001', 'intakeq', 'webhook', 'h',
           repeat('x', 200)::bytea, 200
    FROM generate_series($1::int, $2::int - 1) n, (SELECT $4::int) unused""",
    """INSERT INTO event_queue (event_id, received_at, connection_id, vendor, source, available_at, status,
                                published_at, work, entity_kind, entity_id, reason, lane)
    SELECT pg_temp.id_of(n), pg_temp.at($3, n), '00000000-0000-4000-8000-000000000001', 'intakeq', 'webhook',
           pg_temp.at($3, n), s.status, pg_temp.at($3, n), CASE WHEN n % 10 = 9 THEN 'refetch' ELSE 'apply' END, 'note',
           n::text, CASE WHEN s.status = 'parked' THEN 'not_understood' END, CASE WHEN n % 20 = 1 THEN 1 ELSE 0 END
    FROM generate_series($1::int, $2::int - 1) n, LATERAL (
        SELECT CASE WHEN n < $4::int THEN 'published' WHEN n % 4 = 2 THEN 'parked' ELSE 'pending' END
    ) s(status)""",
    """INSERT INTO event_history (event_id, received_at, connection_id, vendor, source, entity_kind, entity_id, outcome,
                                  attempts, finished_at)
    SELECT pg_temp.id_of(n + 1000000), pg_temp.at($3, n), '00000000-0000-4000-8000-000000000001', 'intakeq', 'webhook',
           'appointment', n::text, 'applied', 1, $3
    FROM generate_series($1::int, $2::int - 1) n, (SELECT $4::int) unused""",
    """INSERT INTO appointments (id, connection_id, external_id, patient_id, client_external_id, status, vendor_status,
                                 start_time, end_time, version, source_version, content_hash, changed_at, created_at,
                                 updated_at)
    SELECT pg_temp.id_of(n), '00000000-0000-4000-8000-000000000001', n::text, pg_temp.id_of(n), n::text, 'confirmed',
           'Confirmed', $3, $3, '\\x01', $3, '\\x01', $3, $3, $3
    FROM generate_series($1::int, $2::int - 1) n, (SELECT $4::int) unused""",
    """INSERT INTO patients (id, organization_id, first_name, last_name, email, origin)
    SELECT pg_temp.id_of(n), o.id, 'Test', 'Client ' || n, 'client' || n || '@example.test', 'vendor'
    FROM generate_series($1::int, $2::int - 1) n, organizations o, (SELECT $3::timestamptz, $4::int) unused""",
    """INSERT INTO patient_identities (connection_id, external_id, patient_id, first_name, last_name, email, version,
                                       content_hash, changed_at, created_at, updated_at)
    SELECT '00000000-0000-4000-8000-000000000001', n::text, pg_temp.id_of(n), 'Test', 'Client ' || n,
           'client' || n || '@example.test', '\\x01', '\\x01', $3, $3, $3
    FROM generate_series($1::int, $2::int - 1) n, (SELECT $4::int) unused""",
    """INSERT INTO local_patients (patient_id, organization_id, first_name, last_name, email, created_at)
    SELECT pg_temp.id_of(n), o.id, 'Test', 'Client ' || n, 'client' || n || '@example.test', $3
    FROM generate_series($1::int, $2::int - 1) n, organizations o, (SELECT $4::int) unused""",
    """INSERT INTO documents (id, connection_id, kind, external_id, version, content_hash, changed_at, created_at,
                              updated_at)
    SELECT pg_temp.id_of(n), '00000000-0000-4000-8000-000000000001', 'note', n::text, '\\x01', '\\x01', $3, $3, $3
    FROM generate_series($1::int, $2::int - 1) n, (SELECT $4::int) unused""",
    """INSERT INTO change_outbox (connection_id, kind, record_id, external_id, position, deleted, created_at)
    SELECT '00000000-0000-4000-8000-000000000001', 'appointment', pg_temp.id_of(n), n::text, n, false, $3
    FROM generate_series($1::int, $2::int - 1) n, (SELECT $4::int) unused""",
    """INSERT INTO record_absences SELECT '00000000-0000-4000-8000-000000000001', 'appointment', n::text, $3, $3, $3, 0
    FROM generate_series($1::int, $2::int - 1) n, (SELECT $4::int) unused""",
    """INSERT INTO record_reads SELECT '00000000-0000-4000-8000-000000000001', 'note', n::text, 1, '-infinity'
    FROM generate_series($1::int, $2::int - 1) n, (SELECT $3::timestamptz, $4::int) unused""",
)
_BEGIN = f"""
SELECT ensure_event_partitions(now() - interval '{WEEKS + 1} weeks', now());
INSERT INTO organizations (name) VALUES ('Test Clinic');
INSERT INTO connections (id, organization_id, vendor, base_url, api_key_sealed)
SELECT '{CONNECTION}', id, 'intakeq', 'http://127.0.0.1:9', 'sealed' FROM organizations;
CREATE FUNCTION pg_temp.id_of(n bigint) RETURNS uuid LANGUAGE sql
    RETURN ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid;
CREATE FUNCTION pg_temp.at(now timestamptz, n int) RETURNS timestamptz LANGUAGE sql
    RETURN now - interval '{WEEKS} weeks' * n / {ROWS};
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = off)', name);
    END LOOP;
END $$;
"""  # noqa: S608  # constants of this file


def event_id(number: int) -> EventId:
    """Name an event as the statements above do."""
    return EventId(uuid.UUID(f"00000000-0000-7000-8000-{number:012x}"))


PENDING = [event_id(n) for n in range(PUBLISHED, PUBLISHED + 3 * BATCH) if n % 4 != 2 and n % 10 != 9][:BATCH]
ON_THE_BUS = [event_id(n) for n in range(2 * BATCH) if n % 10 != 9][:BATCH]
TO_READ = event_id(PUBLISHED + 9)  # pending, and due to be refetched
KEYS = ([CONNECTION] * BATCH, [str(n) for n in range(BATCH)])
KIND_KEYS = (KEYS[0], ["note"] * BATCH, KEYS[1])


@pytest.fixture(scope="module")
def grown_urls(postgres_server: DatabaseServer) -> Iterator[dict[str, str]]:
    """Two databases where much has gathered, by what the planner knows of them: `stale` and `fresh` statistics."""
    with asyncio.Runner() as runner:
        opened = _grown(postgres_server)
        yield runner.run(anext(opened))
        runner.run(opened.aclose())


async def _grown(server: DatabaseServer) -> AsyncGenerator[dict[str, str]]:
    async with server.database(migrated=True) as stale, connected(server.url) as admin:
        async with connected(stale) as filling:
            await _fill(filling)
        fresh = server.url_of("plans_fresh")
        await admin.execute(f'CREATE DATABASE plans_fresh TEMPLATE "{urlsplit(stale).path.strip("/")}"')
        try:
            async with connected(fresh) as analyzing:
                await analyzing.execute("ANALYZE")
            yield {"stale": stale, "fresh": fresh}
        finally:
            await admin.execute("DROP DATABASE plans_fresh WITH (FORCE)")


async def _fill(connection: asyncpg.Connection) -> None:
    """Fill the tables, of which nobody takes statistics after their first thousand rows."""
    await connection.execute(_BEGIN)
    for begin, end in ((0, 1000), (1000, ROWS)):
        for statement in _FILL:
            await connection.execute(statement, begin, end, NOW, PUBLISHED)
        if begin == 0:
            await connection.execute("ANALYZE")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection for the block."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def plan_of(url: str, sql: str, arguments: Sequence[Any], *, is_generic: bool) -> list[dict[str, Any]]:
    """Run a statement, which is undone; answer the parts of its plan that were executed."""
    async with connected(url) as connection:
        await connection.execute(f"PREPARE probe AS {sql}")
        await connection.execute(f"SET plan_cache_mode = force_{'generic' if is_generic else 'custom'}_plan")
        given = [await connection.fetchval("SELECT quote_nullable($1)", as_text(value)) for value in arguments]
        call = f"EXECUTE probe({', '.join(given)})"
        await connection.execute("BEGIN")  # and never a COMMIT
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, FORMAT JSON) {call}")
    return [part for part in parts_of(json.loads(explained)[0]["Plan"]) if part["Actual Loops"]]


def as_text(value: Any) -> str | None:
    """Write an argument as PostgreSQL reads it."""
    if isinstance(value, list):
        return "{" + ",".join(f'"{as_text(item)}"' for item in value) + "}"
    if isinstance(value, datetime):
        return value.isoformat()
    return None if value is None else str(value)


def parts_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Walk a plan's nodes."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from parts_of(part)


def rows_looked_at(part: dict[str, Any]) -> float:
    """Count the rows that a node gave or threw away, over all its loops."""
    removed = sum(count for name, count in part.items() if name.startswith("Rows Removed"))
    return float((part["Actual Rows"] + removed) * part["Actual Loops"])


def _finished() -> str:
    return json_rows([Finished(event_id, Outcome.APPLIED) for event_id in ON_THE_BUS])


def _stored() -> list[Any]:
    ids = [event_id(10_000_000 + n) for n in range(BATCH)]
    texts = [[word] * BATCH for word in ("intakeq", "webhook")]
    blobs = [["\\x00"] * BATCH] * 2
    return [ids, [NOW] * BATCH, KEYS[0], *texts, [str(ids[0])] * BATCH, *blobs, [1] * BATCH, [0] * BATCH, ["x"] * BATCH]


HOT: dict[str, tuple[str, Sequence[Any]]] = {
    "store": (SQL.store, _stored()),
    "claim_due": (SQL.claim_due, [*LANES, NOW, 500]),
    "mark_published": (SQL.mark_published, [PENDING, NOW]),
    "next_due": (SQL.next_due, LANES),
    "begin_attempts": (SQL.begin_attempts, [ON_THE_BUS, [], NOW, False]),
    "begin_attempts of released ones": (SQL.begin_attempts, [ON_THE_BUS, ON_THE_BUS, NOW, False]),
    "finish": (SQL.finish, [_finished(), NOW]),
    "park": (SQL.park, [json_rows([Parked(each, "not_understood") for each in ON_THE_BUS])]),
    "hand_to_refetch": (
        SQL.hand_to_refetch,
        [json_rows([RefetchWork(each, "Note Locked", "note", "n") for each in ON_THE_BUS]), NOW],
    ),
    "retry_later": (SQL.retry_later, [ON_THE_BUS, NOW + timedelta(hours=1), "TimeoutError", True, NOW]),
    "lease_refetch": (SQL.lease_refetch, [TO_READ, NOW, NOW + timedelta(minutes=5), False]),
    "end_read": (SQL.end_read, [CONNECTION, "note", "9", 1]),
    "covered_by_read": (SQL.covered_by_read, [CONNECTION, "note", "9", "1:1:", TO_READ]),
    "defer": (SQL.defer, [ON_THE_BUS[0], NOW, NOW]),
    "count_dead_letter": (SQL.count_dead_letter, [ON_THE_BUS[0], NOW]),
    "take_news": (RECORDS.take_news, [500]),
    "load_absences": (RECORDS.load_absences, KIND_KEYS),
    "load appointments": (APPOINTMENTS.load, KEYS),
    "load patients": (PATIENTS.load, KEYS),
    "load documents": (DOCUMENTS.load, KIND_KEYS),
    "project patients": (PATIENTS.project, [*KEYS, NOW]),
}
"""Statements that run for every batch, with a batch's arguments."""

WRITES = {
    "insert appointments": (APPOINTMENTS.insert, "appointments", "'new' || t.external_id"),
    "update appointments": (APPOINTMENTS.update, "appointments", "t.external_id"),
    "insert patients": (PATIENTS.insert, "patient_identities", "'new' || t.external_id"),
    "update patients": (PATIENTS.update, "patient_identities", "t.external_id"),
    "insert documents": (DOCUMENTS.insert, "documents", "'new' || t.external_id"),
    "update documents": (DOCUMENTS.update, "documents", "t.external_id"),
    "insert_news": (RECORDS.insert_news, "change_outbox", "t.external_id"),
}
"""Statements that write the rows of a batch: those of a table, under these ids."""

SITUATIONS = [(statistics, is_generic) for statistics in ("fresh", "stale") for is_generic in (False, True)]
every_situation = pytest.mark.parametrize(
    ("statistics", "is_generic"),
    SITUATIONS,
    ids=[f"{statistics}-{'generic' if is_generic else 'custom'}" for statistics, is_generic in SITUATIONS],
)


def assert_looks_at_few(plan: Sequence[dict[str, Any]]) -> None:
    for part in plan:
        if part["Node Type"] == "Seq Scan":
            assert part["Relation Name"] in {"connections", "organizations"}, part
        assert rows_looked_at(part) <= FEW_ROWS, part


@every_situation
@pytest.mark.parametrize("name", HOT)
async def test_a_hot_statement_looks_at_few_rows(
    grown_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, arguments = HOT[name]
    assert_looks_at_few(await plan_of(grown_urls[statistics], sql, arguments, is_generic=is_generic))


@every_situation
@pytest.mark.parametrize("name", WRITES)
async def test_a_batch_is_written_by_its_keys(
    grown_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, table, external_id = WRITES[name]
    rows = await batch_of(grown_urls[statistics], table, external_id)
    assert_looks_at_few(await plan_of(grown_urls[statistics], sql, [rows, NOW], is_generic=is_generic))


async def batch_of(url: str, table: str, external_id: str) -> str:
    """Take some rows of a table as JSON, as the writer brings them, with the ids that an expression gives."""
    async with connected(url) as connection:
        rows: str = await connection.fetchval(
            f"SELECT jsonb_agg(to_jsonb(t) || jsonb_build_object('external_id', {external_id}) "  # noqa: S608  # ours
            f"|| CASE WHEN to_jsonb(t) ? 'id' AND {external_id} <> t.external_id"
            f" THEN jsonb_build_object('id', gen_random_uuid()) ELSE '{{}}' END)::text"
            f" FROM (SELECT * FROM {table} LIMIT {BATCH}) t"
        )
    return rows


@every_situation
async def test_due_events_are_claimed_in_the_order_of_their_index(
    grown_urls: dict[str, str], statistics: str, is_generic: bool
) -> None:
    plan = await plan_of(grown_urls[statistics], *HOT["claim_due"], is_generic=is_generic)
    assert "event_queue_due" in {part.get("Index Name") for part in plan}
    assert "Sort" not in {part["Node Type"] for part in plan}


@every_situation
async def test_attempts_open_bodies_in_the_events_own_partitions(
    grown_urls: dict[str, str], statistics: str, is_generic: bool
) -> None:
    plan = await plan_of(grown_urls[statistics], *HOT["begin_attempts"], is_generic=is_generic)
    partitions = {name for part in plan if (name := part.get("Relation Name", "")).startswith("events_")}
    assert 1 <= len(partitions) <= 2  # a batch may lie across the turn of a week
