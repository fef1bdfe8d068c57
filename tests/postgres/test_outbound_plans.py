"""How the outbound queue's statements find their rows: by index, a few at a time, however much has gathered.

Plans are made for the very arguments or for any, with statistics of the full table or of the time when it was nearly
empty. What a claim costs is told by the pages that it touches.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.postgres.database import Database
from eventsync.postgres.outbound import SQL, OutboundQueue
from postgres.outbound_items import LEASE
from postgres.test_queue_plans import as_text, connected, every_situation, parts_of, rows_looked_at
from servers.postgres import DatabaseServer

NOW = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
CONNECTION = UUID("00000000-0000-4000-8000-000000000001")
SUCCESSES, WAITING, IN_BACKOFF, FAILED, BEHIND = 200_000, 20_000, 10_000, 5_000, 2_000
AT_FIRST = 1_000
BUSY, CROWDED, COLLAPSING = "plenura_busy", "plenura_crowded", "plenura_collapsing"

# Organization n has ten successes, the last of which carried the others; every second one waits for its retry, the
# others are due. The crowded one waits with 2,000 updates, older than all others, behind a register in backoff. The
# collapsing one has as many, which are due; others have five failed items each.
_BEGIN = f"""
INSERT INTO organizations (name) VALUES ('Test Clinic');
INSERT INTO connections (id, organization_id, vendor, base_url, api_key_sealed)
SELECT '{CONNECTION}', id, 'colectiva', 'http://127.0.0.1:9', 'sealed' FROM organizations;
ALTER TABLE ecosystem_sync_queue SET (autovacuum_enabled = off);
ALTER TABLE ecosystem_sync_attempts SET (autovacuum_enabled = off);
CREATE FUNCTION pg_temp.id_of(what int, n bigint) RETURNS uuid LANGUAGE sql
    RETURN ('0000000' || what || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid;
"""  # noqa: S608  # constants of this file
_FILL = (
    """INSERT INTO ecosystem_sync_queue (id, entity_type, entity_id, ecosystem_org_id, action, payload, status,
                                         attempts, created_at, processed_at, accepted_at, reached_at,
                                         superseded_by)
    SELECT pg_temp.id_of(1, n), 'practice', pg_temp.id_of(1, n / 10), 'plenura_' || n / 10,
           CASE WHEN n % 10 = 0 THEN 'register' ELSE 'update' END, '{"organization_name": "Test Practice"}',
           'success', 1, $3::timestamptz - interval '9 days', $3::timestamptz - interval '8 days',
           CASE WHEN n % 10 IN (0, 9) THEN $3::timestamptz - interval '8 days' END,
           CASE WHEN n % 10 IN (0, 9) THEN $3::timestamptz - interval '8 days' END,
           CASE WHEN n % 10 NOT IN (0, 9) THEN pg_temp.id_of(1, n / 10 * 10 + 9) END
    FROM generate_series($1::int * 10, $2::int * 10 - 1) n""",
    """INSERT INTO ecosystem_sync_queue (id, entity_type, entity_id, ecosystem_org_id, action, payload, status,
                                         attempts, created_at, available_at, error_message)
    SELECT pg_temp.id_of(2, n), 'practice', pg_temp.id_of(1, n), 'plenura_' || n, 'update',
           '{"organization_name": "Test Practice"}', 'pending', n % 2,
           $3::timestamptz - interval '1 hour' + n * interval '1 ms',
           CASE WHEN n % 2 = 1 THEN $3::timestamptz + n * interval '10 ms' END, CASE WHEN n % 2 = 1 THEN 'HTTP 503' END
    FROM generate_series($1::int, $2::int - 1) n""",
    """INSERT INTO ecosystem_sync_queue (id, entity_type, entity_id, ecosystem_org_id, action, payload, status,
                                         attempts, created_at, processed_at)
    SELECT pg_temp.id_of(3, n), 'practice', pg_temp.id_of(1, n), 'plenura_failed_' || n / 5, 'register', '{}',
           'failed', 3, $3::timestamptz - interval '9 days', $3::timestamptz - interval '8 days'
    FROM generate_series($1::int / 4, $2::int / 4 - 1) n""",
    """INSERT INTO ecosystem_sync_attempts (item_id, attempt, is_counted, started_at, ended_at, http_status)
    SELECT pg_temp.id_of(1, n * 10 + 9), 1, true, $3, $3, 200 FROM generate_series($1::int, $2::int - 1) n""",
)
_CROWDED = """
INSERT INTO ecosystem_sync_queue (entity_type, entity_id, ecosystem_org_id, action, payload, attempts, created_at,
                                  available_at)
VALUES ('practice', gen_random_uuid(), 'plenura_crowded', 'register', '{}', 1, $1::timestamptz - interval '1 day',
        $1::timestamptz + interval '1 min');
"""
_FOLLOWERS = """
INSERT INTO ecosystem_sync_queue (id, entity_type, entity_id, ecosystem_org_id, action, payload, created_at)
SELECT CASE WHEN n = $2::int AND o.name = 'plenura_collapsing' THEN '00000000-0000-7000-9000-000000000009'::uuid
            ELSE gen_random_uuid() END, 'practice', gen_random_uuid(), o.name, 'update', '{}',
       $1::timestamptz + CASE o.name WHEN 'plenura_crowded' THEN interval '-1 day' ELSE interval '-1 ms' END
FROM unnest(ARRAY['plenura_crowded', 'plenura_collapsing']) o(name), generate_series(1, $2::int) n;
"""
_ON_ITS_WAY = """
INSERT INTO ecosystem_sync_queue (id, entity_type, entity_id, ecosystem_org_id, action, payload, status, attempts,
                                  last_attempt_at, claim_id, leased_until)
SELECT ('00000000-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid, 'practice', gen_random_uuid(),
       CASE n WHEN 1 THEN 'plenura_busy' ELSE 'plenura_busy_' || n END, 'register', '{}', 'processing', 1, $1,
       '00000000-0000-4000-8000-000000000009', $1::timestamptz + interval '1 min'
FROM generate_series(1, 4) n;
"""
_HOLD_BACK = (SQL.hold_back, NOW, 1000)
FLYING = [UUID(f"00000000-0000-7000-9000-{n:012}") for n in range(1, 5)]
CLAIM = UUID("00000000-0000-4000-8000-000000000009")
LAST_OF_CROWD = UUID("00000000-0000-7000-9000-000000000009")
LAST_DUE = UUID(f"00000002-0000-7000-8000-{WAITING - 2:012x}")


@pytest.fixture(scope="module")
def full_urls(postgres_server: DatabaseServer) -> Iterator[dict[str, str]]:
    """Databases with a full queue, by what the planner knows of it: `stale` and `fresh` statistics.

    In `stale behind a crowd` and `fresh behind a crowd` nobody has held the crowd back yet.
    """
    with asyncio.Runner() as runner:
        opened = _full(postgres_server)
        yield runner.run(anext(opened))
        runner.run(opened.aclose())


async def _full(server: DatabaseServer) -> AsyncGenerator[dict[str, str]]:
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(connected(server.url))
        crowded = await stack.enter_async_context(server.database(migrated=True))
        async with connected(crowded) as filling:
            await _fill(filling)
        stale = await stack.enter_async_context(_copied(server, admin, crowded, "outbound_stale"))
        async with connected(stale) as holding:
            while await holding.execute(*_HOLD_BACK) != "UPDATE 0":
                continue
        urls = {"stale behind a crowd": crowded, "stale": stale}
        for name, url in tuple(urls.items()):
            fresh = name.replace("stale", "fresh")
            urls[fresh] = await stack.enter_async_context(
                _copied(server, admin, url, f"outbound_{fresh.replace(' ', '_')}")
            )
            async with connected(urls[fresh]) as analyzing:
                await analyzing.execute("VACUUM (ANALYZE)")
        yield urls


@asynccontextmanager
async def _copied(server: DatabaseServer, admin: asyncpg.Connection, url: str, name: str) -> AsyncIterator[str]:
    template = urlsplit(url).path.strip("/")
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
    try:
        yield server.url_of(name)
    finally:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def _fill(connection: asyncpg.Connection) -> None:
    await connection.execute(_BEGIN)
    for begin, end in ((0, AT_FIRST), (AT_FIRST, WAITING)):
        for statement in _FILL:
            await connection.execute(statement, begin, end, NOW)
        if begin == 0:
            await connection.execute("ANALYZE")
    await connection.execute(_CROWDED, NOW)
    await connection.execute(_FOLLOWERS, NOW, BEHIND)
    await connection.execute(_ON_ITS_WAY, NOW)


Statements = Mapping[str, tuple[str, Sequence[Any]]]

HOT: Statements = {
    "find_account": (SQL.find_account, [CONNECTION, NOW]),
    "begin_probe": (SQL.begin_probe, [CONNECTION, NOW, NOW]),
    "next_head": (SQL.next_head, [NOW, []]),
    "next_head beside busy ones": (SQL.next_head, [NOW + timedelta(days=1), [BUSY, COLLAPSING]]),
    "lock_organization": (SQL.lock_organization, ["plenura_7"]),
    "last_reached": (SQL.last_reached, ["plenura_7"]),
    "last_reached of none": (SQL.last_reached, [CROWDED]),
    "put_back": (SQL.put_back, [FLYING[0]]),
    "supersede": (SQL.supersede, [[LAST_DUE], FLYING[0], NOW]),
    "claim": (SQL.claim, [LAST_DUE, CLAIM, NOW, NOW, NOW]),
    "succeed": (SQL.succeed, [FLYING[0], CLAIM, NOW, "remote-1"]),
    "fail": (SQL.fail, [FLYING[0], CLAIM, NOW, "HTTP 400", False]),
    "put_off": (SQL.put_off, [FLYING[0], CLAIM, NOW, "HTTP 503", 0, NOW]),
    "note_attempt": (SQL.note_attempt, [FLYING[0], CLAIM, 1, True, NOW, NOW, 200, None]),
    "find_end": (SQL.find_end, [FLYING[0], CLAIM]),
    "pause": (SQL.pause, [CONNECTION, "HTTP 401", NOW, NOW]),
    "resume": (SQL.resume, [CONNECTION]),
    "find_stuck": (SQL.find_stuck, [NOW + timedelta(days=1)]),
    "return_stuck": (SQL.return_stuck, [FLYING, NOW, 3, "died"]),
    "next_due": (SQL.next_due, [NOW]),
    "oldest_waiting": (SQL.oldest_waiting, []),
    "list_pauses": (SQL.list_pauses, []),
}
"""What runs for every attempt, or every few seconds: a few rows, by index."""

HELD_AT_ONCE = 1_000
CROWDS: Statements = {
    "next_head behind a crowd": (SQL.next_head, [NOW, []]),
    "hold_back": (SQL.hold_back, [NOW, HELD_AT_ONCE]),
    "lock_organization of a crowd": (SQL.lock_organization, [CROWDED]),
    "claim of the last of a crowd": (SQL.claim, [LAST_OF_CROWD, CLAIM, NOW, NOW, NOW]),
    "preview": (SQL.preview, [10]),
}
"""What looks at a crowd that waits behind one item, once."""

COUNTS: Statements = {
    "count_unfinished": (SQL.count_unfinished, []),
    "count_failed": (SQL.count_failed, []),
}
"""What counts all that is unfinished or failed, from an index, once a scrape."""

_FEW = 500
MOST_PAGES = 250  # a claim and its end take 110, a walk over a crowd of 2,000 takes more than 8,000
_WITHOUT_ROWS = {SQL.lock_claims}


def test_every_statement_of_the_queue_is_guarded() -> None:
    every = {getattr(SQL, name) for name in SQL.__dataclass_fields__}
    guarded = {sql for statements in (HOT, CROWDS, COUNTS) for sql, _ in statements.values()}
    assert every <= guarded | _WITHOUT_ROWS


async def plan_of(url: str, sql: str, arguments: Sequence[Any], *, is_generic: bool) -> list[dict[str, Any]]:
    """Run a statement, which is undone; answer the parts of its plan that were executed."""
    async with connected(url) as connection:
        await connection.execute(f"PREPARE probe AS {sql}")
        await connection.execute(f"SET plan_cache_mode = force_{'generic' if is_generic else 'custom'}_plan")
        given = [await connection.fetchval("SELECT quote_nullable($1)", as_text(value)) for value in arguments]
        call = f"EXECUTE probe({', '.join(given)})" if given else "EXECUTE probe"
        await connection.execute("BEGIN")  # and never a COMMIT
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS, FORMAT JSON) {call}")
    return [part for part in parts_of(json.loads(explained)[0]["Plan"]) if part["Actual Loops"]]


def assert_no_queue_is_read_through(plan: Sequence[dict[str, Any]], most: float) -> None:
    assert plan
    for part in plan:
        if part["Node Type"] == "Seq Scan":
            assert part["Relation Name"] in {"connections", "organizations", "outbound_pauses"}, part
        assert rows_looked_at(part) <= most, part


@every_situation
@pytest.mark.parametrize("name", HOT)
async def test_what_runs_often_looks_at_few_rows(
    full_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, arguments = HOT[name]
    plan = await plan_of(full_urls[statistics], sql, arguments, is_generic=is_generic)
    assert_no_queue_is_read_through(plan, _FEW)


@every_situation
@pytest.mark.parametrize("name", CROWDS)
async def test_a_crowd_is_looked_at_once(
    full_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, arguments = CROWDS[name]
    plan = await plan_of(full_urls[f"{statistics} behind a crowd"], sql, arguments, is_generic=is_generic)
    # Twice over the crowd, and over what the probes before it have changed and undone: a bitmap's scan counts that too.
    assert_no_queue_is_read_through(plan, 2 * BEHIND + 4 * HELD_AT_ONCE)


@every_situation
@pytest.mark.parametrize("name", COUNTS)
async def test_what_is_counted_is_counted_from_an_index(
    full_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, arguments = COUNTS[name]
    plan = await plan_of(full_urls[statistics], sql, arguments, is_generic=is_generic)
    assert_no_queue_is_read_through(plan, WAITING + 2 * BEHIND + 10)


@pytest.mark.parametrize("statistics", ["fresh", "stale"])
async def test_a_delivery_from_a_full_queue_touches_few_pages(full_urls: dict[str, str], statistics: str) -> None:
    async with delivering(full_urls[statistics]) as delivery:
        await delivery.make(10)  # then plans are for any arguments
        assert await delivery.pages_touched_by(50) < MOST_PAGES


@pytest.mark.parametrize("statistics", ["fresh", "stale"])
async def test_a_crowd_in_front_costs_the_first_deliveries_only(full_urls: dict[str, str], statistics: str) -> None:
    async with delivering(full_urls[f"{statistics} behind a crowd"]) as delivery:
        await delivery.make(10)
        held = "SELECT count(*) FROM ecosystem_sync_queue WHERE held_until IS NOT NULL"
        assert await delivery.observer.fetchval(held) == BEHIND
        assert await delivery.pages_touched_by(50) < MOST_PAGES


class Delivery:
    """A deliverer whose attempts are all accepted, on one session."""

    def __init__(self, pool: Database, observer: asyncpg.Connection) -> None:
        self._pool = pool
        self.observer = observer

    async def make(self, times: int) -> None:
        queue = OutboundQueue(self._pool)
        for _ in range(times):
            claim = await queue.claim(ConnectionId(CONNECTION), NOW, NOW + LEASE)
            assert claim is not None
            assert claim.item.ecosystem_org_id != CROWDED
            assert await queue.succeed(claim, None, 200, NOW) is not None

    async def pages_touched_by(self, times: int) -> float:
        """Count the pages of the queue and its indexes that a delivery touches."""
        before = await self._pages_touched()
        await self.make(times)
        return (await self._pages_touched() - before) / times

    async def _pages_touched(self) -> int:
        async with self._pool.session() as session:
            await session.execute("SELECT pg_stat_force_next_flush()")
        pages: int = await self.observer.fetchval(
            "SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read FROM pg_statio_user_tables"
            " WHERE relname = 'ecosystem_sync_queue'"
        )
        return pages


@asynccontextmanager
async def delivering(url: str) -> AsyncIterator[Delivery]:
    pool = Database(url, max_connections=1)
    await pool.open()
    try:
        async with connected(url) as observer:
            yield Delivery(pool, observer)
    finally:
        await pool.close()
