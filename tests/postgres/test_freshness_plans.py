"""How verification finds its evidence: by index, a few rows for each record of a page, however much coverage there is.

The planner has statistics of the full tables, or of the time when they were empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import pytest

from eventsync.postgres.explain import SQL as EXPLAIN
from eventsync.postgres.freshness import SQL as FRESHNESS
from eventsync.postgres.listings import SQL as LISTINGS
from postgres.covered_copy import DAY, NOW
from postgres.test_queue_plans import connected, plan_of, rows_looked_at
from servers.postgres import DatabaseServer

CONNECTIONS = [f"00000000-0000-4000-8000-{number:012}" for number in range(1, 6)]
MINE = CONNECTIONS[0]
PAGE = 100
DAYS_COVERED = 365
EVIDENCE = {"sync_coverage", "sync_cursors", "absence_candidates"}

# Daily reads of 180 days, each of which left a day behind that no newer one covers; sweeps of two days; candidates.
_FILL = """
INSERT INTO organizations (name) SELECT 'Test Clinic ' || n FROM generate_series(1, 5) n;
INSERT INTO connections (id, organization_id, vendor, base_url, api_key_sealed)
SELECT ('00000000-0000-4000-8000-' || lpad(number::text, 12, '0'))::uuid, id, 'intakeq', 'http://127.0.0.1:9', ''
FROM organizations;
INSERT INTO appointments (id, connection_id, external_id, patient_id, status, vendor_status, start_time, end_time,
                          version, source_version, content_hash, changed_at, created_at, updated_at)
SELECT gen_random_uuid(), c.id, n::text, gen_random_uuid(), 'confirmed', 'Confirmed', t.at, t.at, '\\x01',
       $now - interval '400 days', '\\x01', $now, $now, $now
FROM connections c, generate_series(1, 6000) n, LATERAL (SELECT $now + (n % 180 - 90) * interval '1 day') t(at);
INSERT INTO patient_identities (connection_id, external_id, patient_id, version, source_version, content_hash,
                                changed_at, created_at, updated_at)
SELECT c.id, n::text, gen_random_uuid(), '\\x01', $now - interval '400 days', '\\x01', $now, $now, $now
FROM connections c, generate_series(1, 2000) n;
INSERT INTO patients (id, organization_id, first_name, last_name, origin)
SELECT i.patient_id, c.organization_id, 'Test', 'Client ' || i.external_id, 'vendor'
FROM patient_identities i JOIN connections c ON c.id = i.connection_id;
INSERT INTO sync_coverage (connection_id, kind, window_from, window_to, read_began_at)
SELECT c.id, 'appointment', $now - (n + 90) * interval '1 day', $now + (90 - n) * interval '1 day',
       $now - n * interval '1 day'
FROM connections c, generate_series(1, 365) n;
INSERT INTO sync_coverage (connection_id, kind, window_from, window_to, read_began_at)
SELECT c.id, 'appointment', $now - n * interval '1 hour', $now + (48 - n) * interval '1 hour',
       $now - n * interval '1 hour'
