"""What a naive consumer does with one event: reads it, maps it with our mapping, upserts the appointment."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from bench.practice import Practice, bench_keyring
from eventsync.domain.changes import Upsert
from eventsync.domain.events import received_at_of
from eventsync.domain.records import Appointment, RecordKind, field_names, patient_id_of, record_id_of
from eventsync.domain.webhooks import WebhookContext, WebhookReading
from eventsync.postgres.database import Database
from eventsync.postgres.record_rows import moment
from eventsync.vendors import load_vendors
from eventsync.wiring import utc_now

_READ = "SELECT headers_sealed, body_sealed FROM events WHERE received_at = $1 AND id = $2"
UPSERT = """
INSERT INTO appointments AS a (
    id, connection_id, external_id, patient_id, version, source_version, content_hash, changed_at, created_at,
    updated_at, applied_event_id, status, vendor_status, start_time, end_time, duration_minutes, client_external_id,
    practitioner_external_id, practitioner_name, service_external_id, service_name, location_external_id, location_name,
    location_type, meeting_url, price, cancellation_reason, booked_by_client, vendor_created_at, details)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
        $23, $24, $25, $26, $27, $28)
ON CONFLICT (connection_id, external_id) DO UPDATE SET
    patient_id = excluded.patient_id, version = excluded.version, source_version = excluded.source_version,
    content_hash = excluded.content_hash, changed_at = excluded.changed_at, updated_at = excluded.updated_at,
    applied_event_id = excluded.applied_event_id, status = excluded.status, vendor_status = excluded.vendor_status,
    start_time = excluded.start_time, end_time = excluded.end_time, duration_minutes = excluded.duration_minutes,
    client_external_id = excluded.client_external_id,
    practitioner_external_id = excluded.practitioner_external_id, practitioner_name = excluded.practitioner_name,
    service_external_id = excluded.service_external_id, service_name = excluded.service_name,
    location_external_id = excluded.location_external_id, location_name = excluded.location_name,
    location_type = excluded.location_type, meeting_url = excluded.meeting_url, price = excluded.price,
    cancellation_reason = excluded.cancellation_reason, booked_by_client = excluded.booked_by_client,
    vendor_created_at = excluded.vendor_created_at, details = excluded.details
WHERE a.version < excluded.version
"""


class PlainUpsert:
    """Applies one event at a time; safe to call from several tasks, each with a connection of the pool."""

    def __init__(self, database: Database, practice: Practice) -> None:
        self._database = database
        self._keyring = bench_keyring()
        self._vendor = load_vendors()["intakeq"]
        self._context = WebhookContext(practice.connection_id, None)

    async def apply(self, event_id: UUID) -> None:
        """Read, map and upsert; each statement commits by itself."""
        async with self._database.session() as session:
            row = await session.fetchrow(_READ, received_at_of(event_id), event_id)
            await session.execute(UPSERT, *values(event_id, self._reading(event_id, row)))

    def _reading(self, event_id: UUID, row: Any) -> WebhookReading:
        context = f"event:{event_id}"
        headers = dict(orjson.loads(self._keyring.open(row["headers_sealed"], context)))
        return self._vendor.read_webhook(self._keyring.open(row["body_sealed"], context), headers, self._context)


def values(event_id: UUID, reading: WebhookReading) -> list[Any]:
    """Write the arguments of UPSERT for the appointment that a webhook tells of."""
    (change,) = (each for each in reading.changes if isinstance(each, Upsert) and _is_appointment(each))
    ref, version, content = change.entity, change.version, change.content
    if not isinstance(content, Appointment):
        raise TypeError("the specimens are appointments")
    client = content.client_external_id
    fields: dict[str, Any] = {name: getattr(content, name) for name in field_names(Appointment)}
    fields["details"] = orjson.dumps(content.details).decode()
    return [
        record_id_of(ref.connection_id, ref.kind, ref.external_id),
        ref.connection_id,
        ref.external_id,
        None if client is None else patient_id_of(ref.connection_id, client),
        version.to_bytes(),
        moment(version.position),
        version.content_hash,
        utc_now(),
        event_id,
        *fields.values(),
    ]


def _is_appointment(change: Upsert) -> bool:
    return change.entity.kind is RecordKind.APPOINTMENT
