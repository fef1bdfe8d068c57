"""The SQL that operators were given for `sync_logs` runs as it was written, and gives true figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import Run, RunCounts, RunEnd, RunRequest, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.runs import Runs

CHECK_RESULTS = """
SELECT
  sync_type,
  metadata->>'newPatientsDiscovered' as new_patients,
  metadata->>'unaffiliatedPatientsSynced' as unaffiliated,
  patients_processed as affiliated,
  appointments_new,
  completed_at
FROM sync_logs
WHERE sync_type = 'automated_daily'
ORDER BY completed_at DESC
LIMIT 5;
"""
CLIENT_ID_COVERAGE = """
SELECT
  COUNT(*) FILTER (WHERE intakeq_client_id IS NOT NULL) as with_id,
  COUNT(*) FILTER (WHERE intakeq_client_id IS NULL) as missing_id,
  ROUND(100.0 * COUNT(*) FILTER (WHERE intakeq_client_id IS NOT NULL) / COUNT(*), 1) as coverage_pct
FROM patients
WHERE status = 'active';
"""
COUNT_LOGS = "SELECT COUNT(*) FROM sync_logs;  -- Should return 0"
RECENT_ACTIVITY = "SELECT * FROM v_recent_sync_activity LIMIT 5;  -- Should return empty"
LATEST_LOG = "SELECT * FROM sync_logs ORDER BY created_at DESC LIMIT 1;"
DAILY_RUNS = """
   SELECT
     sync_type,
     status,
     started_at,
     patients_processed,
     appointments_new,
     appointments_updated,
     duration_ms
   FROM sync_logs
   WHERE sync_type = 'automated_daily'
   ORDER BY started_at DESC
   LIMIT 5;
"""
SUCCESS_RATE = """
   SELECT
     DATE(started_at) as sync_date,
     COUNT(*) as total_syncs,
     SUM(CASE WHEN status = 'completed' THEN 1 ELSE 0 END) as successful,
     SUM(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) as failed
   FROM sync_logs
   WHERE started_at >= NOW() - INTERVAL '7 days'
   GROUP BY DATE(started_at)
   ORDER BY sync_date DESC;
"""
DISCOVERY_RATE = """
   SELECT
     DATE(started_at) as sync_date,
     SUM(appointments_new) as new_appointments,
     SUM(appointments_updated) as updated_appointments,
     SUM(patients_processed) as patients_synced
   FROM sync_logs
   WHERE started_at >= NOW() - INTERVAL '7 days'
   GROUP BY DATE(started_at)
   ORDER BY sync_date DESC;
"""
AVERAGE_DURATION = """
   SELECT
     sync_type,
     AVG(duration_ms) / 1000 as avg_duration_seconds,
     MAX(duration_ms) / 1000 as max_duration_seconds,
     MIN(duration_ms) / 1000 as min_duration_seconds
   FROM sync_logs
   WHERE started_at >= NOW() - INTERVAL '30 days'
   GROUP BY sync_type;
"""
PATIENT_COUNT = """
   SELECT COUNT(DISTINCT patient_id)
   FROM patient_organization_affiliations
   WHERE status = 'active';
"""
ERROR_DETAILS = """
   SELECT
     metadata->'errors' as errors
   FROM sync_logs
   WHERE status = 'partial_success'
   ORDER BY started_at DESC
   LIMIT 1;
