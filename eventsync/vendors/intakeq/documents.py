"""IntakeQ's invoices, intakes and notes in our words: what finds them, and the whole object to be sealed. Pure.

An invoice carries its modification time and comes whole from every source. Intakes and notes carry none: their
position is a sequence number of the entity's own, and a list only summarizes them.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b

import orjson

from eventsync.domain.changes import Delete, EntityRef, Summary, Upsert
from eventsync.domain.connections import ConnectionId
from eventsync.domain.fields import MAX_NAME_CHARS, Fields, canonical
from eventsync.domain.records import Document, RecordKind
from eventsync.vendors.intakeq.mapping import Reading, required_id, required_position

_INTAKE_PASSWORD = "Password"  # noqa: S105  # a field's name: it opens the client's form, and is not ours to keep


def invoice_change(reading: Reading, fields: Fields) -> Upsert:
    """Read one invoice (IntakeQ Invoice API, article 385). Its ClientId is a GUID that no other object knows."""
    number = fields.text("Number", MAX_NAME_CHARS)
    content = Document(
        status=fields.text("Status", MAX_NAME_CHARS),
        title=None if number is None else f"Invoice {number}",
        client_external_id=fields.identifier("ClientIdNumber"),
        document_time=fields.moment("IssuedDate") or fields.moment("DateCreated"),
        content=_canonical_json(fields),
    )
    version = reading.version(required_position(fields, "LastModified"), content)
    return Upsert(reading.entity(RecordKind.INVOICE, required_id(fields)), version, content)


def intake_change(reading: Reading, fields: Fields, *, sequence: int) -> Upsert:
    """Read one full intake (IntakeQ Questionnaire API, article 31)."""
    content = Document(
        status=fields.text("Status", MAX_NAME_CHARS),
        title=fields.text("QuestionnaireName", MAX_NAME_CHARS),
        client_external_id=fields.identifier("ClientId"),
        document_time=_intake_time(fields),
        content=_canonical_json(fields),
    )
    return Upsert(reading.entity(RecordKind.INTAKE, required_id(fields)), reading.version(sequence, content), content)


def note_change(reading: Reading, fields: Fields, *, sequence: int) -> Upsert:
    """Read one full note (IntakeQ Notes API, article 342)."""
    content = Document(
        status=fields.text("Status", MAX_NAME_CHARS),
        title=fields.text("NoteName", MAX_NAME_CHARS),
        client_external_id=fields.identifier("ClientId"),
        document_time=fields.moment("Date"),
        content=_canonical_json(fields),
    )
    return Upsert(reading.entity(RecordKind.NOTE, required_id(fields)), reading.version(sequence, content), content)


def deleted_document(reading: Reading, entity: EntityRef, *, sequence: int) -> Delete:
    """Say that an intake or a note is gone: the read that `sequence` was taken for did not find it."""
    return Delete(entity, reading.version(sequence, None, deleted=True))


def document_summary(connection_id: ConnectionId, kind: RecordKind, fields: Fields) -> Summary:
    """Read one row of a list of intakes or notes. Raises Rejected."""
    return Summary(
        entity=EntityRef(connection_id, kind, required_id(fields)),
        status=fields.text("Status", MAX_NAME_CHARS),
        at=_intake_time(fields) if kind is RecordKind.INTAKE else fields.moment("Date"),
        is_finished=kind is RecordKind.NOTE or fields.moment("DateSubmitted") is not None,
        fingerprint=blake2b(_canonical_json(fields), digest_size=16).digest(),
    )


def _intake_time(fields: Fields) -> datetime | None:
    return fields.moment("DateSubmitted") or fields.moment("DateCreated")


def _canonical_json(fields: Fields) -> bytes:
    kept = {key: value for key, value in fields.values.items() if key != _INTAKE_PASSWORD}
    return orjson.dumps(canonical(kept), option=orjson.OPT_SORT_KEYS)
