"""A sweep over a practice whose appointments stand already, of which one in a hundred has changed since the last.

The practice was read in full before: its clients and its appointments. Pages are as IntakeQ's list gives them: a
hundred appointments, each with a mention of its client. They are mapped beforehand, for every contender, and each
transaction takes ten of them. `--sweep` is

* `eventsync`: the one write path, told that reads come in order, as a connection's only run knows of its own
* `merge`: the same write path, not told so: every appointment is loaded, merged and written
* `upsert`: one INSERT ... ON CONFLICT DO UPDATE a transaction and table; a version guards the clients' own records
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import orjson

from bench.contender import WARM_UP_EVENTS, Assignment, Stopwatch, contend
from bench.contest import LOST, Figures
from bench.practice import add_practice, bench_keyring
from bench.rows.sweep import CHANGED_EVERY, WAL_MB, WRITTEN, WRITTEN_IN_VAIN
from eventsync.bench.specimens import CLIENTS, appointment_webhook
from eventsync.domain.changes import Authority, EntityRef, RecordChange, Source, Upsert, Version
from eventsync.domain.connections import ConnectionId
from eventsync.domain.fields import Fields
from eventsync.domain.merging import Held, RecordState
from eventsync.domain.records import Patient, RecordKind, content_hash
from eventsync.postgres.database import Database, Session
from eventsync.postgres.json_rows import json_rows
from eventsync.postgres.record_rows import AppointmentTable, PatientTable, RecordTable, milliseconds, shared_columns
from eventsync.postgres.records import EventChange, RecordWriter
from eventsync.vendors.intakeq.mapping import MAPPING_VERSION, Reading, appointment_changes
from eventsync.wiring import utc_now

_ROWS_PER_TRANSACTION = 1000
_FIRST_CLIENT_ID = 980_000_000  # the specimens' own
_MODIFIED = datetime(2029, 6, 1, tzinfo=UTC)
_FIRST_READ_MS = milliseconds(_MODIFIED + timedelta(days=1))
_SECOND_READ_MS = milliseconds(_MODIFIED + timedelta(days=2))

Batch = Sequence[RecordChange]
Sweep = Callable[[Session, Batch], Awaitable[object]]

_BEFORE = "SELECT pg_current_xact_id()::text::bigint AS xid, pg_current_wal_insert_lsn()::text AS lsn"
_AFTER = """
SELECT count(*) FILTER (WHERE xmin::text::bigint > $1), count(*) FILTER (WHERE source_version > $3),
       pg_current_wal_insert_lsn() - $2::text::pg_lsn
FROM appointments
"""
_UPSERT = """
INSERT INTO appointments AS a (
    id, connection_id, external_id, patient_id, client_external_id, status, vendor_status, start_time, end_time,
    duration_minutes, practitioner_external_id, practitioner_name, service_external_id, service_name,
    location_external_id, location_name, location_type, meeting_url, price, cancellation_reason, booked_by_client,
    vendor_created_at, details, version, source_version, content_hash, seen_at, changed_at, created_at, updated_at)
SELECT r.id, r.connection_id, r.external_id, r.patient_id, r.client_external_id, r.status, r.vendor_status,
    r.start_time, r.end_time, r.duration_minutes, r.practitioner_external_id, r.practitioner_name,
    r.service_external_id, r.service_name, r.location_external_id, r.location_name, r.location_type, r.meeting_url,
    r.price, r.cancellation_reason, r.booked_by_client, r.vendor_created_at, r.details, r.version, r.source_version,
    r.content_hash, r.seen_at, $2, $2, $2
FROM jsonb_populate_recordset(NULL::appointments, $1::jsonb) r
ON CONFLICT (connection_id, external_id) DO UPDATE SET
    patient_id = excluded.patient_id, client_external_id = excluded.client_external_id, status = excluded.status,
    vendor_status = excluded.vendor_status, start_time = excluded.start_time, end_time = excluded.end_time,
    duration_minutes = excluded.duration_minutes, practitioner_external_id = excluded.practitioner_external_id,
    practitioner_name = excluded.practitioner_name, service_external_id = excluded.service_external_id,
    service_name = excluded.service_name, location_external_id = excluded.location_external_id,
    location_name = excluded.location_name, location_type = excluded.location_type,
    meeting_url = excluded.meeting_url, price = excluded.price, cancellation_reason = excluded.cancellation_reason,
    booked_by_client = excluded.booked_by_client, vendor_created_at = excluded.vendor_created_at,
    details = excluded.details, version = excluded.version, source_version = excluded.source_version,
    content_hash = excluded.content_hash, seen_at = excluded.seen_at, changed_at = excluded.changed_at,
    updated_at = excluded.updated_at
WHERE a.version <= excluded.version
"""
_UPSERT_CLIENTS = """
INSERT INTO patient_identities AS p (
    connection_id, external_id, patient_id, first_name, last_name, email, phone, date_of_birth, archived, version,
    source_version, content_hash, seen_at, changed_at, created_at, updated_at)
SELECT r.connection_id, r.external_id, r.patient_id, r.first_name, r.last_name, r.email, r.phone, r.date_of_birth,
    r.archived, r.version, r.source_version, r.content_hash, r.seen_at, $2, $2, $2