"""
ALL = (
    CHECK_RESULTS, CLIENT_ID_COVERAGE, COUNT_LOGS, RECENT_ACTIVITY, LATEST_LOG, DAILY_RUNS, SUCCESS_RATE,
    DISCOVERY_RATE, AVERAGE_DURATION, PATIENT_COUNT, ERROR_DETAILS,
)  # fmt: skip
NOW = datetime.now(UTC)  # the queries ask PostgreSQL for the time
ERRORS = [{"patientId": "p-7", "error": "Patient has no email"}]
DAILY, SWEEP = SyncType.AUTOMATED_DAILY, SyncType.AUTOMATED_SWEEP


@dataclass(frozen=True, slots=True)
class Logged:
    """A run that ended: how long ago it began, how long it took."""

    sync_type: SyncType
    days_ago: float
    duration_ms: int
    end: RunEnd


LOG = (
    Logged(DAILY, 40, 99_000, RunEnd(RunStatus.COMPLETED, RunCounts(10, 0, 30, 0, 0, 0))),
    Logged(DAILY, 8, 20_000, RunEnd(RunStatus.COMPLETED, RunCounts(10, 0, 1, 1, 40, 0))),
    Logged(DAILY, 2, 1_000, RunEnd(RunStatus.FAILED, RunCounts(), "Failed to fetch from PracticeQ")),
    Logged(SWEEP, 1.9, 400, RunEnd(RunStatus.COMPLETED, RunCounts(0, 0, 2, 3, 0, 0))),
    Logged(
        DAILY, 1, 15_230,
        RunEnd(
            RunStatus.COMPLETED, RunCounts(12, 0, 3, 5, 42, 0),
            metadata={"newPatientsDiscovered": 2, "unaffiliatedPatientsSynced": 4},
        ),
    ),
    Logged(SWEEP, 0.9, 600, RunEnd(RunStatus.PARTIAL_SUCCESS, RunCounts(0, 1, 0, 1, 0, 1), None, {"errors": ERRORS})),
)  # fmt: skip


async def log(runs: Runs, connection_id: ConnectionId, entry: Logged) -> Run:
    began_at = NOW - timedelta(days=entry.days_ago)
    await runs.request(RunRequest(entry.sync_type, connection_id, None, "schedule"), began_at)
    lease = await runs.claim(uuid4(), began_at, NOW)
    assert lease is not None
    return await runs.end(lease, entry.end, began_at + timedelta(milliseconds=entry.duration_ms))


@pytest.fixture
async def logged(pool: Database, connection_ids: list[ConnectionId], database: asyncpg.Connection) -> list[Run]:
    await database.execute("SET timezone TO 'UTC'")
    return [await log(Runs(pool), connection_ids[0], entry) for entry in LOG]


def by_day(entries: Sequence[Logged]) -> dict[date, list[Logged]]:
    days: dict[date, list[Logged]] = {}
    for entry in entries:
        days.setdefault((NOW - timedelta(days=entry.days_ago)).date(), []).append(entry)
    return dict(sorted(days.items(), reverse=True))


async def test_every_query_runs_on_an_installation_without_a_run_or_a_patient(database: asyncpg.Connection) -> None:
    assert await database.fetchval(COUNT_LOGS) == 0
    assert await database.fetch(RECENT_ACTIVITY) == []
    for query in ALL:
        if query is not CLIENT_ID_COVERAGE:  # which divides by the number of patients
            await database.fetch(query)


async def test_the_daily_runs_are_listed_with_their_counts_and_the_two_extra_ones(
    logged: list[Run], database: asyncpg.Connection
) -> None:
    latest = (await database.fetch(CHECK_RESULTS))[0]
    assert (latest["new_patients"], latest["unaffiliated"], latest["affiliated"]) == ("2", "4", 12)
    assert (latest["appointments_new"], latest["completed_at"]) == (3, logged[4].completed_at)
    rows = await database.fetch(DAILY_RUNS)
    assert [(row["status"], row["duration_ms"]) for row in rows] == [
        ("completed", 15_230), ("failed", 1_000), ("completed", 20_000), ("completed", 99_000),
    ]  # fmt: skip
    assert [row["started_at"] for row in rows] == [NOW - timedelta(days=days) for days in (1, 2, 8, 40)]


async def test_success_and_discovery_are_counted_by_day(logged: list[Run], database: asyncpg.Connection) -> None:
    days = by_day([entry for entry in LOG if entry.days_ago < 7])
    statuses = {day: [entry.end.status for entry in entries] for day, entries in days.items()}
    assert [tuple(row) for row in await database.fetch(SUCCESS_RATE)] == [
        (day, len(found), found.count(RunStatus.COMPLETED), found.count(RunStatus.FAILED))
        for day, found in statuses.items()
    ]
    counts = {day: [entry.end.counts for entry in entries] for day, entries in days.items()}
    assert [tuple(row) for row in await database.fetch(DISCOVERY_RATE)] == [
        (
            day,
            sum(count.appointments_new for count in found),
            sum(count.appointments_updated for count in found),
            sum(count.patients_processed for count in found),
        )
        for day, found in counts.items()
    ]


async def test_durations_are_seconds_of_real_milliseconds(logged: list[Run], database: asyncpg.Connection) -> None:
    rows = {row["sync_type"]: row for row in await database.fetch(AVERAGE_DURATION)}
    daily = rows["automated_daily"]
    assert round(daily["avg_duration_seconds"], 3) == round(Decimal(20_000 + 1_000 + 15_230) / 3 / 1000, 3)
    assert (daily["max_duration_seconds"], daily["min_duration_seconds"]) == (20, 1)
    assert round(rows["automated_sweep"]["avg_duration_seconds"], 3) == Decimal("0.5")


async def test_the_latest_partial_success_tells_its_errors(logged: list[Run], database: asyncpg.Connection) -> None:
    assert orjson.loads(await database.fetchval(ERROR_DETAILS)) == ERRORS


async def test_the_latest_log_and_the_recent_activity_show_a_run_that_goes_on(
    logged: list[Run], database: asyncpg.Connection, pool: Database, connection_ids: list[ConnectionId]
) -> None:
    owner_id = await database.fetchval("SELECT organization_id FROM connections WHERE id = $1", connection_ids[0])
    patient_id = await a_patient(database, owner_id, "1001")
    runs = Runs(pool)
    await runs.request(
        RunRequest(SyncType.MANUAL_PATIENT, connection_ids[0], owner_id, "person@example.test", patient_id), NOW
    )
    await runs.claim(uuid4(), NOW, NOW + timedelta(minutes=1))
    latest = await database.fetchrow(LATEST_LOG)
    assert (latest["status"], latest["completed_at"], latest["duration_ms"]) == ("running", None, None)
    rows = await database.fetch(RECENT_ACTIVITY)
    assert [row["id"] for row in rows] == [latest["id"], *(run.id for run in reversed(logged[2:]))]
    shown: dict[str, Any] = dict(rows[0])
    assert (shown["organization_name"], shown["triggered_by_name"]) == ("Test Practice", "person@example.test")
    assert (shown["patient_first_name"], shown["patient_last_name"]) == ("Test", "Client")
    assert await database.fetchval(COUNT_LOGS) == len(LOG) + 1


async def a_patient(
    database: asyncpg.Connection, owner_id: object, client_id: str | None, status: str = "active"
) -> Any:
    patient_id = uuid4()
    await database.execute(
        "INSERT INTO patients (id, organization_id, first_name, last_name, intakeq_client_id, status, origin)"
        " VALUES ($1, $2, 'Test', 'Client', $3, $4, 'vendor')",
        *(patient_id, owner_id, client_id, status),
    )
    return patient_id


async def test_client_ids_and_followed_patients_are_counted(
    database: asyncpg.Connection, connection_ids: list[ConnectionId]
) -> None:
    owner_id, partner_id = [row["id"] for row in await database.fetch("SELECT id FROM organizations")]
    patients = [await a_patient(database, owner_id, client_id) for client_id in ("1", "2", None)]
    await a_patient(database, owner_id, None, "archived")
    assert tuple(await database.fetchrow(CLIENT_ID_COVERAGE)) == (2, 1, Decimal("66.7"))
    for patient_id, organization_id, status in (
        (patients[0], partner_id, "active"),
        (patients[0], owner_id, "active"),
        (patients[1], partner_id, "active"),
        (patients[2], partner_id, "inactive"),
    ):
        await database.execute(
            "INSERT INTO patient_organization_affiliations (patient_id, organization_id, status) VALUES ($1, $2, $3)",
            *(patient_id, organization_id, status),
        )
    assert await database.fetchval(PATIENT_COUNT) == 2
