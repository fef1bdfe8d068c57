"""A large installation for the guards of plans: two hundred connections, one of which is a large practice.

The planner has statistics of these tables, or of the time when they were nearly empty, as after a backfill.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from postgres.test_queue_plans import connected
from servers.postgres import DatabaseServer

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
LARGE = 1  # the number of the large practice's connection and of its owner
CONNECTIONS = 200
CLIENTS, IN_WINDOW, OLD = 10_000, 30_000, 300_000  # of the large practice: clients, appointments around now and before
MISSED = 6_000  # of the large practice's records
_ALL = IN_WINDOW + OLD
ALL_APPOINTMENTS = _ALL + (CONNECTIONS - 1) * 2_000
_AT_FIRST, _LARGE_AT_FIRST = 5, 150  # rows of each connection and table, of which statistics are taken

_CONNECTIONS = """
INSERT INTO organizations (id, name)
SELECT pg_temp.of(0, n), 'Test Clinic ' || n FROM generate_series(1, 210) n;
INSERT INTO connections (id, organization_id, vendor, base_url, api_key_sealed, created_at)
SELECT pg_temp.of(1, n), pg_temp.of(0, n), 'intakeq', 'http://127.0.0.1:9', 'sealed', '2020-01-01'
FROM generate_series(1, 200) n;
INSERT INTO sync_schedules SELECT id, now() FROM connections;
INSERT INTO sync_cursors
SELECT id, k, l, now() - interval '9 days', now() - interval '1 hour'
FROM connections, unnest(ARRAY['appointment', 'patient']) k, unnest(ARRAY['changed', 'deleted']) l;
"""

# $1 and $2: the first number of a row, and the one after the last; $3 and $4: the connections. `rows` takes how many
# rows the large practice has, and each other one.
_RECORDS = (
    """INSERT INTO patient_identities (connection_id, external_id, patient_id, first_name, last_name, email, version,
                                       source_version, content_hash, deleted_at, changed_at, created_at, updated_at)
    SELECT pg_temp.of(1, c), pg_temp.named(c, n), pg_temp.of(2, c, n), 'Test', 'Client ' || n,
           pg_temp.named(c, n) || '@example.test', CASE WHEN n % 50 = 7 THEN '\\x00'::bytea ELSE '\\x01' END,
           pg_temp.changed($now, n), '\\x01', CASE WHEN n % 200 = 1 THEN $now - (n % 40) * interval '1 day' END,
           $now, $now, $now
    FROM pg_temp.rows($1, $2, $3, $4, 10000, 500)""",
    """INSERT INTO patients (id, organization_id, first_name, last_name, email, intakeq_client_id, origin)
    SELECT pg_temp.of(2, c, n), pg_temp.of(0, c), 'Test', 'Client ' || n, pg_temp.named(c, n) || '@example.test',
           pg_temp.named(c, n), 'vendor'
    FROM pg_temp.rows($1, $2, $3, $4, 10000, 500)""",
    """INSERT INTO patients (id, organization_id, first_name, last_name, email, origin)
    SELECT pg_temp.of(3, c, n), pg_temp.of(0, c), 'Test', 'Local ' || n, 'local' || n || '@example.test', 'local'
    FROM pg_temp.rows($1, $2, $3, $4, 1000, 0)""",
    """INSERT INTO local_patients (patient_id, organization_id, first_name, last_name, email, created_at)
    SELECT pg_temp.of(3, c, n), pg_temp.of(0, c), 'Test', 'Local ' || n, 'local' || n || '@example.test', $now
    FROM pg_temp.rows($1, $2, $3, $4, 1000, 0)""",
    # Every third client of the large practice is followed by partner 201, one in fifty of the others by partner 202.
    # Some of that has ended, some consent has.
    """INSERT INTO patient_organization_affiliations (patient_id, organization_id, status, start_date, end_date,
                                                      consent_expires_on)
    SELECT pg_temp.of(2, c, n), pg_temp.of(0, CASE WHEN c = 1 THEN 201 ELSE 202 END),
           CASE WHEN n % 20 = 0 THEN 'inactive' ELSE 'active' END, $now::date - 300,
           CASE WHEN n % 30 = 3 THEN $now::date - 9 END, CASE WHEN n % 40 = 9 THEN $now::date - 9 END
    FROM pg_temp.rows($1, $2, $3, $4, 10000, 500) WHERE n % CASE WHEN c = 1 THEN 3 ELSE 50 END = 0""",
    """INSERT INTO patient_links (connection_id, external_id, patient_id, derived_patient_id, method, linked_at)
    SELECT pg_temp.of(1, c), pg_temp.named(c, n), pg_temp.of(2, c, n - 1), pg_temp.of(2, c, n), 'email', $now
    FROM pg_temp.rows($1, $2, $3, $4, 10000, 500) WHERE n % 20 = 5""",
    # The first numbers lie within ninety days of now, the others in the ten years before.
    """INSERT INTO appointments (id, connection_id, external_id, patient_id, client_external_id, status, vendor_status,
                                 start_time, end_time, practitioner_external_id, practitioner_name, service_name,
                                 version, source_version, content_hash, deleted_at, changed_at, created_at, updated_at)
    SELECT pg_temp.of(4, c, n), pg_temp.of(1, c), pg_temp.named(c, n), pg_temp.of(2, c, 1 + n % k.clients),
           pg_temp.named(c, 1 + n % k.clients), 'confirmed', 'Confirmed', t.at, t.at + interval '50 minutes',
           (n % 22)::text, 'Test Practitioner', 'Test Visit', '\\x01', pg_temp.changed($now, n), '\\x01',
           CASE WHEN n % 100 = 1 THEN $now - (n % 4000) * interval '1 hour' END, $now - interval '1 year',
           $now - interval '1 year', $now
    FROM pg_temp.rows($1, $2, $3, $4, 330000, 2000),
         LATERAL (SELECT CASE WHEN c = 1 THEN 10000 ELSE 500 END,
                         CASE WHEN c = 1 THEN 30000 ELSE 1000 END) k(clients, near),
         LATERAL (SELECT CASE WHEN n > k.near THEN $now - (100 + n % 3550) * interval '1 day'
                              ELSE $now + (n % 180 - 90) * interval '1 day' + n % 500 * interval '1 min' END) t(at)""",
    """INSERT INTO provider_intakeq_settings (connection_id, practitioner_id, provider_name)
    SELECT pg_temp.of(1, c), n::text, 'Test Practitioner' FROM pg_temp.rows($1, $2, $3, $4, 20, 20)""",
)
_BOOKKEEPING = (
    # Of each second connection a sweep goes on, of others a patient's refresh; of each fourth a partner's wish waits.
    """INSERT INTO sync_logs (id, sync_type, status, connection_id, organization_id, patient_id, triggered_by, due_at,
                              started_at, completed_at, duration_ms, metadata, attempts, worker_id, leased_until,
                              created_at, updated_at)
    SELECT pg_temp.of(5, c, n), s.sync_type, s.status, pg_temp.of(1, c),
           pg_temp.of(0, CASE WHEN s.sync_type = 'manual_org_bulk' THEN 201 + (n / 8 + c) % 5 ELSE c END),
           CASE WHEN s.sync_type = 'manual_patient' THEN pg_temp.of(2, c, 1 + n % 5) END, 'schedule',
           CASE WHEN s.sync_type LIKE 'automated%' THEN t.at END, t.at,
           CASE WHEN s.status NOT IN ('starting', 'running') THEN t.at + interval '1 minute' END, 60000,
           '{"errors": [], "warnings": [], "intakeq_api_calls": 12, "budget_left": 300, "totalPatients": 1000}',
           1, CASE WHEN s.status = 'running' THEN pg_temp.of(9, c, n) END,
           CASE WHEN s.status = 'running' THEN $now + interval '50 seconds' END, t.at, t.at
    FROM pg_temp.rows($1, $2, $3, $4, 1000, 1000),
         LATERAL (SELECT $now - n * interval '30 minutes' - c * interval '1 second') t(at),
         LATERAL (SELECT CASE WHEN n % 48 = 20 THEN 'automated_daily' WHEN n % 8 = 3 THEN 'manual_org_bulk'
                              WHEN n % 12 = 2 THEN 'manual_patient' ELSE 'automated_sweep' END,
                         CASE WHEN n = 2 AND c % 10 = 1 THEN 'running' WHEN n = 3 AND c % 4 = 1 THEN 'starting'
                              WHEN n = 1 AND c % 2 = 1 THEN 'running' WHEN n = 20 AND c % 100 = 2 THEN 'starting'
                              WHEN n % 97 = 0 THEN 'failed' WHEN n % 31 = 0 THEN 'partial_success'
                              ELSE 'completed' END) s(sync_type, status)""",
    """INSERT INTO sync_coverage (connection_id, kind, window_from, window_to, read_began_at, run_id)
    SELECT pg_temp.of(1, c), k.kind,
           CASE WHEN k.kind = 'appointment' THEN $now - (90 + n) * interval '1 day' ELSE '-infinity' END,
           CASE WHEN k.kind = 'appointment' THEN $now + (90 - n) * interval '1 day' ELSE 'infinity' END,
           $now - n * interval '1 day', pg_temp.of(5, c, n)
    FROM pg_temp.rows($1, $2, $3, $4, 250, 250),
         LATERAL (SELECT CASE WHEN n % 5 = 0 THEN 'patient' ELSE 'appointment' END) k(kind)""",
    """INSERT INTO absence_candidates (connection_id, kind, external_id, first_missed_at)
    SELECT pg_temp.of(1, c), CASE WHEN n % 6 = 0 THEN 'patient' ELSE 'appointment' END, pg_temp.named(c, n),
           $now - interval '3 days'
    FROM pg_temp.rows($1, $2, $3, $4, 6000, 70)""",
    """INSERT INTO summary_fingerprints (connection_id, kind, external_id, fingerprint)
    SELECT pg_temp.of(1, c), CASE WHEN n % 2 = 0 THEN 'note' ELSE 'intake' END, pg_temp.named(c, n), 'f'
    FROM pg_temp.rows($1, $2, $3, $4, 10000, 100)""",
    """INSERT INTO documents (id, connection_id, kind, external_id, status, version, content_hash, changed_at,
                              created_at, updated_at)
    SELECT pg_temp.of(6, c, n), pg_temp.of(1, c), CASE WHEN n % 2 = 0 THEN 'note' ELSE 'intake' END,
           pg_temp.named(c, n), 'Completed', '\\x01', '\\x01', $now, $now, $now
    FROM pg_temp.rows($1, $2, $3, $4, 10000, 100)""",
    """INSERT INTO record_reads (connection_id, kind, external_id, sequence, leased_until)
    SELECT pg_temp.of(1, c), CASE WHEN n % 2 = 0 THEN 'note' ELSE 'intake' END, pg_temp.named(c, n), 1, '-infinity'
    FROM pg_temp.rows($1, $2, $3, $4, 100, 100)""",
)
_FUNCTIONS = """
CREATE FUNCTION pg_temp.of(what int, c int, n int DEFAULT 0) RETURNS uuid LANGUAGE sql
    RETURN ('0000000' || what || '-0000-4000-8' || lpad(c::text, 3, '0') || '-' || lpad(n::text, 12, '0'))::uuid;