FROM connections c, generate_series(1, 50) n;
INSERT INTO sync_coverage (connection_id, kind, window_from, window_to, read_began_at)
SELECT c.id, 'patient', '-infinity', 'infinity', $now - n * interval '1 day'
FROM connections c, generate_series(1, 9) n;
INSERT INTO sync_cursors (connection_id, kind, list, unbroken_since, covered_until)
SELECT c.id, 'appointment', l, $now - interval '3 days', $now - interval '2 hours'
FROM connections c, unnest(ARRAY['changed', 'deleted']) l;
INSERT INTO absence_candidates (connection_id, kind, external_id, first_missed_at)
SELECT c.id, 'appointment', n::text, $now FROM connections c, generate_series(1, 3000) n;
""".replace("$now", f"timestamptz '{NOW.isoformat()}'")

OF_OWNER = [None, NOW.date(), MINE]
UPCOMING = [*OF_OWNER, None, NOW, None, None, None, False, PAGE, NOW]
LONG_PAST = [*OF_OWNER, None, NOW - 90 * DAY, NOW - 60 * DAY, None, None, False, PAGE, NOW]
PAGES: dict[str, tuple[str, Sequence[Any]]] = {
    "upcoming appointments": (LISTINGS.list_appointments, UPCOMING),
    "past appointments": (LISTINGS.list_appointments, LONG_PAST),
    "patients": (LISTINGS.list_patients, [None, NOW.date(), None, None, None, None, None, None, PAGE]),
    "an appointment explained": (EXPLAIN.find_appointments, [[MINE], "4711", None]),
    "a client explained": (EXPLAIN.find_clients, [[MINE], "1147", None]),
}


@pytest.fixture(scope="module")
def covered_urls(postgres_server: DatabaseServer) -> Iterator[dict[str, str]]:
    """Two databases with a year of coverage, by what the planner knows of them."""
    with asyncio.Runner() as runner:
        places = {name: postgres_server.database(migrated=True) for name in ("stale", "fresh")}
        urls = {name: runner.run(place.__aenter__()) for name, place in places.items()}
        for name, url in urls.items():
            runner.run(_fill(url, is_analyzed=name == "fresh"))
        yield urls
        for place in places.values():
            runner.run(place.__aexit__(None, None, None))


async def _fill(url: str, *, is_analyzed: bool) -> None:
    async with connected(url) as connection:
        for (table,) in await connection.fetch(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ):
            await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await connection.execute("ANALYZE")
        await connection.execute(_FILL)
        if is_analyzed:
            await connection.execute("ANALYZE")


@pytest.mark.parametrize("is_generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("statistics", ["stale", "fresh"])
@pytest.mark.parametrize("name", PAGES)
async def test_a_page_looks_at_little_evidence(
    covered_urls: dict[str, str], name: str, statistics: str, is_generic: bool
) -> None:
    sql, arguments = PAGES[name]
    plan = await plan_of(covered_urls[statistics], sql, arguments, is_generic=is_generic)
    evidence = [part for part in plan if part.get("Relation Name") in EVIDENCE]
    assert {part["Relation Name"] for part in evidence} == EVIDENCE
    for part in evidence:
        assert part["Actual Loops"] <= PAGE, part
        # A record in no sweep's window is found in the newest daily read, after all sweeps.
        assert rows_looked_at(part) <= PAGE * (DAYS_COVERED / 5), part
        if part["Relation Name"] != "sync_cursors":  # as small as there are connections
            assert part["Node Type"] != "Seq Scan", part


@pytest.mark.parametrize("is_generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("statistics", ["stale", "fresh"])
@pytest.mark.parametrize("organization", [None, 1], ids=["everyone", "one"])
async def test_the_report_reads_everything_once(
    covered_urls: dict[str, str], statistics: str, organization: int | None, is_generic: bool
) -> None:
    url = covered_urls[statistics]
    async with connected(url) as connection:
        of = await connection.fetchval("SELECT id FROM organizations WHERE number = $1", organization)
    plan = await plan_of(url, FRESHNESS.measure, [of, NOW], is_generic=is_generic)
    for part in plan:
        if part.get("Relation Name") in {"appointments", "patient_identities"}:
            assert rows_looked_at(part) <= 30_000, part
        # What is met in pairs is coverage with its own edges, once a connection.
        assert rows_looked_at(part) <= len(CONNECTIONS) * 2 * 424 * 415, part


async def test_coverage_that_a_year_has_left_is_pruned_to_one_row_a_day(covered_urls: dict[str, str]) -> None:
    async with connected(covered_urls["stale"]) as connection:
        await connection.execute("BEGIN")  # and never a COMMIT
        await connection.execute(FRESHNESS.prune_coverage, MINE)
        left = await _count(connection, "appointment"), await _count(connection, "patient")
    assert left == (DAYS_COVERED + 24, 1)  # and the sweeps since the newest daily read


async def _count(connection: asyncpg.Connection, kind: str) -> int:
    found: int = await connection.fetchval(
        "SELECT count(*) FROM sync_coverage WHERE connection_id = $1 AND kind = $2", MINE, kind
    )
    return found
