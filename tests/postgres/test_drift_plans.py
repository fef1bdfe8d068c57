"""How the drift report finds its rows: by index and in few partitions, however much history has gathered.

The planner has statistics of the tables, or of the time when they were nearly empty. Plans are made for the very values
that are asked for, as the report does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from eventsync.postgres.drift import SQL
from postgres.test_queue_plans import connected, plan_of, rows_looked_at
from servers.postgres import DatabaseServer

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
CONNECTION = "00000000-0000-4000-8000-000000000001"
WEEKS, ROWS, FINDINGS = 8, 80_000, 20_000
PAGE = 51

# $1 and $2: the first number and the one after the last; $3: now. One event and one record every minute of eight weeks;
# each fourth record was found wrong an hour after it changed, and of three in ten of those a webhook should have told.
_FILL = (
    """INSERT INTO events (id, received_at, connection_id, vendor, source, headers_sealed, body_sealed, body_bytes)
    SELECT pg_temp.id_of(pg_temp.at($3, n), n), pg_temp.at($3, n), '00000000-0000-4000-8000-000000000002', 'intakeq',
           'webhook', 'h', 'b', 1
    FROM generate_series($1::int, $2::int - 1) n""",
    """INSERT INTO event_history (event_id, received_at, connection_id, vendor, source, event_type, entity_kind,
                                  entity_id, entity_version, outcome, changed_fields, attempts, finished_at)
    SELECT pg_temp.id_of(pg_temp.at($3, n), n), pg_temp.at($3, n), '00000000-0000-4000-8000-000000000001', 'intakeq',
           'webhook', 'Changed', 'appointment', (n % 30000)::text, extract(epoch FROM pg_temp.at($3, n)) * 1000 - 5000,
           'applied', '{status}', 1, pg_temp.at($3, n)
    FROM generate_series($1::int, $2::int - 1) n""",
    """INSERT INTO drift_findings (connection_id, kind, external_id, found_at, read_began_at, since, position,
                                   changed_fields, is_new, expected_event)
    SELECT '00000000-0000-4000-8000-000000000001', 'appointment', (n % 30000)::text, t + interval '1 hour',
           t + interval '59 minutes', t, extract(epoch FROM t) * 1000, '{status}', false,
           CASE WHEN n % 10 < 3 THEN 'Changed' END
    FROM generate_series($1::int, $2::int - 1, 4) n, LATERAL (SELECT pg_temp.at($3, n) - interval '1 day') a(t)""",
    """INSERT INTO event_queue (event_id, received_at, connection_id, vendor, source, available_at, status, reason,
                                work, entity_kind, entity_id)
    SELECT pg_temp.id_of(pg_temp.at($3, n), n + 500000), pg_temp.at($3, n), '00000000-0000-4000-8000-000000000001',
           'intakeq', 'webhook', pg_temp.at($3, n), s.status, CASE WHEN s.status = 'parked' THEN 'x' END,
           CASE WHEN n % 3 = 0 THEN 'refetch' ELSE 'apply' END, CASE WHEN n % 3 = 0 THEN 'note' END,
           CASE WHEN n % 3 = 0 THEN n::text END
    FROM generate_series($1::int, $2::int - 1, 4) n,
         LATERAL (SELECT CASE WHEN n % 8 = 0 THEN 'parked' ELSE 'pending' END) s(status)""",
)
_BEGIN = f"""
SELECT ensure_event_partitions(now() - interval '{WEEKS + 2} weeks', now());
INSERT INTO organizations (name) VALUES ('Test Clinic');
INSERT INTO connections (id, organization_id, vendor, base_url, api_key_sealed)
SELECT v.id::uuid, o.id, 'intakeq', 'http://127.0.0.1:9', 'sealed' FROM organizations o,
       (VALUES ('{CONNECTION}'), ('00000000-0000-4000-8000-000000000002')) v(id);
INSERT INTO webhook_tokens (token_hash, connection_id, token_sealed) VALUES ('h', '{CONNECTION}', 's');
CREATE FUNCTION pg_temp.id_of(at timestamptz, n int) RETURNS uuid LANGUAGE sql
    RETURN (left(first_event_id_at(at)::text, 14) || '7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid;
CREATE FUNCTION pg_temp.at(now timestamptz, n int) RETURNS timestamptz LANGUAGE sql
    RETURN now - interval '{WEEKS} weeks' * ({ROWS} - n) / {ROWS};
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = off)', name);
    END LOOP;