CREATE FUNCTION pg_temp.rows(first int, past_last int, first_c int, last_c int, large int, small int)
    RETURNS TABLE (c int, n int) LANGUAGE sql BEGIN ATOMIC
    SELECT c, n FROM generate_series(first_c, last_c) c,
                     generate_series(first, least(past_last - 1, CASE WHEN c = 1 THEN large ELSE small END)) n;
END;
CREATE FUNCTION pg_temp.named(c int, n int) RETURNS text LANGUAGE sql RETURN (c * 1000000 + n)::text;
CREATE FUNCTION pg_temp.changed(now timestamptz, n int) RETURNS timestamptz LANGUAGE sql
    RETURN now - CASE WHEN n % 50 = 0 THEN interval '1 day' ELSE interval '200 days' END;
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = off)', name);
    END LOOP;
END $$;
"""


def _named(what: int, connection: int, number: int = 0) -> UUID:
    return UUID(f"0000000{what}-0000-4000-8{connection:03}-{number:012}")


def organization(number: int) -> UUID:
    """Name an organization: the owners of the connections have their numbers, 201 and 202 are partners."""
    return _named(0, number)


def connection_of(number: int) -> UUID:
    """Name a connection: the first is the large practice's."""
    return _named(1, number)


def named(number: int, connection: int = 1) -> str:
    """Give the vendor's id of a connection's client, appointment, intake or note."""
    return str(connection * 1_000_000 + number)