FROM jsonb_populate_recordset(NULL::patient_identities, $1::jsonb) r
ON CONFLICT (connection_id, external_id) DO UPDATE SET
    first_name = excluded.first_name, last_name = excluded.last_name, email = excluded.email, phone = excluded.phone,
    date_of_birth = excluded.date_of_birth, archived = excluded.archived, version = excluded.version,
    source_version = excluded.source_version, content_hash = excluded.content_hash, seen_at = excluded.seen_at,
    changed_at = excluded.changed_at, updated_at = excluded.updated_at
WHERE p.version <= excluded.version
"""


async def work(assignment: Assignment) -> Figures:
    """Read the practice in full, then sweep it."""
    database = Database(assignment.database_url)
    await database.open()
    connection_id = (await add_practice(database)).connection_id
    total, sweep = assignment.events, _SWEEPS[assignment.options.sweep]()
    await _run(database, _writing(), [_clients(connection_id), *_read(connection_id, total, _FIRST_READ_MS)])
    await _run(database, sweep, _read(connection_id, WARM_UP_EVENTS, _FIRST_READ_MS))
    batches = list(_read(connection_id, total, _SECOND_READ_MS, changed_every=CHANGED_EVERY))
    gc.freeze()  # a hundred thousand appointments at once are the benchmark's, never a sweep's
    stopwatch = Stopwatch()
    async with database.session() as session:
        await session.execute("VACUUM ANALYZE")
        await session.execute("CHECKPOINT")
        before = await session.fetchrow(_BEFORE)
    with stopwatch.running():
        await _run(database, sweep, batches)
    async with database.session() as session:
        written, changed, wal_bytes = await session.fetchrow(_AFTER, before["xid"], before["lsn"], _MODIFIED)
    await database.close()
    lost = len(range(0, total, CHANGED_EVERY)) - changed
    figures = {**stopwatch.figures(total), WRITTEN.name: written, WAL_MB.name: float(wal_bytes) / 1e6, LOST.name: lost}
    return figures | ({WRITTEN_IN_VAIN.name: written - changed} if assignment.options.sweep == "eventsync" else {})


async def _run(database: Database, sweep: Sweep, batches: Iterable[Batch]) -> None:
    for batch in batches:
        async with database.transaction() as session:
            await sweep(session, batch)


def _clients(connection_id: ConnectionId) -> Batch:
    """Read the clients' own records, which say what their appointments mention."""
    return [_client(connection_id, number) for number in range(CLIENTS)]


def _client(connection_id: ConnectionId, number: int) -> Upsert:
    content = Patient("Test", f"Client {number}", email=f"client{number}@example.test")
    position = milliseconds(_MODIFIED)
    version = Version(
        Authority.RECORD, position, False, Source.API, _FIRST_READ_MS, MAPPING_VERSION, content_hash(content)
    )
    return Upsert(EntityRef(connection_id, RecordKind.PATIENT, str(_FIRST_CLIENT_ID + number)), version, content)


def _read(
    connection_id: ConnectionId, total: int, began_ms: int, *, changed_every: int | None = None
) -> Iterator[Batch]:
    """Map the pages of a read that began at `began_ms` (Unix milliseconds), as many as one transaction takes."""
    reading = Reading(connection_id, Source.API, began_ms)
    for start in range(0, total, _ROWS_PER_TRANSACTION):
        batch: list[RecordChange] = []
        for number in range(start, min(total, start + _ROWS_PER_TRANSACTION)):
            is_changed = changed_every is not None and number % changed_every == 0
            batch += appointment_changes(reading, _listed(number, milliseconds(_MODIFIED) + is_changed))
        yield batch


def _listed(number: int, version_ms: int) -> Fields:
    return Fields("Appointment", orjson.loads(appointment_webhook(number, version_ms=version_ms))["Appointment"])


def _writing(*, reads_in_order: bool = False) -> Sweep:
    writer = RecordWriter(bench_keyring())

    async def write(session: Session, batch: Batch) -> None:
        changes = [EventChange(None, change) for change in batch]
        await writer.write(session, changes, utc_now(), reads_in_order=reads_in_order)

    return write


def _upserting() -> Sweep:
    ways: tuple[tuple[RecordKind, RecordTable, str], ...] = (
        (RecordKind.PATIENT, PatientTable(), _UPSERT_CLIENTS),
        (RecordKind.APPOINTMENT, AppointmentTable(), _UPSERT),
    )

    async def upsert(session: Session, batch: Batch) -> None:
        for kind, table, statement in ways:
            # No statement may write a row twice.
            latest = {c.entity.external_id: c for c in batch if isinstance(c, Upsert) and c.entity.kind is kind}
            rows = [_row(table, change) for change in latest.values()]
            await session.execute(statement, json_rows(rows), utc_now())

    return upsert


def _row(table: RecordTable, change: Upsert) -> dict[str, object]:
    state = RecordState(Held(change.version, change.content), seen_ms=change.version.read_began_ms)
    return shared_columns(change.entity, state) | table.columns(change.entity, state)


_SWEEPS: dict[str, Callable[[], Sweep]] = {
    "eventsync": partial(_writing, reads_in_order=True),
    "merge": _writing,
    "upsert": _upserting,
}

if __name__ == "__main__":
    contend(work, ["sweep"])