END $$;
"""  # noqa: S608  # constants of this file


@pytest.fixture(scope="module")
def drifted_urls(postgres_server: DatabaseServer) -> Iterator[dict[str, str]]:
    """Two databases with weeks of history, by what the planner knows of them: `stale` and `fresh` statistics."""
    with asyncio.Runner() as runner:
        opened = _drifted(postgres_server)
        yield runner.run(anext(opened))
        runner.run(opened.aclose())


async def _drifted(server: DatabaseServer) -> AsyncGenerator[dict[str, str]]:
    async with server.database(migrated=True) as stale, connected(server.url) as admin:
        async with connected(stale) as filling:
            await filling.execute(_BEGIN)
            for begin, end in ((0, 1000), (1000, ROWS)):
                for statement in _FILL:
                    await filling.execute(statement, begin, end, NOW)
                if begin == 0:
                    await filling.execute("ANALYZE")
        fresh = server.url_of("drift_plans_fresh")
        await admin.execute(f'CREATE DATABASE drift_plans_fresh TEMPLATE "{urlsplit(stale).path.strip("/")}"')
        try:
            async with connected(fresh) as analyzing:
                await analyzing.execute("ANALYZE")
            yield {"stale": stale, "fresh": fresh}
        finally:
            await admin.execute("DROP DATABASE drift_plans_fresh WITH (FORCE)")


def page(**given: Any) -> list[Any]:
    """Arguments of `list_findings`."""
    names = ("org", "connection", "run", "kind", "external_id", "since", "until", "verdict", "found_at", "id")
    return [NOW, *(given.get(name) for name in names), PAGE]


PAGES: dict[str, list[Any]] = {
    "the latest": page(),
    "of a connection": page(connection=CONNECTION),
    "of a record": page(kind="appointment", external_id="20008"),
    "of a run": page(run="00000000-0000-4000-8000-000000000009"),
    "of a day": page(since=NOW - 9 * DAY, until=NOW - 8 * DAY),
    "the next": page(found_at=NOW - 20 * DAY, id=7_000),
    "that never came": page(verdict="never_came"),
    "that never came, of a connection": page(connection=CONNECTION, verdict="never_came"),
}
every_statistics = pytest.mark.parametrize("statistics", ["fresh", "stale"])


def assert_looks_at_few(plan: Sequence[dict[str, Any]], at_most: int) -> None:
    for part in plan:
        if part["Node Type"] == "Seq Scan" and rows_looked_at(part):  # a week may still be empty
            assert part["Relation Name"] in {"connections", "organizations", "webhook_tokens"}, part
        assert rows_looked_at(part) <= at_most, part


@every_statistics
@pytest.mark.parametrize("name", PAGES)
async def test_a_page_looks_at_few_findings_and_few_events(
    drifted_urls: dict[str, str], name: str, statistics: str
) -> None:
    plan = await plan_of(drifted_urls[statistics], SQL.list_findings, PAGES[name], is_generic=False)
    assert_looks_at_few(plan, 20 * PAGE)
    assert plan[0]["Actual Rows"] == {"of a run": 0, "of a record": 2}.get(name, PAGE)


@every_statistics
async def test_each_finding_looks_into_the_weeks_around_it_only(drifted_urls: dict[str, str], statistics: str) -> None:
    plan = await plan_of(drifted_urls[statistics], SQL.list_findings, PAGES["the latest"], is_generic=False)
    weeks = {name for part in plan if (name := part.get("Relation Name", "")).startswith("event_history_")}
    assert 1 <= len(weeks) <= 4, weeks


@every_statistics
async def test_a_days_sum_looks_at_that_day(drifted_urls: dict[str, str], statistics: str) -> None:
    arguments = page(since=NOW - 2 * DAY, until=NOW - DAY)[:9]
    plan = await plan_of(drifted_urls[statistics], SQL.count_findings, arguments, is_generic=False)
    assert_looks_at_few(plan, 4 * FINDINGS // (WEEKS * 7))


@every_statistics
async def test_silence_is_looked_for_within_its_day(drifted_urls: dict[str, str], statistics: str) -> None:
    arguments = [None, NOW - 2 * DAY, NOW, 3]
    plan = await plan_of(drifted_urls[statistics], SQL.signs_of_silence, arguments, is_generic=False)
    assert_looks_at_few(plan, 3 * ROWS // (WEEKS * 7))