def patient_of(connection: int, number: int) -> UUID:
    """Name the patient of a client."""
    return _named(2, connection, number)


def appointment_of(connection: int, number: int) -> UUID:
    """Name an appointment: the first 30,000 of the large practice lie around now."""
    return _named(4, connection, number)


def local_patient(number: int) -> UUID:
    """Name a patient whom the large practice has named itself."""
    return _named(3, 1, number)


def run_of(connection: int, number: int) -> UUID:
    """Name a run: the higher its number, the longer ago."""
    return _named(5, connection, number)


def worker_of(connection: int, number: int) -> UUID:
    """Name the worker of a run that goes on: runs 1 of odd connections."""
    return _named(9, connection, number)


async def large_installation(server: DatabaseServer) -> AsyncGenerator[dict[str, str]]:
    """Yield two databases of it, by what the planner knows of them: `stale` and `fresh` statistics."""
    async with server.database(migrated=True) as stale, connected(server.url) as admin:
        async with connected(stale) as filling:
            await _fill(filling)
        fresh = server.url_of("sync_plans_fresh")
        await admin.execute(
            f'CREATE DATABASE sync_plans_fresh TEMPLATE "{urlsplit(stale).path.strip("/")}" STRATEGY FILE_COPY'
        )
        try:
            async with connected(fresh) as analyzing:
                await analyzing.execute("VACUUM (ANALYZE)")
            yield {"stale": stale, "fresh": fresh}
        finally:
            await admin.execute("DROP DATABASE sync_plans_fresh WITH (FORCE)")


async def _fill(connection: asyncpg.Connection) -> None:
    await connection.execute(_FUNCTIONS)
    await connection.execute(_CONNECTIONS)
    await _add(connection, _RECORDS + _BOOKKEEPING, (1, 1 + _AT_FIRST, 1, CONNECTIONS))
    await _add(connection, _RECORDS, (1 + _AT_FIRST, 1 + _LARGE_AT_FIRST, 1, 1))
    await connection.execute("ANALYZE")
    await _add(connection, _RECORDS, (1 + _LARGE_AT_FIRST, 1 + _ALL, 1, 1))
    await _add(connection, _RECORDS, (1 + _AT_FIRST, 1 + _ALL, 2, CONNECTIONS))
    await _add(connection, _BOOKKEEPING, (1 + _AT_FIRST, 1 + _ALL, 1, CONNECTIONS))


async def _add(connection: asyncpg.Connection, statements: Sequence[str], numbers: tuple[int, ...]) -> None:
    for statement in statements:
        await connection.execute(statement.replace("$now", f"timestamptz '{NOW.isoformat()}'"), *numbers)
